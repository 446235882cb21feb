"""The candidates for the next token of one node, from the context and from other sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sssd_local.draft.alignment import Alignment
from sssd_local.draft.cells import (
    MAX_COUNT,
    Cells,
    against_cells,
    also_cells,
    context_cells,
    only_cells,
    replaced_cells,
    return_also_cells,
    return_cells,
    rewrite_cells,
)
from sssd_local.draft.context import MAX_MATCH, ContextIndex
from sssd_local.draft.rewrites import Rewrites
from sssd_local.draft.source import Named, Source
from sssd_local.draft.tree import TokenSource

# From this match length on the longest match is copied on without new look-ups: as good in
# replays, and several times cheaper a node.
RUN_MATCH = 8
# The match length of what only a guess about the passage names; copied on it counts down.
GUESSED = -1
# From this match length on the match is better to copy on from than a guess.
LEAST_CERTAIN = 2
# What a candidate can be copied on from: tokens by position, or a store that reads them.
Text: TypeAlias = "memoryview[int] | list[int]"


class Expansion:
    """The candidates for the next token of one node, in no particular order.

    Parallel lists: tokens, the weights' cells, sources; the text to copy on from (None: there is
    none), the position in it where the token stands, and the match length there; probabilities.
    """

    __slots__ = ("cells", "positions", "probs", "sizes", "sources", "texts", "tokens")

    def __init__(
        self,
        tokens: list[int],
        cells: list[Cells],
        sources: list[int],
        texts: list[Text | Source | None],
        positions: list[int],
        sizes: list[int],
    ) -> None:
        self.tokens = tokens
        self.cells = cells
        self.sources = sources
        self.texts = texts
        self.positions = positions
        self.sizes = sizes
        self.probs: list[float] = []

    def add(
        self,
        kind: TokenSource,
        found: Sequence[Named],
        last_token: int,
        text: Text | Source | None,
    ) -> None:
        """Joins what another source names, the best first, after `last_token`."""
        if not found:
            return
        known = {token: index for index, token in enumerate(self.tokens)}
        before = self.sizes.copy()
        longest = max(before, default=0)
        for rank, item in enumerate(found):
            token, size, count, others, position = item
            if size > MAX_MATCH or count > MAX_COUNT or others > MAX_COUNT:
                size, count = min(size, MAX_MATCH), min(count, MAX_COUNT)
                item = Named(token, size, count, min(others, MAX_COUNT), position)
            index = known.pop(token, -1)
            if index < 0:
                self.tokens.append(token)
                cells = only_cells(kind, item, min(rank, MAX_COUNT), longest, last_token)
                self.cells.append(cells)
                self.sources.append(kind)
                self.texts.append(text if position >= 0 else None)
                self.positions.append(position + 1)
                self.sizes.append(size if position >= 0 else 0)
                continue
            self.cells[index] += also_cells(kind, item, before[index])
            if size > before[index] and position >= 0:
                self.sources[index] = kind
                self.texts[index], self.positions[index] = text, position + 1
                self.sizes[index] = size
        if known:
            against = min(max(item.size for item in found), MAX_MATCH)
            for index in known.values():
                self.cells[index] += against_cells(kind, against, before[index])

    def add_returns(self, alignment: Alignment, origins: memoryview[int], last_token: int) -> None:
        """Joins where the answer may return to the passage it followed."""
        for found in alignment.returns():
            token = found.tokens[0]
            if token in self.tokens:
                index = self.tokens.index(token)
                self.cells[index] += return_also_cells(found)
                self._copy_on(index, found.tokens)
                continue
            cells = return_cells(found, last_token, token)
            self._append(token, cells, origins[found.position], found.tokens)

    def add_rewrite(self, rewrites: Rewrites, context: Text, last_token: int) -> None:
        """Joins what stands for the best candidate, one of the context, if that is replaced."""
        if not self.texts or self.texts[0] is not context:
            return
        found = rewrites.replaced(self.positions[0])
        if found is None:
            return
        rewrite, tokens = found
        hits, misses = rewrite.hits, rewrite.misses
        self.cells[0] += replaced_cells(hits, misses)
        cells = rewrite_cells(hits, misses, self.sizes[0], last_token, tokens[0])
        if tokens[0] in self.tokens:
            index = self.tokens.index(tokens[0])
            self.cells[index] += cells[:2]
            self._copy_on(index, tokens)
            return
        self._append(tokens[0], cells, self.sources[0], tokens)

    def _copy_on(self, index: int, text: list[int]) -> None:
        """Has a candidate copied on from a guess, unless it matches where it stands."""
        if 0 <= self.sizes[index] < LEAST_CERTAIN:
            self.texts[index], self.positions[index] = text, 0
            self.sizes[index] = GUESSED

    def _append(self, token: int, cells: Cells, source: int, text: list[int]) -> None:
        """A candidate that is copied on from the beginning of a text of its own."""
        self.tokens.append(token)
        self.cells.append(cells)
        self.sources.append(source)
        self.texts.append(text)
        self.positions.append(0)
        self.sizes.append(GUESSED)


def expand_context(context: ContextIndex, recent: list[int], ahead: int, effort: int) -> Expansion:
    """What followed a context (newest token first, the first `ahead` drafted) in the context."""
    found = context.followers(recent, ahead, effort)
    items = found.items
    origins, last = context.origins, context.length - 1
    return Expansion(
        [item.token for item in items],
        context_cells(found, recent[0]),
        [
            origins[item.position + 1] if item.position < last else int(TokenSource.OUTPUT)
            for item in items
        ],
        [context.tokens] * len(items),
        [item.position + 1 for item in items],
        [item.size for item in items],
    )
