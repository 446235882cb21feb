"""What to do when the context is full: make a shorter history that ends the same.

A maker of room gets the history in the cache (int32 [n]) and how many of its last tokens the
answer has written, and returns the history to go on with, or None to stop the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from sssd_local.chat.session import AnyMessage, ChatSession, count_system
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


def plan_chat(
    session: ChatSession, messages: Sequence[AnyMessage], ctx: int, how: str, num_bos: int
) -> tuple[Int32Array, MakeRoom]:
    """A conversation's tokens, without its oldest turns where it must, and its maker of room.

    `how` is the option `overflow`. Raises ContextFullError.
    """
    if how == "stop":
        session.left_out = []
        return np.array(session.encode(messages), np.int32), stop
    kept = fit_turns(session, messages, ctx)
    tokens = np.array(session.encode(kept), np.int32)
    if how == "drop-oldest":
        return tokens, drop_turns(session, kept, ctx)
    return tokens, shift(system_length(session, kept, tokens, num_bos))


def system_length(
    session: ChatSession, messages: Sequence[AnyMessage], tokens: Int32Array, otherwise: int
) -> int:
    """How many first tokens of a conversation (int32 [n]) are its system message.

    `otherwise` where it has none.
    """
    if not messages or messages[0].get("role") != "system":
        return otherwise
    first = [dict(messages[0]), {"role": "user", "content": "\ufffd"}]
    probe = np.array(session.tokenize(session.render(first)), np.int32)
    size = min(len(probe), len(tokens))
    differs = np.flatnonzero(probe[:size] != tokens[:size])
    return int(differs[0]) if len(differs) else size


def fit_turns(session: ChatSession, messages: Sequence[AnyMessage], ctx: int) -> list[AnyMessage]:
    """A conversation that fits into `ctx` tokens: all of it, or without its oldest turns.

    What was left out of the conversation before stays out as long as that suffices, so that the
    beginning stays the same and with it the cache. Raises ContextFullError.
    """
    before, session.left_out = session.left_out, []
    if session.count(messages) < ctx:
        return list(messages)
    start = count_system(messages)
    end = start + len(before)
    if before and list(messages[start:end]) == before:
        shorter = [*messages[:start], *messages[end:]]
        if session.count(shorter) < ctx:
            session.left_out = before
            return shorter
    return _leave_out(session, messages, ctx)


def _leave_out(
    session: ChatSession, messages: Sequence[AnyMessage], ctx: int, num_written: int = 0
) -> list[AnyMessage]:
    """Without the oldest turns, so that a quarter of the context is free, or what can be.

    Each time costs the evaluation of all that stays; so it shall not be needed again soon.
    """
    for spare in (ctx // 4, ctx // 16 + 1):
        with suppress(ContextFullError):
            return session.fit(messages, ctx - num_written - spare)[0]
    return session.fit(messages, ctx - num_written - 1)[0]


def drop_turns(session: ChatSession, messages: Sequence[AnyMessage], ctx: int) -> MakeRoom:
    """Leaves out whole turns, oldest first, so that a quarter of the context is free again."""
    remaining = list(messages)

    def make_room(history: Int32Array, num_written: int) -> Int32Array | None:
        try:
            shorter = _leave_out(session, remaining, ctx, num_written)
        except ContextFullError:
            return None
        if len(shorter) == len(remaining):
            return None
        remaining[:] = shorter
        written = history[len(history) - num_written :]
        return np.concatenate((np.array(session.encode(remaining), np.int32), written))

    return make_room
