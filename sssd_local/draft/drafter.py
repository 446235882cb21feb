"""Grows the draft tree best-first from what followed this context before."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.calibrate import Calibration, Expansion
from sssd_local.draft.context import MAX_MATCH, ContextIndex
from sssd_local.draft.source import Source
from sssd_local.draft.tree import (
    DraftTree,
    Int32Array,
    TokenSource,
    empty_tree,
    tree_from_lists,
)

Float64Array = NDArray[np.float64]

# Links walked per look-up: a long comparison counts for several.
EFFORT = 24
LEAST_EFFORT = 8
# From this match length on, and below nodes less likely than this, the longest match is copied
# on without new look-ups: as good in replays, and several times cheaper a node.
RUN_MATCH = 8
RUN_PROB = 0.15
# A draft is not grown for a gain below this over plain decoding.
LEAST_GAIN = 1.02
_CHECK_AT = frozenset((1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56))


class Drafter:
    """Drafts from the conversation's own n-grams (and further sources), learning as it goes."""

    def __init__(
        self,
        calibration: Calibration,
        *,
        sources: Sequence[Source] = (),
        max_nodes: int = 64,
        max_leaves: int = 8,
    ) -> None:
        """A draft has at most `max_nodes` (1 to 1024) nodes and `max_leaves` (≥ 1) leaves."""
        if not 1 <= max_nodes <= len(_COUNTS) or max_leaves < 1:
            raise ValueError("max_nodes must be from 1 to 1024 and max_leaves at least 1")
        self.calibration = calibration
        self.context = ContextIndex()
        self._sources = tuple(sources)
        self.max_nodes = max_nodes
        self.max_leaves = max_leaves
        # Candidates looked at under each node of the last draft; -1 is the root.
        self._expansions: dict[int, Expansion] = {}
        self._bar: _Bar | None = None

    def sync(self, tokens: Int32Array, num_prompt_tokens: int | None = None) -> None:
        """Makes the tables hold exactly this history, int32 [n], at the start of an answer.

        What it shares with the history held is kept; the rest is dropped and the new part taken
        in as prompt, from `num_prompt_tokens` on as output.
        """
        history = np.asarray(tokens, np.int32)
        held = self.context.history()
        size = min(len(held), len(history))
        differing = np.flatnonzero(held[:size] != history[:size])
        kept = int(differing[0]) if len(differing) else size
        self.context.truncate(kept)
        split = len(history) if num_prompt_tokens is None else max(kept, num_prompt_tokens)
        self.context.extend(history[kept:split], TokenSource.PROMPT)
        self.context.extend(history[split:], TokenSource.OUTPUT)
        for source in self._sources:
            source.extend(history[kept:])
        self._expansions = {}
        self.calibration.begin_answer()

    def draft(self, costs: Float64Array, max_nodes: int, max_depth: int) -> DraftTree:
        """The tree whose prefixes are worth testing.

        `costs[i]`: seconds of a verify batch of i + 1 tokens. Growth ends as soon as no size can
        beat the best found, given that no node to come is likelier than the best one waiting.
        """
        self._expansions = {}
        limit = min(max_nodes, self.max_nodes, len(costs) - 1)
        if limit < 1 or max_depth < 1 or not len(self.context):
            return empty_tree()
        bar = self._bar
        if bar is None or bar.curve is not costs or len(bar.costs) != limit + 1:
            bar = self._bar = _Bar(costs, limit)
        return _Growth(self, bar, max_depth).grow()

    def observe(self, tree: DraftTree, path: Sequence[int], token_ids: Sequence[int]) -> None:
        """Learns from a verified step and takes in its tokens.

        `path`: indices of the accepted nodes of the last draft (or a prefix of it); `token_ids`:
        their tokens and the one sampled after them. Raises ValueError if their numbers differ.
        """
        if len(token_ids) != len(path) + 1:
            raise ValueError(
                f"{len(path)} accepted nodes need {len(path) + 1} tokens, got {len(token_ids)}"
            )
        for node, token in zip((-1, *path), token_ids, strict=True):
            expansion = self._expansions.get(node)
            if expansion is not None and expansion.tokens:
                right = expansion.tokens.index(token) if token in expansion.tokens else -1
                self.calibration.learn(expansion.cells, expansion.probs, right)
        self._expansions = {}
        for token in token_ids:
            self.context.append(token, TokenSource.OUTPUT)
        for source in self._sources:
            source.extend(np.array(token_ids, np.int32))

    def root_candidates(self) -> tuple[list[int], list[float]]:
        """Tokens and probabilities looked at under the root of the last draft."""
        root = self._expansions.get(-1)
        return (root.tokens, root.probs) if root is not None else ([], [])

    def reset(self) -> None:
        """Forgets the conversation; what was learned about odds stays."""
        self.context.reset()
        self._expansions = {}
        for source in self._sources:
            source.reset()
        self.calibration.begin_answer()

    def expand(self, node: int, recent: list[int], ahead: int, effort: int = EFFORT) -> Expansion:
        """The candidates after a context whose first `ahead` tokens are drafted."""
        found = self.context.followers(recent, ahead, effort)
        items = found.items
        origins, last = self.context.origins, self.context.length - 1
        result = Expansion(
            [item.token for item in items],
            self.calibration.context_cells(found, recent[0]),
            [
                origins[item.position + 1] if item.position < last else int(TokenSource.OUTPUT)
                for item in items
            ],
            [item.position + 1 for item in items],
            [item.size for item in items],
        )
        for source in self._sources:
            self._ask(source, recent, result)
        result.probs = self.calibration.probabilities(result.cells)
        self._expansions[node] = result
        return result

    def _ask(self, source: Source, recent: list[int], result: Expansion) -> None:
        found = source.candidates(recent)
        also = (self.calibration.also_cell(source.kind, found.match_length),)
        for index, token in enumerate(found.tokens):
            if token in result.tokens:
                known = result.tokens.index(token)
                result.cells[known] += also
                continue
            cells = self.calibration.store_cells(source.kind, found, index, recent[0])
            result.tokens.append(token)
            result.cells.append(cells)
            result.sources.append(source.kind)
            result.positions.append(-1)
            result.sizes.append(0)

    def expand_run(self, node: int, position: int, size: int, last_token: int) -> Expansion:
        """The one candidate a long copy goes on with."""
        token = self.context.tokens[position]
        cells = [self.calibration.run_cells(size, last_token, token)]
        source = self.context.origins[position]
        result = Expansion([token], cells, [source], [position], [size])
        result.probs = self.calibration.probabilities(cells)
        self._expansions[node] = result
        return result


