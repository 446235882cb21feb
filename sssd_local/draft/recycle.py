"""The model's own runner-up tokens, taken from logits that were computed anyway.

Every verified position tells which tokens the model held likely there, not only the one it took.
They are looked up again by the last two tokens or, where these are new, by the last one: the
idea of token recycling (arXiv 2408.08696), keyed by bigrams first.
"""

from __future__ import annotations

import numpy as np

from sssd_local.draft.source import Named
from sssd_local.draft.tree import Int32Array, TokenSource

TOP_K = 8
NUM_SLOTS = 1 << 15
# What pads a row that has fewer runner-ups.
NO_TOKEN = -1
_EMPTY = -1
_GOLDEN = 0x9E3779B1
_SHIFT = 32 - 15
_WORD = 0xFFFFFFFF


class Recycled:
    """Runner-ups by context: two tables of NUM_SLOTS rows, of which the newer of two keeps a slot.

    `keys` int64 [slots] holds the tokens of the context, so that a row is never taken for
    another's; `rows` int32 [slots, TOP_K] the runner-ups, the likeliest first.
    """

    kind = TokenSource.RECYCLE

    def __init__(self) -> None:
        self._keys = [np.full(NUM_SLOTS, _EMPTY, np.int64) for _ in range(2)]
        self._rows = [np.full((NUM_SLOTS, TOP_K), NO_TOKEN, np.int32) for _ in range(2)]
        # Scalar access through a memoryview costs a third of numpy's.
        self._key_views = [keys.data for keys in self._keys]
        self._held = False

    def __len__(self) -> int:
        """1 if anything is held."""
        return int(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes held by both tables."""
        return sum(keys.nbytes for keys in self._keys) + sum(rows.nbytes for rows in self._rows)

    def learn(self, before: int, last: int, runner_ups: Int32Array) -> None:
        """Takes in a row's most likely tokens, int32 [≤ TOP_K], after two tokens.

        `before` is -1 where the context has only one token; NO_TOKEN pads the row.
        """
        row = runner_ups[:TOP_K]
        if not len(row) or row[0] < 0:
            return
        self._held = True
        for level, key in enumerate(_keys(before, last)):
            slot = _slot(key)
            self._key_views[level][slot] = key
            rows = self._rows[level]
            rows[slot, : len(row)] = row
            rows[slot, len(row) :] = NO_TOKEN

    def named(self, recent: list[int]) -> list[Named]:
        """The runner-ups after a context (newest token first), with their rank as `others`."""
        before = recent[1] if len(recent) > 1 else NO_TOKEN
        for level, key in enumerate(_keys(before, recent[0])):
            slot = _slot(key)
            if self._key_views[level][slot] == key:
                tokens: list[int] = self._rows[level][slot].tolist()
                return [
                    Named(token, 2 - level, 1, rank, -1)
                    for rank, token in enumerate(tokens)
                    if token >= 0
                ]
        return []

    def reset(self) -> None:
        """Forgets everything."""
        for keys in self._keys:
            keys.fill(_EMPTY)
        self._held = False


def _keys(before: int, last: int) -> tuple[int, int]:
    return ((before + 1) << 31) | last, last


def _slot(key: int) -> int:
    return (((key ^ (key >> 31) * 0x85EBCA6B) & _WORD) * _GOLDEN & _WORD) >> _SHIFT
