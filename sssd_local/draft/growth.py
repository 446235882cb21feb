"""Grows a draft tree best-first, as far as its nodes can pay."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.context import MAX_MATCH
from sssd_local.draft.expansion import RUN_MATCH, Expansion, Text
from sssd_local.draft.tree import DraftTree, empty_tree, tree_from_lists

if TYPE_CHECKING:
    from sssd_local.draft.drafter import Drafter

Float64Array = NDArray[np.float64]

MAX_NODES = 1024
# Below nodes less likely than this the longest match is copied on, too.
RUN_PROB = 0.15
# A draft is not grown for a gain below this over plain decoding.
LEAST_GAIN = 1.02
_CHECK_AT = frozenset((1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56))
_COUNTS = np.arange(1, MAX_NODES + 1, dtype=np.float64)


class Bar:
    """What a cost curve asks of a draft's first node; most steps stop there, so it is kept."""

    def __init__(self, curve: Float64Array, limit: int) -> None:
        self.curve = curve
        self.array = curve[: limit + 1]
        self.costs: list[float] = self.array.tolist()
        self.first = _least_probability(self.array[1:], LEAST_GAIN / self.costs[0], 1.0)


def _least_probability(costs: Float64Array, best_rate: float, expected: float) -> float:
    """The least probability at which some larger size could still beat the best rate."""
    return float(((best_rate * costs - expected) / _COUNTS[: len(costs)]).min())


class Growth:
    """One draft being grown."""

    def __init__(self, drafter: Drafter, bar: Bar, max_depth: int) -> None:
        self._drafter = drafter
        self._bar = bar
        self._costs = bar.array
        self._max_depth = max_depth
        self._recent = drafter.context.recent()
        self._context = drafter.context.tokens
        self._waiting: list[tuple[float, int, int, Expansion, int]] = []
        self._pushed = 0
        self._num_leaves = 0
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._probs: list[float] = []
        self._sources: list[int] = []
        self._evidence: list[int] = []
        self._depths: list[int] = []
        # The last entry is the root's, so that parent -1 finds it.
        self._has_child = [False] * (len(bar.costs) - 1) + [True]

    def grow(self) -> DraftTree:
        """Adds the likeliest waiting node until no further one can pay."""
        costs = self._bar.costs
        best_rate, expected = LEAST_GAIN / costs[0], 1.0
        self._push(-1, self._drafter.expand(-1, self._recent, 0), 1.0)
        needed = self._bar.first
        while self._waiting:
            negative, _, parent, expansion, index = heappop(self._waiting)
            prob = -negative
            if prob < needed:
                break
            if not self._opens(parent):
                continue
            self._add(parent, expansion, index, prob)
            size = len(self._tokens)
            expected += prob
            best_rate = max(best_rate, expected / costs[size])
            if size + 1 == len(costs):
                break
            if size in _CHECK_AT:
                needed = self._needed(best_rate, expected)
            if prob >= needed:
                self._expand(size - 1, expansion, index, prob)
        if not self._tokens:
            return empty_tree()
        return tree_from_lists(
            self._tokens, self._parents, self._probs, self._sources, self._evidence
        )

    def _opens(self, parent: int) -> bool:
        """Whether a child may be added: a second child, or the root's first, is a new leaf."""
        if self._has_child[parent]:
            if self._num_leaves == self._drafter.max_leaves:
                return False
            self._num_leaves += 1
        elif parent >= 0:
            self._has_child[parent] = True
        return True

    def _add(self, parent: int, expansion: Expansion, index: int, prob: float) -> None:
        self._tokens.append(expansion.tokens[index])
        self._parents.append(parent)
        self._probs.append(prob)
        self._sources.append(expansion.sources[index])
        self._evidence.append(expansion.cells[index][0])
        self._depths.append(self._depths[parent] + 1 if parent >= 0 else 1)

    def _expand(self, node: int, expansion: Expansion, index: int, prob: float) -> None:
        depth = self._depths[node]
        if depth >= self._max_depth:
            return
        size = expansion.sizes[index]
        size += 1 if size >= 0 else -1
        if size < 0 or size > RUN_MATCH or prob < RUN_PROB:
            text, position = self._copied(expansion, index)
            if text is not None:
                kind = expansion.sources[index]
                if text is self._context:
                    kind = self._drafter.context.origins[position]
                size, last = max(-MAX_MATCH, min(size, MAX_MATCH)), self._tokens[node]
                run = self._drafter.expand_run(node, text, kind, position, size, last)
                self._push(node, run, prob)
                return
        recent = self._path(node) + self._recent
        self._push(node, self._drafter.expand(node, recent, depth, prob), prob)

    def _copied(self, expansion: Expansion, index: int) -> tuple[Text | None, int]:
        """Where the copied text goes on after a candidate; None where it ends or is no copy."""
        text, position = expansion.texts[index], expansion.positions[index] + 1
        if text is None or position <= 0:
            return None, -1
        if not isinstance(text, memoryview | list):
            # A store reads the rest of the text at once.
            text, position = text.continuation(position - 2)[1:], 0
        end = len(self._drafter.context) if text is self._context else len(text)
        if position >= end or text[position] < 0:
            return None, -1
        alignment = self._drafter.alignment
        if text is self._context and alignment.has_rewrites:
            text, position = alignment.rewritten(position), 0
            return (text, 0) if text else (None, -1)
        return text, position

    def _path(self, node: int) -> list[int]:
        """The drafted tokens down to a node, newest first."""
        path: list[int] = []
        while node >= 0:
            path.append(self._tokens[node])
            node = self._parents[node]
        return path

    def _push(self, node: int, expansion: Expansion, prob: float) -> None:
        for index, conditional in enumerate(expansion.probs):
            self._pushed += 1
            heappush(self._waiting, (-prob * conditional, self._pushed, node, expansion, index))

    def _needed(self, best_rate: float, expected: float) -> float:
        return _least_probability(self._costs[len(self._tokens) + 1 :], best_rate, expected)
