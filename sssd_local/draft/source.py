"""What a source of draft tokens offers beside the context's own n-gram tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sssd_local.draft.tree import Int32Array, TokenSource


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that followed a suffix, most frequent first.

    `counts[i]` of the `total` occurrences looked at were followed by `tokens[i]`; the suffix
    matched over `match_length` tokens. `positions[i]`, where there are any, is a place to copy on
    from: `tokens[i]` stands one further on.
    """

    tokens: Sequence[int]
    counts: Sequence[int]
    total: int
    match_length: int
    positions: Sequence[int] = ()


NO_CANDIDATES = Candidates((), (), 0, 0)


class Named(NamedTuple):
    """A token a source names, with the evidence of the longest match that names it.

    `times` occurrences were followed by it and `others` by other tokens; `position` is a place to
    copy on from, as in Candidates, -1 for none.
    """

    token: int
    size: int
    times: int
    others: int
    position: int


class Source(Protocol):
    """A store of text that knows what followed a suffix (datastore, memory)."""

    @property
    def kind(self) -> TokenSource:
        """How its tokens are reported, and whose odds its evidence is counted under."""

    def extend(self, tokens: Int32Array) -> None:
        """Takes in new tokens of the running answer."""

    def matches(self, suffix: list[int]) -> Iterator[Candidates]:
        """What followed the longest match of `suffix` (newest token first), then shorter ones."""

    def continuation(self, position: int) -> list[int]:
        """The tokens after one of the positions of its candidates."""

    def reset(self) -> None:
        """Forgets what belongs to the running conversation; what was stored stays."""


# Shorter matches of a source are looked at so often.
MAX_LEVELS = 3


def named(source: Source, suffix: list[int]) -> list[Named]:
    """The tokens a source names by its longest few matches, each by the longest naming it."""
    found: list[Named] = []
    seen: set[int] = set()
    for level, candidates in enumerate(source.matches(suffix)):
        size, total = candidates.match_length, candidates.total
        positions = candidates.positions or [-1] * len(candidates.tokens)
        for token, count, position in zip(
            candidates.tokens, candidates.counts, positions, strict=True
        ):
            if token not in seen:
                seen.add(token)
                found.append(Named(token, size, count, total - count, position))
        if level + 1 == MAX_LEVELS:
            break
    return found
