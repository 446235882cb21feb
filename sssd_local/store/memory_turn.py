"""What one answer added to its chat, cut out of the whole prompt it was asked with."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sssd_local.draft.tree import Int32Array, TokenSource
from sssd_local.stats import Stats

# A prompt that has the last so many tokens of the chat somewhere goes on with it.
TAIL = 32
# Tokens known before are kept again in front of a turn, so that its beginning can be found.
OVERLAP = 8


@dataclass(frozen=True, slots=True)
class Worth:
    """What memory was good for: tokens written, those of them drafted from it, time saved.

    `saved_ms` is the share of the time saved by speculation that memory's tokens have among all
    drafted ones, as estimated from the measured time of a one-token step.
    """

    answers: int = 0
    tokens: int = 0
    from_memory: int = 0
    saved_ms: float = 0.0

    def __add__(self, other: Worth) -> Worth:
        return Worth(
            self.answers + other.answers,
            self.tokens + other.tokens,
            self.from_memory + other.from_memory,
            self.saved_ms + other.saved_ms,
        )

    @property
    def share(self) -> float:
        """The part of all written tokens that memory drafted, 0 to 1."""
        return self.from_memory / self.tokens if self.tokens else 0.0

    @classmethod
    def of(cls, stats: Stats) -> Worth:
        """The worth of one answer."""
        from_memory = stats.by_source.get(TokenSource.MEMORY.label, 0)
        drafted = stats.tokens - stats.by_source.get(TokenSource.MODEL.label, 0)
        saved = 0.0
        if from_memory and stats.plain_ms is not None:
            saved = ((stats.tokens - 1) * stats.plain_ms - stats.ms) * from_memory / drafted
        return cls(1, stats.tokens, from_memory, saved)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """New text of a chat, int32 [n] for each run of it, and the time in seconds since 1970."""

    chat: str
    time: float
    texts: Sequence[Int32Array]
    worth: Worth = Worth()

    @property
    def num_tokens(self) -> int:
        """How many tokens it has."""
        return sum(map(len, self.texts))


class ChatCutter:
    """Follows chats through their prompts, and says what is new in each."""

    def __init__(self) -> None:
        self.chat = ""
        self._history = np.empty(0, np.int32)
        self._num_first = 0

    @property
    def history(self) -> Int32Array:
        """All of the chat up to the last answer, int32 [n]."""
        return self._history

    def goes_on(self, prompt: Int32Array) -> bool:
        """Whether a prompt, int32 [n], belongs to the chat before it."""
        return bool(self.chat) and (
            self._common(prompt) >= self._num_first or self._tail_end(prompt) > 0
        )

    def cut(self, prompt: Int32Array, answer: Int32Array) -> Int32Array:
        """The tokens that prompt and answer add; a prompt that does not go on begins a chat."""
        start = self._common(prompt)
        if self.goes_on(prompt):
            start = max(start, self._tail_end(prompt))
        else:
            self.chat = _new_name()
            self._num_first = len(prompt)
        self._history = np.concatenate([prompt, answer]).astype(np.int32)
        return self._history[max(0, start - OVERLAP) :]

    def end(self) -> None:
        """The next prompt begins a chat, whatever it says."""
        self.__init__()  # type: ignore[misc]

    def resume(self, tokens: Int32Array) -> None:
        """The next prompt begins a chat, of which what it shares with int32 [n] is not new."""
        self.end()
        self._history = np.asarray(tokens, np.int32)

    def _common(self, prompt: Int32Array) -> int:
        """How many first tokens are those of the chat."""
        size = min(len(prompt), len(self._history))
        differing = np.flatnonzero(prompt[:size] != self._history[:size])
        return int(differing[0]) if len(differing) else size

    def _tail_end(self, prompt: Int32Array) -> int:
        """Where in a prompt the chat's end ends, 0 for nowhere: its oldest turns may be gone."""
        if len(self._history) < TAIL or len(prompt) < TAIL:
            return 0
        same = (sliding_window_view(prompt, TAIL) == self._history[-TAIL:]).all(axis=1)
        places = np.flatnonzero(same)
        return int(places[-1]) + TAIL if len(places) else 0


def _new_name() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
