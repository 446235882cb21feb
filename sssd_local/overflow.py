"""What to do when the context is full: make a shorter history that ends the same.

A maker of room gets the history in the cache (int32 [n]) and how many of its last tokens the
answer has written, and returns the history to go on with, or None to stop the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sssd_local.chat.session import ChatSession
from sssd_local.draft.tree import Int32Array
from sssd_local.errors import ContextFullError

MakeRoom = Callable[[Int32Array, int], Int32Array | None]


def stop(history: Int32Array, num_written: int) -> Int32Array | None:
    """The answer ends with the context."""
    return None


def shift(num_kept: int) -> MakeRoom:
    """Keeps the first `num_kept` tokens (BOS, system prompt), drops the older half of the rest."""

    def make_room(history: Int32Array, num_written: int) -> Int32Array | None:
        kept = min(num_kept, len(history) // 2)
        dropped = (len(history) - kept + 1) // 2
        if dropped < 1:
            return None
        return np.concatenate((history[:kept], history[kept + dropped :]))

    return make_room


def drop_turns(session: ChatSession, messages: Sequence[dict[str, str]], ctx: int) -> MakeRoom:
    """Leaves out whole turns, oldest first, so that a quarter of the context is free again."""
    remaining = list(messages)

    def make_room(history: Int32Array, num_written: int) -> Int32Array | None:
        written = history[len(history) - num_written :]
        for spare in (ctx // 4, ctx // 16, 1):
            try:
                shorter, num_dropped = session.fit(remaining, ctx - num_written - spare)
            except ContextFullError:
                continue
            if not num_dropped:
                return None
            remaining[:] = shorter
            prompt = np.array(session.encode(remaining), np.int32)
            return np.concatenate((prompt, written))
        return None

    return make_room
