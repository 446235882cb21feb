from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.growth import LEAST_GAIN
from sssd_local.draft.source import Candidates
from sssd_local.draft.tree import DraftTree, Int32Array, TokenSource

FLAT = np.ones(64)
STEEP = np.arange(1.0, 65.0)


def tokens(*ids: int) -> Int32Array:
    return np.array(ids, np.int32)


def num_leaves(tree: DraftTree) -> int:
    return len(set(range(len(tree))) - set(tree.parents.tolist()))


def conditional_sums(tree: DraftTree) -> list[float]:
    sums: dict[int, float] = {}
    for parent, prob in zip(tree.parents.tolist(), tree.probs.tolist(), strict=True):
        above = 1.0 if parent < 0 else float(tree.probs[parent])
        sums[parent] = sums.get(parent, 0.0) + prob / above
    return list(sums.values())


def path_of(tree: DraftTree, answer: list[int]) -> list[int]:
    path: list[int] = []
    for node in range(len(tree)):
        parent = path[-1] if path else -1
        inside = len(path) < len(answer) - 1 and tree.parents[node] == parent
        if inside and tree.tokens[node] == answer[len(path)]:
            path.append(node)
    return path


@dataclass
class Fixed:
    """A source that always names the same tokens."""

    kind: TokenSource = TokenSource.DATASTORE
    found: Candidates = field(default_factory=lambda: Candidates((77, 78), (9, 1), 10, 2))
    taken: list[int] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)

    def extend(self, new: Int32Array) -> None:
        self.taken += new.tolist()

    def matches(self, suffix: list[int]) -> Iterator[Candidates]:
        if suffix[0] != 77:
            yield self.found

    def continuation(self, position: int) -> list[int]:
        return self.rest[position:]

    def reset(self) -> None:
        self.taken.clear()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.integers(1, 63),
    st.integers(1, 12),
    st.integers(1, 8),
    st.lists(st.floats(0.1, 8.0), min_size=64, max_size=64),
)
def test_trees_are_well_formed_whatever_comes(
    prompt: list[int],
    answer: list[int],
    max_nodes: int,
    max_depth: int,
    max_leaves: int,
    costs: list[float],
) -> None:
    drafter = Drafter(Calibration(), max_leaves=max_leaves)
    drafter.sync(tokens(*prompt))
    position = 0
    while position < len(answer):
        tree = drafter.draft(np.array(costs), max_nodes, max_depth)
        assert tree.check() == ""
        assert len(tree) <= max_nodes
        assert tree.depths.max(initial=0) <= max_depth
        assert num_leaves(tree) <= max_leaves
        assert all(total < 1.0 + 1e-5 for total in conditional_sums(tree))
        path = path_of(tree, answer[position:])
        accepted = answer[position : position + len(path) + 1]
        drafter.observe(tree, path, accepted)
        position += len(accepted)
    assert drafter.context.history().tolist() == prompt + answer


def test_a_long_copy_is_drafted_to_its_end() -> None:
    text = list(range(100, 200))
    drafter = Drafter(Calibration())
    drafter.sync(tokens(*text, 5, *text[:20]))
    tree = drafter.draft(FLAT, 63, 100)
    best = [int(tree.tokens[node]) for node in range(len(tree))]
    assert best == text[20:83]
    assert tree.parents.tolist() == list(range(-1, 62))
    assert set(tree.sources.tolist()) == {TokenSource.PROMPT}
    assert tree.probs[0] > 0.8


def written(drafter: Drafter, answer: list[int]) -> list[int]:
    """Lets the drafter see an answer; how many tokens each step brought."""
    steps, position = [], 0
    while position < len(answer):
        tree = drafter.draft(FLAT, 63, 100)
        path = path_of(tree, answer[position:])
        accepted = answer[position : position + len(path) + 1]
        drafter.observe(tree, path, accepted)
        position += len(accepted)
        steps.append(len(accepted))
    return steps


def test_a_name_replaced_twice_is_replaced_in_the_whole_draft() -> None:
    line = [
        token for number in range(12) for token in (5, *range(100 + 10 * number, 110 + 10 * number))
    ]
    answer = [6 if token == 5 else token for token in line]
    drafter = Drafter(Calibration())
    drafter.sync(tokens(*line, 1, *line[:12]))
    steps = written(drafter, answer[12:])
    assert drafter.context.history().tolist()[-len(answer) + 12 :] == answer[12:]
    # One step until the first is seen, then a little more, then whole drafts.
    assert len(steps) <= 6
    assert max(steps) > 40


def test_steps_that_drafted_nothing_are_followed_too() -> None:
    text = list(range(100, 160))
    drafter = Drafter(Calibration())
    drafter.sync(tokens(*text, 1, *text[:10]))
    assert written(drafter, text[10:12]) == [2]
    drafter.extend(tokens(*text[12:30], 7))
    assert drafter.alignment.expects_return
    tree = drafter.draft(FLAT, 63, 100)
    assert tree.tokens[:1].tolist() == [131]
    drafter.sync(tokens(*text))
    assert drafter.alignment.is_idle


