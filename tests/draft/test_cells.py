from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.alignment import AFTER, BEFORE, IN_PLACE, Return
from sssd_local.draft.cells import (
    ALIGNMENT_TABLES,
    CONTEXT_TABLES,
    FIRST_HELPER,
    HELPER_TABLES,
    KEPT_TABLES,
    MAX_AGE,
    MAX_COUNT,
    NUM_EVIDENCE,
    NUM_HELPERS,
    NUM_WEIGHTS,
    OFFSETS,
    TABLE_SIZES,
    against_cells,
    also_cells,
    context_cells,
    only_cells,
    replaced_cells,
    return_also_cells,
    return_cells,
    rewrite_cells,
    run_cells,
)
from sssd_local.draft.context import MAX_GAP, MAX_MATCH, Follower, Followers
from sssd_local.draft.source import Named
from sssd_local.draft.tree import TokenSource

HELPERS = [kind for kind in TokenSource if kind >= FIRST_HELPER]
EVIDENCE = st.tuples(
    st.sampled_from(HELPERS),
    st.integers(1, MAX_MATCH),
    st.integers(1, MAX_COUNT),
    st.integers(0, MAX_COUNT),
    st.integers(0, MAX_COUNT),
    st.integers(0, MAX_MATCH),
)


def table_of(cell: int) -> str:
    return max((name for name in OFFSETS if OFFSETS[name] <= cell), key=OFFSETS.__getitem__)


def part_of(cell: int) -> TokenSource:
    """The source whose part of its table a cell is in."""
    name = table_of(cell)
    size = TABLE_SIZES[name] // NUM_HELPERS
    return TokenSource(FIRST_HELPER + (cell - OFFSETS[name]) // size)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 200_000),
            st.integers(0, 10**6),
            st.integers(1, MAX_MATCH),
            st.integers(0, MAX_GAP),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=24,
    ),
    st.integers(0, 200_000),
)
def test_every_candidate_selects_one_cell_of_each_table(
    items: list[tuple[int, int, int, int, int]], last_token: int
) -> None:
    followers = [Follower(*item) for item in items]
    totals = [sum(item.level == level for item in followers) for level in range(4)]
    end = max(item.position for item in followers) + 1
    cells = context_cells(Followers(followers, totals, end), last_token)
    expected = ["agreement", "gap", "rank", "loose", "rival", "age"]
    assert len(expected) == NUM_EVIDENCE
    for row in cells:
        names = [table_of(cell) for cell in row]
        assert names == [*expected, "last", "token", "pair", "answer"]
        assert all(cell < NUM_WEIGHTS for cell in row)


def test_evidence_is_told_apart() -> None:
    def cells(*items: Follower, end: int = 10) -> tuple[int, ...]:
        totals = [0, 0, 0, 0]
        for item in items:
            totals[item.level] += item.level_count
        rows = context_cells(Followers(list(items), totals, end), 7)
        return rows[0][:NUM_EVIDENCE]

    plain = cells(Follower(5, 1, 2, 0, 1))
    assert plain == cells(Follower(6, 1, 2, 0, 1))
    assert plain != cells(Follower(5, 1, 3, 0, 1))
    assert plain != cells(Follower(5, 1, 2, 1, 1))
    assert plain != cells(Follower(5, 1, 2, 0, 1), end=MAX_AGE + 50)
    assert plain != cells(Follower(5, 1, 2, 0, 1), Follower(6, 0, 2, 0, 1))


@given(EVIDENCE)
def test_every_helper_selects_cells_of_its_own(
    evidence: tuple[TokenSource, int, int, int, int, int],
) -> None:
    kind, size, times, others, rank, longest = evidence
    named = Named(5, size, times, others, -1)
    only = only_cells(kind, named, rank, longest, 7)
    names = ["only", "only_rank", "only_rival", "trust", "last", "token", "pair"]
    assert [table_of(cell) for cell in only] == names
    also = also_cells(kind, named, longest)
    assert [table_of(cell) for cell in also] == ["also", "also_match"]
    against = against_cells(kind, size, longest)
    assert [table_of(cell) for cell in against] == ["against"]
    run = run_cells(kind, size, 7, 5)
    assert [table_of(cell) for cell in run] == ["copy", "last", "token", "pair", "answer"]
    assert {part_of(cell) for cell in (*only[:4], *also, *against, run[0])} == {kind}


@pytest.mark.parametrize("kind", [TokenSource.PROMPT, TokenSource.OUTPUT])
def test_copies_of_the_context_share_a_table(kind: TokenSource) -> None:
    assert table_of(run_cells(kind, 9, 7, 5)[0]) == "run"
    assert run_cells(kind, 9, 7, 5) == run_cells(TokenSource.PROMPT, 9, 7, 5)


def test_tables_lie_one_after_another() -> None:
    ends = [OFFSETS[name] + size for name, size in TABLE_SIZES.items()]
    assert list(OFFSETS.values()) == [0, *ends[:-1]]
    assert ends[-1] == NUM_WEIGHTS
    assert tuple(OFFSETS)[: len(KEPT_TABLES)] == KEPT_TABLES
    assert (*CONTEXT_TABLES, *ALIGNMENT_TABLES, *HELPER_TABLES) == KEPT_TABLES


@pytest.mark.parametrize("kind", [IN_PLACE, BEFORE, AFTER])
def test_each_kind_of_return_has_cells_of_its_own(kind: int) -> None:
    found = [
        Return(kind, [5], 3, written, seen, run)
        for written in (1, 2, 4, 5, 24)
        for seen in (False, True)
        for run in (4, 8, 15, 16, 900)
    ]
    alone = {return_cells(item, 7, 5)[0] for item in found}
    too = {return_also_cells(item)[0] for item in found}
    assert {table_of(cell) for cell in alone} == {"return"}
    assert {table_of(cell) for cell in too} == {"return_also"}
    # Four lengths of departure, seen or not, three lengths of run.
    assert len(alone) == len(too) == 4 * 2 * 3
    assert min(alone) - OFFSETS["return"] == kind * 24
    cells = return_cells(found[0], 7, 5)
    assert [table_of(cell) for cell in cells[1:]] == ["last", "token", "pair", "answer"]


def test_rewrites_have_cells_by_how_often_they_came_true() -> None:
    times = [(hits, misses) for hits in (1, 2, 4, 99) for misses in (0, 1, 3, 99)]
    new = [rewrite_cells(hits, misses, 9, 7, 5) for hits, misses in times]
    assert [table_of(cell) for cell in new[0]] == [
        "rewrite", "rewrite_match", "last", "token", "pair", "answer"
    ]  # fmt: skip
    assert len({cells[0] for cells in new}) == 12
    assert {table_of(replaced_cells(*item)[0]) for item in times} == {"replaced"}
    sizes = [rewrite_cells(1, 0, size, 7, 5)[1] for size in (0, 1, 32)]
    assert sizes == [OFFSETS["rewrite_match"] + at for at in (0, 1, 9)]


def test_what_is_copied_after_a_guess_counts_below_zero() -> None:
    for size in range(-MAX_MATCH, 0):
        cells = run_cells(TokenSource.PROMPT, size, 7, 5)
        assert table_of(cells[0]) == "return_run"
        assert cells[1:-1] == run_cells(TokenSource.PROMPT, -size, 7, 5)[1:-1]
        # How far guesses come true in this answer is learned apart.
        assert cells[-1] == return_cells(Return(0, [5], 3, 1, False, 8), 7, 5)[-1]
