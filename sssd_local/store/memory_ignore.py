"""Lines of a chat that are never kept, by what they say: keys and passwords above all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.tree import Int32Array
from sssd_local.errors import ConfigError

Piece = Callable[[int], bytes]


class IgnoredLines:
    """Cuts text apart where a line matches one of some regular expressions, anywhere in it.

    A line ends with a newline or a control token. False where there are no expressions.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises ConfigError for what is no regular expression."""
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def rest(self, text: Int32Array, start: int, piece: Piece) -> list[Int32Array]:
        """The runs of text[start:] that no ignored line has a part in.

        text: int32 [n]. The line at `start` is looked at from its beginning. `piece` gives the
        bytes of a token, none for control tokens.
        """
        first = start
        while first and not _ends_line(piece(int(text[first - 1]))):
            first -= 1
        # What ended the line before may have begun this one.
        first = max(0, first - 1)
        # A control token ends a line, and has no bytes that could.
        pieces = [piece(token) or b"\n" for token in text[first:].tolist()]
        ends = np.cumsum([len(part) for part in pieces])
        starts = ends - [len(part) for part in pieces]
        kept = np.ones(len(text), np.bool_)
        for begin, end in self._found(b"".join(pieces)):
            kept[first:] &= (ends <= begin) | (starts >= end)
        return _runs(text, np.flatnonzero(kept[start:]) + start)

    def _found(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where the ignored lines begin and end."""
        begin = 0
        for line in data.split(b"\n"):
            text = line.rstrip(b"\r").decode(errors="replace")
            if line and any(pattern.search(text) for pattern in self._patterns):
                yield begin, begin + len(line)
            begin += len(line) + 1


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error


def _ends_line(piece: bytes) -> bool:
    return not piece or b"\n" in piece


def _runs(text: Int32Array, places: NDArray[np.intp]) -> list[Int32Array]:
    """What is at some places, one array for each run of them."""
    breaks = np.flatnonzero(np.diff(places) > 1) + 1
    return [text[run[0] : run[-1] + 1] for run in np.split(places, breaks) if len(run)]
