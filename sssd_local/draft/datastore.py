"""Reading a datastore: what followed a context in stored text, found in sorted positions."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.source import NO_CANDIDATES, Candidates
from sssd_local.draft.tree import Int32Array, TokenSource

TokenArray = NDArray[np.uint16] | NDArray[np.uint32]
OrderArray = NDArray[np.uint32]

MAX_MATCH = 32
MAX_CONTINUATION = 64
# Occurrences looked at of a context that has more, evenly spread over them.
SAMPLES = 64
MAX_TOKENS = 8
# Shorter matches are looked at until so many occurrences were seen.
ENOUGH = 8
# The newest occurrence is found exactly among so many.
MAX_SCAN = 4096
# Tokens whose occurrences are not searched again: at most some 2 MB.
MAX_KEPT = 8192

log = logging.getLogger("sssd_local")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Texts as tokens, and their positions sorted by what precedes them.

    `tokens` uint16 or uint32 [n]: a separator (the id `num_vocab`) first, and one after each text.
    `order` uint32 [m]: the positions of all tokens that are followed by a token, sorted by the
    tokens read backwards from there. Both may be memory maps.
    """

    tokens: TokenArray
    order: OrderArray


class Datastore:
    """A source of draft tokens that reads segments, the oldest first. It never learns.

    A segment found damaged on the way is left aside from then on, with one warning in the log.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        num_vocab: int,
        *,
        name: str = "",
        kind: TokenSource = TokenSource.DATASTORE,
    ) -> None:
        """`name` is how warnings call the store."""
        self.name = name
        self.num_vocab = num_vocab
        self._kind = kind
        self._readers: list[_Reader] = []
        self.read(segments)

    def read(self, segments: Sequence[Segment]) -> None:
        """Reads these segments from now on; positions told before mean nothing any more."""
        readers: list[_Reader] = []
        start = 0
        for segment in segments:
            readers.append(_Reader(segment, self.num_vocab, start))
            start += len(segment.tokens)
        self._readers = readers

    @property
    def kind(self) -> TokenSource:
        """Whose odds its evidence is counted under."""
        return self._kind

    @property
    def num_tokens(self) -> int:
        """Tokens in all readable segments, separators counted."""
        return sum(reader.size for reader in self._readers)

    def extend(self, tokens: Int32Array) -> None:
        """Does nothing: what is stored does not change."""

    def reset(self) -> None:
        """Does nothing: no part of it belongs to a conversation."""

    def candidates(self, suffix: list[int]) -> Candidates:
        """What followed the longest end of the context that is stored; newest token first."""
        return next(self.matches(suffix), NO_CANDIDATES)

    def matches(self, suffix: list[int]) -> Iterator[Candidates]:
        """What followed the longest stored end of the context, then shorter and shorter ones.

        Each is seen more often than the one before, whose occurrences are among its own. Ends once
        ENOUGH occurrences were looked at.
        """
        found = [(reader, self._ranges(reader, suffix)) for reader in tuple(self._readers)]
        lengths = {item.length for _, ranges in found for item in ranges}
        seen = 0
        for length in sorted(lengths, reverse=True):
            tally = _Tally()
            for reader, ranges in found:
                for item in ranges:
                    # The range of a length is that of the next longer one in the list.
                    if item.length >= length:
                        self._count(tally, reader, item)
                        break
            if tally.total > seen:
                seen = tally.total
                yield tally.result(length)
            if seen >= ENOUGH:
                return

    def continuation(self, position: int, max_tokens: int = MAX_CONTINUATION) -> list[int]:
        """The tokens after a place of `Candidates.positions`, to the end of its text."""
        for reader in self._readers:
            if reader.start <= position < reader.start + reader.size:
                return reader.read(position - reader.start + 1, max_tokens)
        return []

    def _ranges(self, reader: _Reader, suffix: list[int]) -> list[_Range]:
        try:
            return reader.ranges(suffix)
        except IndexError:
            self._set_aside(reader)
            return []

    def _count(self, tally: _Tally, reader: _Reader, found: _Range) -> None:
        try:
            tally.add(*reader.followers(found), reader.start)
        except IndexError:
            self._set_aside(reader)

    def _set_aside(self, reader: _Reader) -> None:
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        is_memory = self._kind is TokenSource.MEMORY
        name = "memory" if is_memory else f"datastore {self.name}"
        command = "memory verify" if is_memory else f"datastore verify {self.name}"
        log.warning(
            "the %s is damaged and a part of it is left aside; see what with `sssd-local %s`",
            name,
            command,
        )


@dataclass(slots=True)
class _Range:
    """Where in `order` the occurrences of the context's last `length` tokens are."""

    length: int
    low: int
    high: int