def test_no_evidence_no_draft() -> None:
    drafter = Drafter(Calibration())
    assert len(drafter.draft(FLAT, 63, 10)) == 0
    drafter.sync(tokens(1, 2, 3))
    assert len(drafter.draft(FLAT, 63, 10)) == 0
    assert drafter.root_candidates() == ([], [])


def test_growth_stops_where_nothing_can_pay() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(*range(50), *range(25)))
    assert len(drafter.draft(STEEP, 63, 63)) == 0
    assert len(drafter.root_candidates()[0]) == 1
    cliff = np.array([1.0, 1.1, 1.2, 1.3, *[1e6] * 60])
    assert 3 <= len(drafter.draft(cliff, 63, 63)) <= 4
    assert len(drafter.draft(np.array([1.0, LEAST_GAIN]), 63, 63)) == 1


@pytest.mark.parametrize(
    ("max_nodes", "max_depth", "expected"), [(0, 9, 0), (9, 0, 0), (9, 3, 3), (2, 9, 2)]
)
def test_limits_are_kept(max_nodes: int, max_depth: int, expected: int) -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(*range(50), *range(25)))
    assert len(drafter.draft(FLAT, max_nodes, max_depth)) == expected


def test_every_candidate_under_root_and_accepted_nodes_is_learned_from() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(1, 2, 3, 9, 1, 2, 4, 9, 1))
    tree = drafter.draft(FLAT, 63, 5)
    before = dict(zip(*drafter.root_candidates(), strict=True))
    assert set(before) == {2}
    path = path_of(tree, [2, 3, 0])
    assert len(path) == 2
    drafter.observe(tree, path, [2, 3, 0])
    drafter.sync(tokens(1, 2, 3, 9, 1, 2, 4, 9, 1))
    drafter.draft(FLAT, 63, 5)
    after = dict(zip(*drafter.root_candidates(), strict=True))
    assert after[2] > before[2]


def test_wrong_candidates_lose_though_nothing_was_tested() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(1, 2, 9, 1))
    tree = drafter.draft(FLAT, 63, 1)
    before = drafter.root_candidates()[1]
    drafter.observe(tree.prefix(0), [], [5])
    drafter.sync(tokens(1, 2, 9, 1))
    drafter.draft(FLAT, 63, 1)
    assert drafter.root_candidates()[1] < before


def test_sync_keeps_what_is_shared_and_marks_where_tokens_came_from() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(1, 2, 3))
    drafter.observe(drafter.draft(FLAT, 0, 0), [], [4])
    drafter.observe(drafter.draft(FLAT, 0, 0), [], [5])
    drafter.sync(tokens(1, 2, 3, 4, 6, 7), 5)
    assert drafter.context.history().tolist() == [1, 2, 3, 4, 6, 7]
    prompt, output = TokenSource.PROMPT, TokenSource.OUTPUT
    origins = drafter.context.origins[:6].tolist()
    assert origins == [prompt, prompt, prompt, output, prompt, output]
    drafter.sync(tokens(1, 2))
    assert drafter.context.history().tolist() == [1, 2]
    drafter.reset()
    assert len(drafter.context) == 0


def test_other_sources_add_candidates_and_strengthen_shared_ones() -> None:
    alone = Drafter(Calibration())
    source = Fixed()
    joined = Drafter(Calibration(), sources=[source])
    for drafter in (alone, joined):
        drafter.sync(tokens(3, 77, 4, 3))
        drafter.draft(FLAT, 63, 2)
    lonely = dict(zip(*alone.root_candidates(), strict=True))
    both = dict(zip(*joined.root_candidates(), strict=True))
    assert set(lonely) == {77}
    assert set(both) == {77, 78}
    assert both[77] / (1 - sum(both.values())) > lonely[77] / (1 - lonely[77])
    tree = joined.draft(FLAT, 63, 1)
    assert tree.check() == ""
    named = dict(zip(tree.tokens.tolist(), tree.sources.tolist(), strict=True))
    assert named == {77: TokenSource.PROMPT, 78: TokenSource.DATASTORE}
    joined.observe(tree, [], [6])
    assert source.taken == [3, 77, 4, 3, 6]
    joined.reset()
    assert source.taken == []


def test_observe_refuses_a_path_that_does_not_fit_its_tokens() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(1, 2, 1))
    tree = drafter.draft(FLAT, 4, 4)
    with pytest.raises(ValueError, match="1 accepted nodes need 2 tokens"):
        drafter.observe(tree, [0], [2])
    assert len(drafter.context) == 3


@pytest.mark.parametrize("limits", [{"max_nodes": 0}, {"max_nodes": 1025}, {"max_leaves": 0}])
def test_impossible_limits_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_nodes must be"):
        Drafter(Calibration(), **limits)  # type: ignore[arg-type]


