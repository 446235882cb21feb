"""The published settings: windows, scores and trees as the reference has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers_sssd import MOST_CHILDREN, WINDOW_TOKENS, PublishedDrafter, WindowTrie
from bench.published import COSTS
from sssd_local.draft.tree import DraftTree


def drafter(prompt: list[int], width: int = 32, max_leaves: int | None = None) -> PublishedDrafter:
    made = PublishedDrafter(width, max_leaves)
    made.sync(np.array(prompt, np.int32))
    return made


def draft(prompt: list[int], width: int = 32, max_leaves: int | None = None) -> DraftTree:
    return drafter(prompt, width, max_leaves).draft(COSTS, 63, 99)


def found(trie: WindowTrie, recent: list[int]) -> dict[int, dict[int, int]]:
    return {
        length: {token: child.count for token, child in node.children.items()}
        for length, node in trie.matches(recent)
    }


def test_every_suffix_that_was_seen_matches() -> None:
    trie = WindowTrie([1, 2, 3, 9, 2, 3, 8, 0, 0, 0])
    assert found(trie, [1, 2, 3]) == {3: {9: 1}, 2: {9: 1, 8: 1}, 1: {9: 1, 8: 1}}
    assert found(trie, [5, 3]) == {1: {9: 1, 8: 1}}
    assert found(trie, [5]) == {}


def test_the_last_prompt_tokens_and_new_output_wait_for_a_whole_window() -> None:
    trie = WindowTrie([1, 2, 3, 4])
    assert found(trie, [2]) == {}
    trie.extend([1, 2, 3, 1])
    assert found(trie, [2]) == {}
    trie.extend([7])
    # The window 2 3 4 1 2 3 1 7 is whole now, the one that begins with 3 is not.
    assert found(trie, [2]) == {1: {3: 1}}
    assert found(trie, [3]) == {}


def test_scores_fall_with_depth_by_match_length() -> None:
    tree = draft([5, 6, 7, 8, 0, 0, 0, 5])
    assert tree.tokens.tolist() == [6, 7, 8, 0, 0, 0, 5]
    assert tree.probs == pytest.approx([0.6 * 0.7**depth for depth in range(7)])
    made = drafter([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0])
    made.observe(made.draft(COSTS, 0, 0), [], [1, 2, 3, 4])
    four = made.draft(COSTS, 63, 99)
    assert four.tokens.tolist()[:4] == [5, 6, 7, 8]
    assert four.probs[:4] == pytest.approx([0.6] * 4)


def test_shares_of_occurrences_weigh() -> None:
    tree = draft([4, 1, 0, 4, 1, 0, 4, 2, 0, 0, 0, 4], width=3)
    assert tree.tokens.tolist()[0] == 1
    assert tree.probs[0] == pytest.approx(0.6 * 2 / 3)


def test_a_token_named_twice_is_one_node() -> None:
    tree = draft([1, 2, 3, 0, 9, 2, 3, 5, 0, 0, 0, 1, 2])
    roots = [token for token, parent in zip(tree.tokens, tree.parents, strict=True) if parent < 0]
    assert len(roots) == len(set(roots))
    assert tree.check() == ""


def test_width_depth_children_and_leaves_are_bounded() -> None:
    prompt = [token for number in range(10, 30) for token in (1, number)] + [0, 0, 0, 1]
    assert len(draft(prompt, width=8)) == 7
    tree = draft(prompt)
    assert (tree.parents == -1).sum() == MOST_CHILDREN
    assert drafter(prompt).draft(COSTS, 63, 1).depths.tolist() == [1] * MOST_CHILDREN
    narrow = draft(prompt, max_leaves=2)
    assert len(narrow) - len(set(narrow.parents.tolist()) - {-1}) == 2
    assert len(drafter(prompt).draft(COSTS, 2, 9)) == 2


def test_nothing_to_match_is_plain_decoding() -> None:
    assert len(draft([1, 2, 3, 4, 5])) == 0
    assert len(PublishedDrafter(8).draft(COSTS, 7, 9)) == 0
    assert len(drafter([1, 2, 0, 0, 0, 1]).draft(COSTS, 7, 0)) == 0


def test_the_same_history_keeps_the_tables_and_another_starts_anew() -> None:
    made = drafter([1, 2, 3, 4])
    tree = made.draft(COSTS, 7, 9)
    made.observe(tree, [], [1])
    made.observe(tree, [], [2, 3, 1, 7])
    trie = made._trie
    made.sync(np.array([1, 2, 3, 4, 1, 2, 3, 1, 7], np.int32))
    assert made._trie is trie
    made.sync(np.array([1, 2], np.int32))
    assert made._trie is not trie
    made.reset()
    assert len(made.draft(COSTS, 7, 9)) == 0


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.lists(st.integers(0, 4), max_size=30),
    st.sampled_from([2, 8, 32]),
)
def test_trees_are_well_formed(prompt: list[int], output: list[int], width: int) -> None:
    made = drafter(prompt, width, 8)
    for token in output:
        made.observe(made.draft(COSTS, 0, 0), [], [token])
    tree = made.draft(COSTS, width - 1, 6)
    assert tree.check() == ""
    assert len(tree) < width
    assert all(depth <= min(6, WINDOW_TOKENS - 1) for depth in tree.depths)
    assert len(tree) - len(set(tree.parents.tolist()) - {-1}) <= 8