def _effort(prob: float) -> int:
    """Unlikely nodes are looked up less thoroughly."""
    return max(LEAST_EFFORT, int(EFFORT * prob))


class _Bar:
    """What a cost curve asks of a draft's first node; most steps stop there, so it is kept."""

    def __init__(self, curve: Float64Array, limit: int) -> None:
        self.curve = curve
        self.array = curve[: limit + 1]
        self.costs: list[float] = self.array.tolist()
        self.first = _least_probability(self.array[1:], LEAST_GAIN / self.costs[0], 1.0)


def _least_probability(costs: Float64Array, best_rate: float, expected: float) -> float:
    """The least probability at which some larger size could still beat the best rate."""
    return float(((best_rate * costs - expected) / _COUNTS[: len(costs)]).min())


class _Growth:
    """One draft being grown."""

    def __init__(self, drafter: Drafter, bar: _Bar, max_depth: int) -> None:
        self._drafter = drafter
        self._bar = bar
        self._costs = bar.array
        self._max_depth = max_depth
        self._recent = drafter.context.recent()
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
        drafter = self._drafter
        size, position = expansion.sizes[index] + 1, expansion.positions[index] + 1
        copies = size > RUN_MATCH or prob < RUN_PROB
        if copies and 0 < position < len(drafter.context):
            child = drafter.expand_run(node, position, min(size, MAX_MATCH), self._tokens[node])
        else:
            child = drafter.expand(node, self._path(node) + self._recent, depth, _effort(prob))
        self._push(node, child, prob)

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


_COUNTS = np.arange(1, 1025, dtype=np.float64)
