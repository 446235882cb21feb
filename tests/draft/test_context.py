from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.draft.context import (
    MAX_GAP,
    MAX_MATCH,
    ORDERS,
    ContextIndex,
)
from sssd_local.draft.tree import TokenSource

PROMPT, OUTPUT = TokenSource.PROMPT, TokenSource.OUTPUT
UNLIMITED = 10**6

tokens = st.integers(0, 3) | st.integers(0, 40_000)
texts = st.lists(st.integers(0, 3), max_size=90) | st.lists(tokens, max_size=60)


class Naive(NamedTuple):
    size: int
    times: int


def common_suffix(left: list[int], right: list[int], limit: int) -> int:
    size = 0
    while size < min(len(left), len(right), limit) and left[-1 - size] == right[-1 - size]:
        size += 1
    return size


def naive_followers(history: list[int], path: list[int]) -> dict[int, Naive]:
    text = history + path
    found: dict[int, Naive] = {}
    # Only occurrences that end in the history are looked up; their next token may be drafted.
    for end in range(1, min(len(history), len(text) - 1) + 1):
        before, token = text[:end], text[end]
        size = common_suffix(before, text, MAX_MATCH)
        if size == 0:
            continue
        old = found.get(token)
        if old is None:
            found[token] = Naive(size, 1)
        else:
            found[token] = Naive(max(size, old.size), old.times + 1)
    return found


def look_up(index: ContextIndex, path: list[int]) -> dict[int, Naive]:
    recent = path[::-1] + index.recent()
    found = index.followers(recent[: MAX_MATCH + 1 + MAX_GAP], len(path), UNLIMITED)
    assert sum(item.count for item in found.items) == sum(found.totals)
    assert found.end == len(index) + len(path) - 1
    return {item.token: Naive(item.size, item.count) for item in found.items}


def same_tables(left: ContextIndex, right: ContextIndex) -> bool:
    return (
        np.array_equal(left.history(), right.history())
        and left.origins[: len(left)].tolist() == right.origins[: len(right)].tolist()
        and all(
            left.links[level][: len(left)].tolist() == right.links[level][: len(right)].tolist()
            for level in range(len(ORDERS))
        )
        and all(np.array_equal(a, b) for a, b in zip(left.heads, right.heads, strict=True))
    )


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(st.integers(0, 3), max_size=6))
def test_followers_equal_a_naive_search(history: list[int], path: list[int]) -> None:
    index = ContextIndex(16)
    for token in history:
        index.append(token, OUTPUT)
    if history:
        assert look_up(index, path) == naive_followers(history, path)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "extend", "truncate", "reset"]), texts), max_size=8
    )
)
def test_any_changes_leave_the_same_tables_as_building_anew(
    changes: list[tuple[str, list[int]]],
) -> None:
    index, text, origins = ContextIndex(4096), list[int](), list[TokenSource]()
    for kind, block in changes:
        if kind == "append":
            for token in block:
                index.append(token, OUTPUT)
            text, origins = text + block, origins + [OUTPUT] * len(block)
        elif kind == "extend":
            index.extend(np.array(block, np.int32), PROMPT)
            text, origins = text + block, origins + [PROMPT] * len(block)
        elif kind == "truncate":
            index.truncate(len(block))
            text, origins = text[: len(block)], origins[: len(block)]
        else:
            index.reset()
            text, origins = [], []
    anew = ContextIndex(4096)
    for token, origin in zip(text, origins, strict=True):
        anew.append(token, origin)
    assert same_tables(index, anew)


def test_growth_keeps_every_match_and_reset_gives_memory_back() -> None:
    index = ContextIndex(16)
    index.extend([1, 2, 3, 4], PROMPT)
    small = index.nbytes
    index.extend(np.arange(10, 20_010, dtype=np.int32), PROMPT)
    for token in (1, 2, 3):
        index.append(token, OUTPUT)
    assert look_up(index, []) == {4: Naive(3, 1)}
    index.reset()
    assert index.nbytes == small
    assert len(index) == 0
    assert index.recent() == []


def test_a_token_costs_at_most_64_bytes() -> None:
    index = ContextIndex()
    for size in (20_000, 50_000, 66_000, 131_073):
        index.extend(np.zeros(size - len(index), np.int32) + np.arange(size - len(index)), PROMPT)
        assert index.nbytes <= 64 * len(index)


def test_longest_and_newest_evidence_comes_first() -> None:
    index = ContextIndex()
    index.extend([1, 2, 3, 10, 9, 3, 11, 2, 3, 12, 1, 2, 3], OUTPUT)
    found = index.followers(index.recent(), 0, UNLIMITED)
    assert [(item.token, item.size, item.position) for item in found.items] == [
        (12, 2, 8),
        (10, 3, 2),
        (11, 1, 5),
    ]
    assert found.totals == [1, 2, 0, 0]


def test_the_gap_counts_agreement_past_one_difference() -> None:
    index = ContextIndex()
    index.extend([1, 2, 3, 4, 5, 9, 1, 2, 3, 8, 5], OUTPUT)
    (item,) = index.followers(index.recent(), 0, UNLIMITED).items
    assert (item.token, item.size, item.gap) == (9, 1, 3)


def test_a_period_is_copied_past_the_end_of_the_history() -> None:
    index = ContextIndex()
    index.extend([7, 5, 6, 5], OUTPUT)
    (item,) = index.followers([6, *index.recent()], 1, UNLIMITED).items
    assert (item.token, item.size) == (5, 2)
    found = index.followers([5, 6, *index.recent()], 2, UNLIMITED)
    assert {item.token: item.size for item in found.items} == {6: 3}


def test_effort_bounds_the_search() -> None:
    index = ContextIndex()
    index.extend([3] * 1000, OUTPUT)
    found = index.followers(index.recent(), 0, 20)
    assert sum(found.totals) <= 20
    assert index.followers(index.recent(), 0, 0).items == []


@pytest.mark.parametrize("length", [0, 1, 5, 100])
def test_truncate_to_any_length(length: int) -> None:
    index = ContextIndex()
    index.extend([1, 2, 3, 1, 2], OUTPUT)
    index.truncate(length)
    assert index.history().tolist() == [1, 2, 3, 1, 2][:length]
