"""What a source of draft tokens offers beside the context's own n-gram tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sssd_local.draft.tree import Int32Array, TokenSource


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that followed a suffix, most frequent first.

    `counts[i]` of the `total` occurrences looked at were followed by `tokens[i]`; the suffix
    matched over `match_length` tokens.
    """

    tokens: Sequence[int]
    counts: Sequence[int]
    total: int
    match_length: int


NO_CANDIDATES = Candidates((), (), 0, 0)


class Source(Protocol):
    """A store of text that knows what followed a suffix (datastore, memory, recycled tokens)."""

    @property
    def kind(self) -> TokenSource:
        """How its tokens are reported, and whose odds its evidence is counted under."""

    def extend(self, tokens: Int32Array) -> None:
        """Takes in new tokens of the running answer."""

    def candidates(self, suffix: list[int]) -> Candidates:
        """What followed `suffix` (newest token first, drafted tokens included)."""

    def reset(self) -> None:
        """Forgets what belongs to the running conversation; what was stored stays."""
