from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.recycle import NO_TOKEN, NUM_SLOTS, TOP_K, Recycled
from sssd_local.draft.source import Named
from sssd_local.draft.tree import Int32Array, TokenSource


def row(*ids: int) -> Int32Array:
    return np.array(ids, np.int32)


def names(found: list[Named]) -> list[tuple[int, int, int]]:
    return [(item.token, item.size, item.others) for item in found]


def test_runner_ups_come_back_by_the_last_two_tokens_or_by_the_last() -> None:
    recycled = Recycled()
    assert len(recycled) == 0
    recycled.learn(1, 2, row(7, 8, 9))
    recycled.learn(3, 2, row(5, 6))
    assert len(recycled) == 1
    assert names(recycled.named([2, 1])) == [(7, 2, 0), (8, 2, 1), (9, 2, 2)]
    # After another token the newest row of the last token serves.
    assert names(recycled.named([2, 4])) == [(5, 1, 0), (6, 1, 1)]
    assert names(recycled.named([2])) == [(5, 1, 0), (6, 1, 1)]
    assert recycled.named([1, 2]) == []
    assert all(item.times == 1 and item.position == -1 for item in recycled.named([2, 1]))
    assert recycled.kind is TokenSource.RECYCLE


def test_the_first_token_of_a_context_has_none_before_it() -> None:
    recycled = Recycled()
    recycled.learn(-1, 2, row(7))
    assert names(recycled.named([2])) == [(7, 2, 0)]
    assert names(recycled.named([2, 0])) == [(7, 1, 0)]


def test_rows_are_cut_and_padded() -> None:
    recycled = Recycled()
    recycled.learn(1, 2, np.arange(TOP_K + 4, dtype=np.int32))
    assert [item.token for item in recycled.named([2, 1])] == list(range(TOP_K))
    recycled.learn(1, 2, row(3, NO_TOKEN, NO_TOKEN))
    assert [item.token for item in recycled.named([2, 1])] == [3]
    recycled.learn(1, 2, row(NO_TOKEN))
    recycled.learn(1, 2, row())
    assert [item.token for item in recycled.named([2, 1])] == [3]


def test_everything_is_forgotten() -> None:
    recycled = Recycled()
    recycled.learn(1, 2, row(7))
    recycled.reset()
    assert len(recycled) == 0
    assert recycled.named([2, 1]) == []


def test_memory_is_bounded_and_the_newer_of_two_keeps_a_slot() -> None:
    recycled = Recycled()
    size = recycled.nbytes
    assert size == 2 * NUM_SLOTS * (8 + 4 * TOP_K) < 3 << 20
    for last in range(3 * NUM_SLOTS):
        recycled.learn(last % 7, last, row(last))
    assert recycled.nbytes == size
    newest = 3 * NUM_SLOTS - 1
    assert [item.token for item in recycled.named([newest, newest % 7])] == [newest]


@given(
    st.lists(
        st.tuples(
            st.integers(-1, 3),
            st.integers(0, 3),
            st.lists(st.integers(0, 9), min_size=1, max_size=TOP_K),
        ),
        max_size=30,
    )
)
def test_look_ups_are_those_of_two_dictionaries(rows: list[tuple[int, int, list[int]]]) -> None:
    recycled, pairs, singles = Recycled(), {}, {}
    for before, last, ids in rows:
        recycled.learn(before, last, row(*ids))
        pairs[before, last] = singles[last] = ids
    for before in range(4):
        for last in range(4):
            expected = pairs.get((before, last), singles.get(last, []))
            assert [item.token for item in recycled.named([last, before])] == expected
