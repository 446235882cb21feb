"""Making room keeps the end of a history and what must stay at its start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sssd_local import overflow
from sssd_local.errors import ContextFullError


def tokens(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int32)


def test_stop_makes_no_room() -> None:
    assert overflow.stop(tokens(10), 3) is None


@pytest.mark.parametrize(
    ("num_kept", "size", "expected"),
    [
        (0, 10, [5, 6, 7, 8, 9]),
        (2, 10, [0, 1, 6, 7, 8, 9]),
        (1, 4, [0, 3]),
        # A system prompt of nearly the whole context gives way.
        (9, 10, [0, 1, 2, 3, 4, 8, 9]),
        (0, 1, []),
    ],
)
def test_shift_keeps_the_start_and_the_newer_half(
    num_kept: int, size: int, expected: list[int]
) -> None:
    shorter = overflow.shift(num_kept)(tokens(size), 0)
    assert shorter is not None
    assert shorter.tolist() == expected


class FakeSession:
    """Ten tokens a message; the last one stays."""

    def __init__(self) -> None:
        self.left_out: list[Any] = []

    def count(self, messages: list[dict[str, str]]) -> int:
        return 10 * len(messages)

    def fit(self, messages: list[dict[str, str]], max_tokens: int) -> tuple[list[Any], int]:
        fitting = max_tokens // 10
        if fitting < 1:
            raise ContextFullError("too long")
        dropped = max(0, len(messages) - fitting)
        self.left_out += messages[:dropped]
        return messages[dropped:], dropped

    def encode(self, messages: list[dict[str, str]]) -> list[int]:
        return [int(message["content"]) for message in messages for _ in range(10)]


def numbered(*numbers: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": str(number)} for number in numbers]


def test_what_fits_is_all_kept() -> None:
    session: Any = FakeSession()
    session.left_out = numbered(1)
    assert overflow.fit_turns(session, numbered(1, 2, 3), 31) == numbered(1, 2, 3)
    assert session.left_out == []


def test_a_quarter_is_freed_and_stays_free_while_that_suffices() -> None:
    session: Any = FakeSession()
    ctx = 81
    starts = []
    for size in range(8, 20):
        messages = numbered(*range(size))
        kept = overflow.fit_turns(session, messages, ctx)
        assert kept == messages[len(session.left_out) :]
        starts.append(len(session.left_out))
    # Six messages are three quarters of the context, eight are all of it.
    assert starts == [0, *[3] * 3, *[6] * 3, *[9] * 3, 12, 12]


def test_another_conversation_starts_anew() -> None:
    session: Any = FakeSession()
    overflow.fit_turns(session, numbered(*range(9)), 81)
    other = numbered(*range(50, 59))
    assert overflow.fit_turns(session, other, 81) == other[3:]


def test_a_long_last_message_may_have_the_whole_context() -> None:
    session: Any = FakeSession()
    assert overflow.fit_turns(session, numbered(1, 2), 12) == numbered(2)
    with pytest.raises(ContextFullError):
        overflow.fit_turns(session, numbered(1, 2), 10)


def test_turns_are_dropped_and_the_answer_so_far_stays() -> None:
    session: Any = FakeSession()
    make_room = overflow.drop_turns(session, numbered(*range(100, 105)), 80)
    history = np.concatenate((np.zeros(50, np.int32), tokens(30)))
    shorter = make_room(history, 30)
    assert shorter is not None
    # 80 − 30 written − 20 spare leave room for three messages.
    assert shorter.tolist() == [*[102] * 10, *[103] * 10, *[104] * 10, *range(30)]
    again = make_room(np.concatenate((shorter, tokens(20))), 50)
    assert again is not None
    assert again.tolist()[:10] == [104] * 10
    assert make_room(np.concatenate((again, tokens(20))), 70) is None