def test_dropped_text_stays_usable_until_forgotten() -> None:
    drafter, text = Drafter(Calibration()), list(range(100, 160))
    drafter.sync(tokens(*text))
    drafter.sync(tokens(*text[:3], 7, 8, *text[20:30]))
    tree = drafter.draft(FLAT, 63, 63)
    assert tree.tokens[:25].tolist() == text[30:55]
    assert set(tree.sources[:25].tolist()) == {TokenSource.EARLIER}
    assert tree.check() == ""
    assert drafter.wants_runner_ups
    drafter.forget()
    assert len(drafter.draft(FLAT, 63, 63)) == 0
    assert drafter.context.history().tolist() == [*text[:3], 7, 8, *text[20:30]]


def test_a_beginning_of_dropped_text_is_found_after_what_led_to_it() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(1, 2, 3, *range(50, 60)))
    drafter.sync(tokens(1, 2, 3))
    assert drafter.draft(FLAT, 63, 63).tokens[:10].tolist() == list(range(50, 60))


def test_nothing_is_kept_where_it_is_not_wanted() -> None:
    drafter = Drafter(Calibration(), keep_earlier=False, recycle=False)
    drafter.sync(tokens(*range(100, 160)))
    drafter.sync(tokens(5, *range(120, 130)))
    rows = np.array([[9, 8]], np.int32)
    drafter.observe(drafter.draft(FLAT, 63, 63), [], [130], rows)
    assert len(drafter.draft(FLAT, 63, 63)) == 0
    assert not drafter.wants_runner_ups
    drafter.forget()


def test_runner_ups_are_drafted_where_their_context_comes_again() -> None:
    drafter = Drafter(Calibration())
    drafter.sync(tokens(1, 2))
    drafter.observe(drafter.draft(FLAT, 0, 0), [], [3], np.array([[3, 4, 5]], np.int32))
    drafter.observe(drafter.draft(FLAT, 0, 0), [], [9], np.array([[6, -1, -1]], np.int32))
    drafter.sync(tokens(8, 1, 2))
    tree = drafter.draft(FLAT, 63, 2)
    at_root = tree.tokens[tree.parents == -1].tolist()
    assert set(at_root) == {3, 4, 5}
    below = {int(token) for token, depth in zip(tree.tokens, tree.depths, strict=True) if depth > 1}
    assert below == {6}
    assert set(tree.sources.tolist()) == {TokenSource.RECYCLE}
    drafter.reset()
    drafter.sync(tokens(8, 1, 2))
    assert len(drafter.draft(FLAT, 63, 2)) == 0


def test_runner_ups_are_wanted_where_they_can_pay() -> None:
    drafter = Drafter(Calibration())
    assert not drafter.wants_runner_ups
    drafter.sync(tokens(1, 2))
    for costs, wanted in ((FLAT, True), (STEEP, False), (np.array([1.0, 1.1, 1.2]), True)):
        drafter.draft(costs, 63, 5)
        assert drafter.wants_runner_ups is wanted
    drafter.draft(FLAT, 0, 5)
    assert not drafter.wants_runner_ups
    with pytest.raises(ValueError, match="1 rows have runner-ups, got 2"):
        drafter.observe(drafter.draft(FLAT, 0, 0), [], [3], np.zeros((2, 8), np.int32))


def test_a_store_is_copied_on_from() -> None:
    text = list(range(200, 260))
    found = Candidates((77,), (9,), 9, 32, (0,))
    drafter = Drafter(Calibration(), sources=[Fixed(found=found, rest=[77, *text])])
    drafter.sync(tokens(3))
    tree = drafter.draft(FLAT, 40, 40)
    assert tree.tokens.tolist() == [77, *text[:39]]
    assert set(tree.sources.tolist()) == {TokenSource.DATASTORE}


def test_steps_without_drafts_are_taken_in_together() -> None:
    source = Fixed()
    drafter = Drafter(Calibration(), sources=[source])
    drafter.sync(tokens(1, 2))
    drafter.extend(tokens(3, 1))
    assert drafter.context.history().tolist() == [1, 2, 3, 1]
    assert source.taken == [1, 2, 3, 1]
    assert drafter.context.origins[3] == TokenSource.OUTPUT


def test_answers_of_a_temperature_learn_their_own_odds() -> None:
    drafter, text = Drafter(Calibration()), tokens(1, 2, 9, 1)
    drafter.sync(text)
    for _ in range(3):
        drafter.observe(drafter.draft(FLAT, 63, 1).prefix(0), [], [5])
        drafter.sync(text, temperature=1.5)
    drafter.sync(text, temperature=0.0)
    drafter.draft(FLAT, 63, 1)
    greedy = drafter.root_candidates()[1]
    drafter.sync(text, temperature=1.5)
    drafter.draft(FLAT, 63, 1)
    assert drafter.root_candidates()[1] < greedy
