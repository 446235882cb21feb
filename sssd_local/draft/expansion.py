"""The candidates for the next token of one node, from the context and from other sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sssd_local.draft.cells import (
    MAX_COUNT,
    Cells,
    against_cells,
    also_cells,
    context_cells,
    only_cells,
)
from sssd_local.draft.context import MAX_MATCH, ContextIndex
from sssd_local.draft.source import Named, Source
from sssd_local.draft.tree import TokenSource

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
            size = min(item.size, MAX_MATCH)
            count, others = min(item.times, MAX_COUNT), min(item.others, MAX_COUNT)
            item = Named(item.token, size, count, others, item.position)
            index = known.pop(item.token, -1)
            if index < 0:
                cells = only_cells(kind, item, min(rank, MAX_COUNT), longest, last_token)
                self.tokens.append(item.token)
                self.cells.append(cells)
                self.sources.append(kind)
                self.texts.append(text if item.position >= 0 else None)
                self.positions.append(item.position + 1)
                self.sizes.append(size if item.position >= 0 else 0)
                continue
            self.cells[index] += also_cells(kind, item, before[index])
            if size > before[index] and item.position >= 0:
                self.sources[index] = kind
                self.texts[index], self.positions[index] = text, item.position + 1
                self.sizes[index] = size
        against = min(max(item.size for item in found), MAX_MATCH)
        for index in known.values():
            self.cells[index] += against_cells(kind, against, before[index])


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
