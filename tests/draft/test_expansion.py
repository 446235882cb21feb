from __future__ import annotations

from sssd_local.draft.alignment import Alignment
from sssd_local.draft.cells import OFFSETS
from sssd_local.draft.context import ContextIndex
from sssd_local.draft.expansion import GUESSED, Expansion, expand_context
from sssd_local.draft.source import Named
from sssd_local.draft.tree import TokenSource
from tests.draft.test_cells import table_of

EARLIER, RECYCLE = TokenSource.EARLIER, TokenSource.RECYCLE
BASE = 10


def expansion() -> tuple[ContextIndex, Expansion]:
    """After 1 2: 5 by both tokens and 6 by the last."""
    context = ContextIndex()
    context.extend([1, 2, 5, 9, 2, 6, 9, 1, 2], TokenSource.PROMPT)
    return context, expand_context(context, context.recent(), 0, 24)


def added(found: Expansion, index: int) -> list[str]:
    return [table_of(cell) for cell in found.cells[index][BASE:]]


def test_the_context_names_tokens_with_their_places() -> None:
    context, found = expansion()
    assert (found.tokens, found.positions, found.sizes) == ([5, 6], [2, 5], [2, 1])
    assert found.sources == [TokenSource.PROMPT] * 2
    assert all(text is context.tokens for text in found.texts)
    assert context.tokens[found.positions[0]] == 5


def test_another_source_adds_agrees_and_disagrees() -> None:
    _, found = expansion()
    text = [0, 0, 0, 5, 8]
    found.add(EARLIER, [Named(5, 2, 1, 1, 2), Named(8, 2, 1, 1, 3)], 2, text)
    assert found.tokens == [5, 6, 8]
    assert added(found, 0) == ["also", "also_match"]
    assert added(found, 1) == ["against"]
    names = ["only", "only_rank", "only_rival", "trust", "last", "token", "pair"]
    assert [table_of(cell) for cell in found.cells[2]] == names
    assert found.sources[2] == EARLIER
    # The context's own match is as long, so it is copied on from there.
    assert (found.positions, found.sizes) == ([2, 5, 4], [2, 1, 2])
    assert found.texts[2] is text


def test_the_longest_match_is_copied_on_from() -> None:
    _, found = expansion()
    text = list(range(9))
    found.add(EARLIER, [Named(6, 40, 1, 0, 7)], 2, text)
    assert (found.positions[1], found.sizes[1], found.sources[1]) == (8, 32, EARLIER)
    assert found.texts[1] is text


def test_without_a_place_there_is_nothing_to_copy() -> None:
    _, found = expansion()
    found.add(RECYCLE, [Named(5, 2, 1, 0, -1), Named(7, 2, 1, 1, -1)], 2, None)
    assert (found.positions, found.sizes) == ([2, 5, 0], [2, 1, 0])
    assert found.texts[2] is None
    before = list(found.cells)
    found.add(RECYCLE, [], 2, None)
    assert found.cells == before


def test_counts_beyond_the_tables_are_cut() -> None:
    _, found = expansion()
    crowd = [Named(100 + rank, 1, 999, 999, -1) for rank in range(80)]
    found.add(EARLIER, crowd, 2, None)
    assert all(cell < OFFSETS["pair"] + 4096 for cells in found.cells for cell in cells[:7])


def departed(*written: int) -> tuple[ContextIndex, Alignment]:
    """The passage 20…39 and 30 31 90 91, of which 20…29 were copied and then something else."""
    context = ContextIndex()
    context.extend([*range(20, 40), 30, 31, 90, 91], TokenSource.PROMPT)
    alignment = Alignment(context)
    for place, token in enumerate(range(20, 30)):
        alignment.take(token, place, place)
        context.append(token, TokenSource.OUTPUT)
    for token in written:
        alignment.take(token)
        context.append(token, TokenSource.OUTPUT)
    return context, alignment


def test_returns_are_candidates_with_the_text_they_go_on_with() -> None:
    context, alignment = departed(7)
    found = expand_context(context, context.recent(), 0, 24)
    assert found.tokens == []
    found.add_returns(alignment, context.origins, 7)
    assert found.tokens == [31, 30]
    assert [text[:3] for text in found.texts if isinstance(text, list)] == [
        [31, 32, 33], [30, 31, 32]
    ]  # fmt: skip
    assert (found.positions, found.sizes) == ([0, 0], [GUESSED] * 2)
    assert found.sources == [TokenSource.PROMPT] * 2
    assert [table_of(cell) for cell in found.cells[0]] == [
        "return",
        "last",
        "token",
        "pair",
        "answer",
    ]


def test_a_return_strengthens_what_the_context_names() -> None:
    context, alignment = departed(7, 31)
    found = expand_context(context, context.recent(), 0, 24)
    assert (found.tokens, found.sizes) == ([90, 32], [1, 1])
    found.add_returns(alignment, context.origins, 31)
    assert found.tokens == [90, 32]
    assert added(found, 0) == []
    assert added(found, 1) == ["return_also"]
    assert found.sizes == [1, GUESSED]
    assert isinstance(found.texts[1], list)
    assert found.texts[1][:2] == [32, 33]


def test_what_is_replaced_is_a_candidate_beside_what_replaces_it() -> None:
    context, alignment = departed(7, 31, 32, *range(33, 40))
    found = expand_context(context, context.recent(), 0, 24)
    assert found.tokens[0] == 30
    found.add_rewrite(alignment.rewrites, context.tokens, 39)
    assert found.tokens == [30, 7]
    assert added(found, 0) == ["replaced"]
    assert [table_of(cell) for cell in found.cells[1]] == [
        "rewrite", "rewrite_match", "last", "token", "pair", "answer"
    ]  # fmt: skip
    assert isinstance(found.texts[1], list)
    assert found.texts[1][:4] == [7, 31, 90, 91]
    again = len(found.cells[1])
    found.add_rewrite(alignment.rewrites, context.tokens, 39)
    assert found.tokens == [30, 7]
    assert [table_of(cell) for cell in found.cells[1][again:]] == ["rewrite", "rewrite_match"]


def test_only_what_the_context_names_is_replaced() -> None:
    _, alignment = departed(7, 31, 32)
    nothing = Expansion([], [], [], [], [], [])
    other = Expansion([5], [(0,)], [EARLIER], [[5, 6]], [0], [3])
    for found in (nothing, other):
        before = list(found.tokens)
        found.add_rewrite(alignment.rewrites, departed()[0].tokens, 32)
        assert found.tokens == before


def test_a_long_match_is_copied_on_from_though_a_rewrite_names_it() -> None:
    context, alignment = departed(7, 31, 32, *range(33, 40))
    found = expand_context(context, context.recent(), 0, 24)
    found.add(EARLIER, [Named(7, 12, 1, 0, 4)], 39, [0] * 9)
    found.add_rewrite(alignment.rewrites, context.tokens, 39)
    assert found.tokens == [30, 7]
    assert (found.sizes[1], found.positions[1]) == (12, 5)
