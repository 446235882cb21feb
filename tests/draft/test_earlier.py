from __future__ import annotations

import numpy as np
import pytest

from sssd_local.draft.earlier import LEAST_TOKENS, MAX_TOKENS, EarlierText
from sssd_local.draft.source import Named
from sssd_local.draft.tree import Int32Array, TokenSource


def text(start: int, size: int = LEAST_TOKENS) -> Int32Array:
    return np.arange(start, start + size, dtype=np.int32)


def test_what_followed_a_context_in_an_earlier_text_is_named() -> None:
    earlier = EarlierText()
    earlier.add(text(100))
    earlier.add(text(200))
    assert earlier.named([102, 101, 100], 24) == [Named(103, 3, 1, 0, 2)]
    assert earlier.named([201], 24) == [Named(202, 1, 1, 0, LEAST_TOKENS + 2)]
    assert earlier.named([5], 24) == []
    assert earlier.kind is TokenSource.EARLIER


def test_evidence_counts_what_followed_instead() -> None:
    earlier = EarlierText()
    earlier.add(np.array([1, 2, 3, 9, 9, 1, 2, 4, 9, 1, 2, 4], np.int32))
    found = {item.token: item for item in earlier.named([2, 1, 7], 24)}
    assert found[4] == Named(4, 2, 2, 1, 10)
    assert found[3] == Named(3, 2, 1, 2, 1)


def test_a_text_ends_where_it_ends() -> None:
    earlier = EarlierText()
    earlier.add(text(100))
    earlier.add(text(200))
    assert earlier.named([100 + LEAST_TOKENS - 1], 24) == []
    assert earlier.named([200 + LEAST_TOKENS - 1], 24) == []


def test_short_remains_are_dropped() -> None:
    earlier = EarlierText()
    earlier.add(text(100, LEAST_TOKENS - 1))
    assert len(earlier) == 0


@pytest.mark.parametrize("size", [8, 20, 63, 64, 200])
def test_the_oldest_texts_go_first(size: int) -> None:
    earlier = EarlierText(max_tokens=64)
    for number in range(20):
        earlier.add(text(1000 * number, size))
        assert len(earlier) <= 64
        last = 1000 * number + size - 1
        assert [item.token for item in earlier.named([last - 1, last - 2], 24)] == [last]
    assert earlier.named([2, 1], 24) == []


def test_as_much_is_held_as_is_said_in_little_memory() -> None:
    earlier = EarlierText()
    for number in range(70):
        earlier.add(text(1000 * number, 1000))
    assert MAX_TOKENS // 2 < len(earlier) <= MAX_TOKENS
    assert earlier.index.nbytes <= 64 * MAX_TOKENS


def test_everything_is_forgotten() -> None:
    earlier = EarlierText()
    earlier.add(text(100))
    earlier.reset()
    assert len(earlier) == 0
    assert earlier.named([101, 100], 24) == []
