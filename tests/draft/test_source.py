from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sssd_local.draft.source import MAX_LEVELS, Candidates, Named, named
from sssd_local.draft.tree import Int32Array, TokenSource


@dataclass
class Levels:
    """A source that knows these levels of any suffix."""

    levels: list[Candidates]
    kind: TokenSource = TokenSource.MEMORY
    asked: int = 0

    def extend(self, tokens: Int32Array) -> None: ...

    def matches(self, suffix: list[int]) -> Iterator[Candidates]:
        for level in self.levels:
            self.asked += 1
            yield level

    def continuation(self, position: int) -> list[int]:
        return []

    def reset(self) -> None: ...


def test_each_token_is_named_by_its_longest_match() -> None:
    source = Levels(
        [
            Candidates((5,), (2,), 2, 4, (30,)),
            Candidates((5, 6, 7), (3, 2, 1), 6, 1, (30, 20, 10)),
        ]
    )
    assert named(source, [1]) == [
        Named(5, 4, 2, 0, 30),
        Named(6, 1, 2, 4, 20),
        Named(7, 1, 1, 5, 10),
    ]


def test_places_are_optional_and_levels_bounded() -> None:
    levels = [Candidates((token,), (1,), 1, 9 - token) for token in range(MAX_LEVELS + 2)]
    source = Levels(levels)
    assert named(source, [1]) == [Named(token, 9 - token, 1, 0, -1) for token in range(MAX_LEVELS)]
    assert source.asked == MAX_LEVELS
    assert named(Levels([]), [1]) == []
