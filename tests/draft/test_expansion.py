from __future__ import annotations

from sssd_local.draft.cells import OFFSETS
from sssd_local.draft.context import ContextIndex
from sssd_local.draft.expansion import Expansion, expand_context
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