class _Reader:
    """Look-ups in one segment; IndexError where it is damaged."""

    def __init__(self, segment: Segment, num_vocab: int, start: int) -> None:
        self.start = start
        self.size = len(segment.tokens)
        self._num_vocab = num_vocab
        self._order, self._tokens = segment.order, segment.tokens
        # Single elements are read several times faster through a memoryview.
        self._order_view = segment.order.data
        self._token_view = segment.tokens.data
        self._found: dict[int, tuple[int, int]] = {}

    def ranges(self, suffix: list[int]) -> list[_Range]:
        """The occurrences of ever longer ends of the context, one range for each new set."""
        order, tokens = self._order_view, self._token_view
        low, high = self._first(suffix[0]) if suffix else (0, 0)
        if low == high:
            return []
        found = [_Range(1, low, high)]
        for back, token in enumerate(suffix[1:MAX_MATCH], 1):
            first = tokens[order[low] - back]
            last = tokens[order[high - 1] - back]
            if first == token == last:
                found[-1].length += 1
                continue
            # The separator is above all tokens and no context has it.
            if not first <= token <= last or token >= self._num_vocab:
                break
            if first != token:
                low = self._bisect(low, high, back, token)
            if last != token:
                high = self._gallop(low, high, back, token + 1)
            if low == high:
                break
            found.append(_Range(back + 1, low, high))
        return found

    def _first(self, token: int) -> tuple[int, int]:
        """The occurrences of a single token; the longest search, so what was found is kept."""
        found = self._found.get(token)
        if found is None:
            if not 0 <= token < self._num_vocab:
                return 0, 0
            low = self._bisect(0, len(self._order_view), 0, token)
            found = low, self._gallop(low, len(self._order_view), 0, token + 1)
            if len(self._found) == MAX_KEPT:
                self._found.clear()
            self._found[token] = found
        return found

    def _bisect(self, low: int, high: int, back: int, token: int) -> int:
        """The first place in low…high whose token `back` before the position is ≥ `token`."""
        tokens = self._token_view
        return bisect_left(
            self._order_view, token, low, high, key=lambda position: tokens[position - back]
        )

    def _gallop(self, low: int, high: int, back: int, token: int) -> int:
        """The same; quicker where the place is near `low`."""
        order, tokens = self._order_view, self._token_view
        step = 1
        while low + step < high and tokens[order[low + step] - back] < token:
            low += step
            step += step
        return self._bisect(low, min(low + step, high), back, token)

    def followers(self, found: _Range) -> tuple[list[int], list[int]]:
        """Tokens after occurrences, and these: all, or some evenly spread and the newest."""
        low, high = found.low, found.high
        step = -(-(high - low) // SAMPLES)
        places: list[int] = self._order_view[low:high:step].tolist()
        if step > 1 and high - low <= MAX_SCAN:
            places.append(int(self._order[low:high].max()))
        tokens = [self._token_view[place + 1] for place in places]
        if max(tokens) >= self._num_vocab:
            raise IndexError("a context is followed by no token")
        return tokens, places

    def read(self, position: int, max_tokens: int) -> list[int]:
        """Up to `max_tokens` tokens from a position on, within its text."""
        tokens: list[int] = self._tokens[position : position + max_tokens].tolist()
        for index, token in enumerate(tokens):
            if token >= self._num_vocab:
                return tokens[:index]
        return tokens


class _Tally:
    """Followers counted; segments are added oldest first."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self.total = 0

    def add(self, tokens: list[int], places: list[int], start: int) -> None:
        """Counts tokens, which stand after places from `start` on."""
        counts, newest = self._counts, self._newest
        self.total += len(tokens)
        for token, place in zip(tokens, places, strict=True):
            counts[token] = counts.get(token, 0) + 1
            position = start + place
            if position > newest.get(token, -1):
                newest[token] = position

    def result(self, length: int) -> Candidates:
        """The most frequent followers, the newer first where counts are equal.

        The newest of all is always among them.
        """
        counts, newest = self._counts, self._newest
        if not counts:
            return NO_CANDIDATES
        ranked = sorted([(-count, -newest[token], token) for token, count in counts.items()])
        tokens = [token for _, _, token in ranked]
        if len(tokens) > MAX_TOKENS:
            latest = max(newest, key=newest.__getitem__)
            tokens = tokens[:MAX_TOKENS]
            if latest not in tokens:
                tokens[-1] = latest
        return Candidates(
            tokens,
            [counts[token] for token in tokens],
            self.total,
            length,
            [newest[token] for token in tokens],
        )
