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
    """What a cost curve asks of the nodes of a draft; most steps stop at the first of them."""

    def __init__(self, curve: Float64Array, limit: int) -> None:
        self.curve = curve
        self.array = curve[: limit + 1]
        self.costs: list[float] = self.array.tolist()
        asked = (LEAST_GAIN / self.costs[0] * self.array[1:] - 1.0) / _COUNTS[:limit]
        self.first = float(asked.min())
        self._corners: list[tuple[int, float]] | None = None

    def least_probability(self, size: int, best_rate: float, expected: float) -> float:
        """The least probability at which some size above this one could still beat the best rate.

        The least (rate × cost − expected) ÷ nodes of all sizes; on the straight line between two
        sizes it is at one of the ends, so only the next size and corners of the curve are tried.
        """
        if self._corners is None:
            self._corners = self._find_corners()
        least = best_rate * self.costs[size + 1] - expected
        for corner, cost in self._corners:
            if corner > size:
                asked = (best_rate * cost - expected) / (corner - size)
                if asked < least:
                    least = asked
        return least

    def _find_corners(self) -> list[tuple[int, float]]:
        """Sizes cheaper than the line between their neighbours, and the last; with costs."""
        costs = self.array
        sizes = 1 + np.flatnonzero(costs[:-2] + costs[2:] > 2 * costs[1:-1])
        return [(size, self.costs[size]) for size in (*sizes.tolist(), len(costs) - 1)]


class Growth:
    """One draft being grown."""

    def __init__(self, drafter: Drafter, bar: Bar, max_depth: int) -> None:
        self._drafter = drafter
        self._bar = bar
        self._costs = bar.costs
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
        # Tokens a step may expect so far, the most a second of any size, and what is asked now.
        self._expected = 1.0
        self._best_rate = LEAST_GAIN / bar.costs[0]
        self._needed = bar.first
        self._is_full = False

    def grow(self) -> DraftTree:
        """Adds the likeliest waiting node until no further one can pay."""
        self._push(-1, self._drafter.expand(-1, self._recent, 0), 1.0)
        while self._waiting and not self._is_full:
            negative, _, parent, expansion, index = heappop(self._waiting)
            prob = -negative
            if prob < self._needed:
                break
            if self._opens(parent):
                self._add(parent, expansion, index, prob)
                if self._goes_on(prob):
                    self._expand(expansion, index, prob)
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
        size = len(self._tokens)
        self._expected += prob
        rate = self._expected / self._costs[size]
        if rate > self._best_rate:
            self._best_rate = rate
        self._is_full = size + 1 == len(self._costs)
        if size in _CHECK_AT and not self._is_full:
            self._needed = self._bar.least_probability(size, self._best_rate, self._expected)

    def _goes_on(self, prob: float) -> bool:
        """Whether anything after the node added last can pay."""
        return prob >= self._needed and not self._is_full and self._depths[-1] < self._max_depth

    def _expand(self, expansion: Expansion, index: int, prob: float) -> None:
        """Looks up what may follow the node added last, a candidate of an expansion."""
        size = expansion.sizes[index]
        size += 1 if size >= 0 else -1
        if size < 0 or size > RUN_MATCH or prob < RUN_PROB:
            text, position = self._copied(expansion, index)
            if text is not None:
                prob = self._copy(text, expansion.sources[index], position, size, prob)
                if not prob:
                    return
        node = len(self._tokens) - 1
        recent = self._path(node) + self._recent
        self._push(node, self._drafter.expand(node, recent, self._depths[node], prob), prob)

    def _copy(self, text: Text, kind: int, position: int, size: int, prob: float) -> float:
        """Copies on after the node added last while nothing that waits is as likely.

        `position` in `text` is where the next token stands. Returns the last node's probability
        where the text ends, 0 where others come first or nothing more can pay.
        """
        drafter, waiting = self._drafter, self._waiting
        origins = drafter.context.origins if text is self._context else None
        end = len(text) if origins is None else len(drafter.context)
        while position < end and text[position] >= 0:
            node = len(self._tokens) - 1
            if origins is not None:
                kind = origins[position]
            size = max(-MAX_MATCH, min(size, MAX_MATCH))
            run = drafter.expand_run(node, text, kind, position, size, self._tokens[node])
            prob *= run.probs[0]
            if waiting and prob <= -waiting[0][0]:
                self._pushed += 1
                heappush(waiting, (-prob, self._pushed, node, run, 0))
                return 0.0
            if prob < self._needed:
                return 0.0
            self._has_child[node] = True
            self._add(node, run, 0, prob)
            if not self._goes_on(prob):
                return 0.0
            position += 1
            size += 1 if size >= 0 else -1
        return prob

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
        rewrites = self._drafter.alignment.rewrites
        if text is self._context and rewrites.has_proven:
            text, position = rewrites.rewritten(position), 0
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
