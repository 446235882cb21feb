"""N-gram tables over the prompt and the model's own output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.tree import Int32Array, TokenSource

UInt32Array = NDArray[np.uint32]

ORDERS = (1, 2, 4, 8)
MAX_MATCH = 32
MAX_GAP = 8
MAX_LOOK = MAX_MATCH + 1 + MAX_GAP
_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1
_MULTIPLIERS = (
    0x85EBCA6B,
    0xC2B2AE35,
    0x27D4EB2F,
    0x165667B1,
    0xD3A2646D,
    0xFD7046C5,
    0xB55A4F09,
    0x8DA6B343,
)


class Follower:
    """A token that followed the context before, and the best of its occurrences.

    `position` is the newest of the longest matches (the token itself is one further on), `size`
    its match length up to MAX_MATCH, `gap` how far it agrees again past one differing token,
    `level` the index in ORDERS of the table that found it; `count` counts all occurrences that
    predict the token, `level_count` those found at that level.
    """

    __slots__ = ("count", "gap", "level", "level_count", "position", "size", "token")

    def __init__(self, token: int, position: int, size: int, gap: int, level: int) -> None:
        self.token = token
        self.position = position
        self.size = size
        self.gap = gap
        self.level = level
        self.count = 1
        self.level_count = 1


@dataclass(frozen=True, slots=True)
class Followers:
    """All followers of a context, best evidence first.

    `totals[level]` counts the occurrences found at each level; `end` is the position of the
    context's last token, counted on through drafted tokens.
    """

    items: list[Follower]
    totals: list[int]
    end: int


class ContextIndex:
    """Where each token was followed by what, for contexts of 1, 2, 4 and 8 tokens and longer.

    `tokens` and `origins` hold the history. For each order, `heads` maps the hash of the last
    n-gram to its newest position and `links` leads from a position to the one before it with
    the same hash, like an LZ77 match finder. A hash is a hint: tokens are always compared.
    Popping a position restores `heads` from its link, so truncation is exact.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._minimum = max(16, capacity)
        self._allocate(self._minimum)
        self.length = 0

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes held by all tables."""
        tables = sum(table.nbytes for table in (*self._heads, *self._links))
        return self._tokens.nbytes + self._origins.nbytes + tables

    def history(self) -> Int32Array:
        """The tokens held, as a view of shape [length] that the next growth detaches."""
        return self._tokens[: self.length]

    def append(self, token: int, origin: TokenSource) -> None:
        """Takes in one token; it can be matched at once."""
        if self.length == len(self._tokens):
            self._grow(self.length + 1)
        position = self.length
        self.tokens[position] = token
        self.origins[position] = origin
        self.length = position + 1
        tokens, shift, total, done = self.tokens, self._shift, 0, 0
        for level, order in enumerate(ORDERS):
            if order > position + 1:
                self.links[level][position] = -1
                continue
            for back in range(done, order):
                total += tokens[position - back] * _MULTIPLIERS[back]
            done = order
            slot = ((total & _WORD) * _GOLDEN & _WORD) >> shift
            heads = self.heads[level]
            self.links[level][position] = heads[slot]
            heads[slot] = position

    def extend(self, tokens: Int32Array | Sequence[int], origin: TokenSource) -> None:
        """Takes in many tokens at once, faster per token than `append` from a few dozen on."""
        block = np.asarray(tokens, np.int32)
        if len(block) < 24:
            for token in block.tolist():
                self.append(token, origin)
            return
        first, end = self.length, self.length + len(block)
        if end > len(self._tokens):
            self._grow(end)
        self._tokens[first:end] = block
        self._origins[first:end] = origin
        self.length = end
        self._link(first, end)

    def truncate(self, length: int) -> None:
        """Forgets all tokens from `length` on, as if they had never been taken in."""
        first = max(0, length)
        for level, order in enumerate(ORDERS):
            low = max(first, order - 1)
            if low < self.length:
                slots = self._slots(level, low, self.length)
                # The last of several writes to a slot stands: that of the earliest position.
                self._heads[level][slots[::-1]] = self._links[level][low : self.length][::-1]
        self.length = min(first, self.length)

    def reset(self) -> None:
        """Forgets everything and gives grown memory back."""
        self.length = 0
        if len(self._tokens) > self._minimum:
            self._allocate(self._minimum)
            return
        for heads in self._heads:
            heads.fill(-1)

    def recent(self) -> list[int]:
        """The last tokens, newest first: what `followers` compares with."""
        first = max(0, self.length - MAX_LOOK)
        newest_last: list[int] = self._tokens[first : self.length].tolist()
        return newest_last[::-1]

    def followers(self, recent: list[int], ahead: int, effort: int) -> Followers:
        """What followed earlier occurrences of a context, longest contexts first, then newest.

        `recent` is the context, newest token first; its first `ahead` tokens are drafted, not yet
        in the history. `effort` bounds the links walked; a long comparison counts for several.
        """
        found: dict[int, Follower] = {}
        totals = [0] * len(ORDERS)
        tokens, last = self.tokens, self.length - 1
        size_limit = min(MAX_MATCH, len(recent))
        slots = self._recent_slots(recent)
        longer = MAX_MATCH + 1
        for level in range(len(slots) - 1, -1, -1):
            order = ORDERS[level]
            links = self.links[level]
            position = self.heads[level][slots[level]]
            if position == last and not ahead:
                position = links[position]
            while position >= 0 and effort > 0:
                reach = position + 1 if position < size_limit else size_limit
                size = 0
                while size < reach and tokens[position - size] == recent[size]:
                    size += 1
                effort -= 1 + (size >> 3)
                if order <= size < longer:
                    # Past the end of the history the copied text continues with the draft itself.
                    token = tokens[position + 1] if position < last else recent[ahead - 1]
                    if token < 0:
                        # The end of one of several texts.
                        position = links[position]
                        continue
                    totals[level] += 1
                    follower = found.get(token)
                    if follower is None:
                        gap = self._gap(recent, position, size)
                        found[token] = Follower(token, position, size, gap, level)
                    else:
                        if size > follower.size:
                            follower.position, follower.size = position, size
                            follower.gap = self._gap(recent, position, size)
                        follower.count += 1
                        if follower.level == level:
                            follower.level_count += 1
                position = links[position]
            longer = order
        return Followers(list(found.values()), totals, last + ahead)

    def _gap(self, recent: list[int], position: int, size: int) -> int:
        """How many tokens agree again before the one that ended the match, up to MAX_GAP."""
        if size >= MAX_MATCH:
            return 0
        start = size + 1
        end = min(len(recent), position + 1, start + MAX_GAP)
        step = start
        while step < end and self.tokens[position - step] == recent[step]:
            step += 1
        return max(0, step - start)

    def _recent_slots(self, recent: list[int]) -> list[int]:
        """Hash slot of each order's newest n-gram, as far as the context reaches."""
        slots: list[int] = []
        total, done, shift = 0, 0, self._shift
        for order in ORDERS:
            if order > len(recent):
                break
            total += sum(map(mul, recent[done:order], _MULTIPLIERS[done:order]))
            done = order
            slots.append(((total & _WORD) * _GOLDEN & _WORD) >> shift)
        return slots

    def _allocate(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._origins = np.zeros(capacity, np.uint8)
        self._links = [np.full(capacity, -1, np.int32) for _ in ORDERS]
        bits = max(13, capacity.bit_length() - 1)
        self._shift = 32 - bits
        self._heads = [np.full(1 << bits, -1, np.int32) for _ in ORDERS]
        # Scalar access through a memoryview costs a third of numpy's.
        self.tokens = self._tokens.data
        self.origins = self._origins.data
        self.links = [links.data for links in self._links]
        self.heads = [heads.data for heads in self._heads]

    def _grow(self, needed: int) -> None:
        tokens, origins = self._tokens, self._origins
        self._allocate(max(needed, len(tokens) + len(tokens) // 2))
        self._tokens[: self.length] = tokens[: self.length]
        self._origins[: self.length] = origins[: self.length]
        self._link(0, self.length)

    def _slots(self, level: int, first: int, end: int) -> UInt32Array:
        """Hash slots of the n-grams that end at first…end-1 (each at least order-1), uint32."""
        words = self._tokens.view(np.uint32)
        total = np.zeros(end - first, np.uint32)
        for back in range(ORDERS[level]):
            total += words[first - back : end - back] * np.uint32(_MULTIPLIERS[back])
        total *= np.uint32(_GOLDEN)
        total >>= np.uint32(self._shift)
        return total

    def _link(self, first: int, end: int) -> None:
        """Enters positions first…end-1 into the tables, in bulk."""
        for level, order in enumerate(ORDERS):
            links, heads = self._links[level], self._heads[level]
            low = max(first, order - 1)
            links[first:low] = -1
            if low >= end:
                continue
            # Sorting slot and position in one word groups equal hashes in order of position.
            keys = self._slots(level, low, end).astype(np.uint64) << np.uint64(32)
            keys |= np.arange(low, end, dtype=np.uint64)
            keys.sort()
            slots = (keys >> np.uint64(32)).astype(np.int64)
            positions = (keys & np.uint64(_WORD)).astype(np.int32)
            before = np.empty_like(positions)
            before[1:] = positions[:-1]
            fresh = np.ones(len(slots), np.bool_)
            fresh[1:] = slots[1:] != slots[:-1]
            before[fresh] = heads[slots[fresh]]
            links[positions] = before
            newest = np.ones(len(slots), np.bool_)
            newest[:-1] = fresh[1:]
            heads[slots[newest]] = positions[newest]
