"""Looking up contexts in stored texts, against a search through plain lists."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.datastore import (
    ENOUGH,
    MAX_CONTINUATION,
    MAX_MATCH,
    MAX_TOKENS,
    SAMPLES,
    Datastore,
    Segment,
)
from sssd_local.draft.source import NO_CANDIDATES
from sssd_local.draft.tree import TokenSource
from tests.store.stores import NUM_VOCAB, Texts, followers, segment_of

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=5)


def store_of(*segments: Texts, num_vocab: int = NUM_VOCAB) -> Datastore:
    return Datastore([segment_of(texts, num_vocab) for texts in segments], num_vocab, name="notes")


def ask(store: Datastore, *context: int) -> list[tuple[int, int]]:
    found = store.candidates(list(context)[::-1])
    return list(zip(found.tokens, found.counts, strict=True))


def test_it_is_a_source_of_its_kind() -> None:
    store = Datastore([], 5)
    assert store.kind is TokenSource.DATASTORE
    assert Datastore([], 5, kind=TokenSource.MEMORY).kind is TokenSource.MEMORY
    store.extend(np.array([1, 2], np.int32))
    store.reset()
    assert store.candidates([1]) is NO_CANDIDATES
    assert (store.num_tokens, NO_CANDIDATES.tokens) == (0, ())


def test_the_longest_end_of_the_context_decides() -> None:
    store = store_of([[1, 2, 3, 4], [9, 2, 3, 5], [9, 2, 3, 5]])
    assert ask(store, 1, 2, 3) == [(4, 1)]
    assert ask(store, 9, 2, 3) == [(5, 2)]
    assert ask(store, 7, 2, 3) == [(5, 2), (4, 1)]
    found = store.candidates([3, 2, 7])
    assert (found.total, found.match_length) == (3, 2)
    assert store.candidates([8]) is NO_CANDIDATES
    assert store.candidates([]) is NO_CANDIDATES


def test_nothing_crosses_a_border_between_texts() -> None:
    store = store_of([[1, 2], [3, 4]])
    assert ask(store, 2) == []
    assert ask(store, 1, 2, 3) == [(4, 1)]
    assert store.candidates([3, 2, 1]).match_length == 1
    (position,) = store.candidates([1]).positions
    assert store.continuation(position) == [2]


def test_shorter_matches_follow_until_enough_was_seen() -> None:
    store = store_of([[1, 2, 3], *[[2, 4]] * 3, *[[5, 2, 6]] * ENOUGH])
    levels = list(store.matches([2, 1]))
    assert [level.match_length for level in levels] == [2, 1]
    assert levels[0].tokens == [3]
    assert dict(zip(levels[1].tokens, levels[1].counts, strict=True)) == {3: 1, 4: 3, 6: ENOUGH}
    assert [level.match_length for level in store.matches([2, 5])] == [2]


def test_segments_are_counted_together_and_the_newer_goes_first() -> None:
    store = store_of([[1, 2, 7]], [[1, 2, 8]])
    assert ask(store, 1, 2) == [(8, 1), (7, 1)]
    assert store.candidates([2, 1]).total == 2
    only_old = store_of([[3, 1, 2, 7]], [[1, 2, 8]])
    assert ask(only_old, 3, 1, 2) == [(7, 1)]
    both = [level.tokens for level in only_old.matches([2, 1, 3])]
    assert both == [[7], [8, 7]]


def test_a_tied_newer_follower_goes_first() -> None:
    assert ask(store_of([[1, 5], [1, 6]]), 1) == [(6, 1), (5, 1)]


def test_the_most_frequent_and_the_newest_are_both_there() -> None:
    texts = [[1, token] for token in range(10, 40) for _ in range(2)] + [[1, 2]]
    found = store_of(texts).candidates([1])
    assert len(found.tokens) == MAX_TOKENS
    assert found.tokens[:-1] == [39, 38, 37, 36, 35, 34, 33]
    assert found.tokens[-1] == 2
    assert list(found.counts) == [2] * 7 + [1]


def test_many_occurrences_are_sampled_evenly() -> None:
    texts = [[1, 7] if index % 4 else [1, 8] for index in range(1000)] + [[1, 9]]
    found = store_of(texts).candidates([1])
    assert SAMPLES // 2 < found.total <= SAMPLES + 1
    assert found.tokens[0] == 7
    assert set(found.tokens) == {7, 8, 9}
    share = found.counts[0] / found.total
    assert 0.6 < share < 0.9


def test_continuations_are_long_and_stay_within_their_text() -> None:
    store = store_of([[141, 142]], [list(range(100)), [143, 144, 145]], num_vocab=150)
    (position,) = store.candidates([1, 0]).positions
    assert store.continuation(position)[:3] == [2, 3, 4]
    assert len(store.continuation(position)) == MAX_CONTINUATION
    assert store.continuation(position, 3) == [2, 3, 4]
    (position,) = store.candidates([143]).positions
    assert store.continuation(position) == [144, 145]
    assert store.continuation(10**9) == []


def test_matches_end_at_their_greatest_length() -> None:
    text = list(range(48))
    found = store_of([text]).candidates(text[:40][::-1])
    assert (found.match_length, found.tokens) == (MAX_MATCH, [40])


@pytest.mark.parametrize("num_vocab", [65_535, 65_536, 70_000, 128_256])
def test_large_token_ids_are_right(num_vocab: int) -> None:
    high = num_vocab - 1
    store = store_of([[32_768, 40_000, high, 0, 32_767]], num_vocab=num_vocab)
    assert ask(store, 32_768, 40_000) == [(high, 1)]
    assert ask(store, high) == [(0, 1)]
    assert ask(store, num_vocab) == []
    assert ask(store, -1) == []
    assert store.candidates([0, high]).tokens == [32_767]


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(st.integers(0, 3), max_size=8))
def test_look_ups_find_what_a_search_finds(segments: list[Texts], context: list[int]) -> None:
    store = store_of(*segments, num_vocab=4)
    expected = followers([text for texts in segments for text in texts], context)
    found = store.candidates(context[::-1])
    longest = max(expected, default=0)
    assert found.match_length == longest
    counts = Counter(dict(zip(found.tokens, found.counts, strict=True)))
    assert counts == expected.get(longest, Counter())
    for level in store.matches(context[::-1]):
        assert level.total == sum(expected[level.match_length].values())
        for token, position in zip(level.tokens, level.positions, strict=True):
            assert store.continuation(position, 1) == [token]


def damaged(tokens: list[int], order: list[int], num_vocab: int = 4) -> Datastore:
    segment = Segment(np.array(tokens, np.uint16), np.array(order, np.uint32))
    return Datastore([segment, segment_of([[1, 2]], num_vocab)], num_vocab, name="notes")


@pytest.mark.parametrize(
    ("tokens", "order"),
    [
        ([4, 1, 2, 4], [900]),
        ([4, 1, 9, 4], [1]),
        ([4, 1, 2, 1], [1, 3]),
    ],
)
def test_a_damaged_segment_is_left_aside_with_one_warning(
    tokens: list[int], order: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    store = damaged(tokens, order)
    with caplog.at_level(logging.WARNING, "sssd_local"):
        for _ in range(3):
            assert ask(store, 1) == [(2, 1)]
    (record,) = caplog.records
    assert "sssd-local datastore verify notes" in record.getMessage()
    assert store.num_tokens == 4


def test_a_continuation_of_damaged_tokens_stays_in_the_vocabulary() -> None:
    store = damaged([4, 1, 2, 60_000, 3, 4], [1])
    assert store.continuation(0) == [1, 2]
