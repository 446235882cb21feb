"""Text of earlier prompts and answers in this process that is no longer part of the context."""

from __future__ import annotations

import numpy as np

from sssd_local.draft.context import ContextIndex
from sssd_local.draft.source import Named
from sssd_local.draft.tree import Int32Array, TokenSource

MAX_TOKENS = 65_536
# Shorter remains are not worth a search.
LEAST_TOKENS = 8
# Stands between texts and matches nothing.
SEPARATOR = -1


class EarlierText:
    """Texts one after another, searched as the context is; beyond MAX_TOKENS the oldest go."""

    kind = TokenSource.EARLIER

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        """Holds at most `max_tokens` tokens, separators counted."""
        self._max_tokens = max_tokens
        self.index = ContextIndex()

    def __len__(self) -> int:
        return len(self.index)

    def add(self, tokens: Int32Array) -> None:
        """Takes in a text, int32 [n]; of one that is too long, the end."""
        if len(tokens) < LEAST_TOKENS:
            return
        text = np.append(tokens[-(self._max_tokens - 1) :], np.int32(SEPARATOR)).astype(np.int32)
        if len(self.index) + len(text) > self._max_tokens:
            # Half is dropped at once, so that the tables are seldom built anew.
            room = max(0, self._max_tokens // 2 - len(text))
            kept = self.index.history()[len(self.index) - min(room, len(self.index)) :].copy()
            self.index.reset()
            self.index.extend(kept, self.kind)
        self.index.extend(text, self.kind)

    def named(self, recent: list[int], effort: int) -> list[Named]:
        """The tokens that followed a context (newest token first), longest matches first."""
        found = self.index.followers(recent, 0, effort)
        reached, sums = 0, [0] * len(found.totals)
        for level in range(len(sums) - 1, -1, -1):
            reached += found.totals[level]
            sums[level] = reached
        return [
            Named(
                item.token,
                item.size,
                item.level_count,
                sums[item.level] - item.level_count,
                item.position,
            )
            for item in found.items
        ]

    def reset(self) -> None:
        """Forgets everything."""
        self.index.reset()
