"""Grows the draft tree best-first from what followed this context before."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.cells import run_cells
from sssd_local.draft.context import MAX_MATCH, ContextIndex
from sssd_local.draft.earlier import EarlierText
from sssd_local.draft.expansion import Expansion, Text, expand_context
from sssd_local.draft.recycle import Recycled
from sssd_local.draft.source import Source, named
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
# Below nodes less likely than this, stores are not asked: a look-up costs what a node brings.
ASK_PROB = 0.1
# A draft is not grown for a gain below this over plain decoding.
LEAST_GAIN = 1.02
# Runner-ups are seldom likelier than this, so they are no use where a node must be.
RUNNER_UP_PROB = 0.3
# Tokens kept before a text that the context dropped, so that its beginning is found.
LEAD_TOKENS = 4
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
        keep_earlier: bool = True,
        recycle: bool = True,
    ) -> None:
        """A draft has at most `max_nodes` (1 to 1024) nodes and `max_leaves` (≥ 1) leaves.

        `keep_earlier` keeps what the context drops searchable in this process, `recycle` the
        runner-ups given to `observe`; both are bounded, and `forget` empties them.
        """
        if not 1 <= max_nodes <= len(_COUNTS) or max_leaves < 1:
            raise ValueError("max_nodes must be from 1 to 1024 and max_leaves at least 1")
        self.calibration = calibration
        self.context = ContextIndex()
        self.earlier = EarlierText() if keep_earlier else None
        self.recycled = Recycled() if recycle else None
        self._sources = tuple(sources)
        self.max_nodes = max_nodes
        self.max_leaves = max_leaves
        # Candidates looked at under each node of the last draft; -1 is the root.
        self._expansions: dict[int, Expansion] = {}
        self._bar: _Bar | None = None

    def sync(
        self,
        tokens: Int32Array,
        num_prompt_tokens: int | None = None,
        *,
        temperature: float | None = None,
    ) -> None:
        """Makes the tables hold exactly this history, int32 [n], at the start of an answer.

        What it shares with the history held is kept; the rest becomes earlier text, and the new
        part is taken in as prompt, from `num_prompt_tokens` on as output. `temperature`: what the
        answer is sampled at, 0 for greedy, None for the same as before.
        """
        history = np.asarray(tokens, np.int32)
        held = self.context.history()
        size = min(len(held), len(history))
        differing = np.flatnonzero(held[:size] != history[:size])
        kept = int(differing[0]) if len(differing) else size
        if self.earlier is not None and kept < len(held):
            self.earlier.add(held[max(0, kept - LEAD_TOKENS) :])
        self.context.truncate(kept)
        split = len(history) if num_prompt_tokens is None else max(kept, num_prompt_tokens)
        self.context.extend(history[kept:split], TokenSource.PROMPT)
        self.context.extend(history[split:], TokenSource.OUTPUT)
        for source in self._sources:
            source.extend(history[kept:])
        self._expansions = {}
        self.calibration.begin_answer(temperature)

    def draft(self, costs: Float64Array, max_nodes: int, max_depth: int) -> DraftTree:
        """The tree whose prefixes are worth testing.

        `costs[i]`: seconds of a verify batch of i + 1 tokens. Growth ends as soon as no size can
        beat the best found, given that no node to come is likelier than the best one waiting.
        """
        self._expansions = {}
        limit = min(max_nodes, self.max_nodes, len(costs) - 1)
        if limit < 1 or max_depth < 1 or not len(self.context):
            self._bar = None
            return empty_tree()
        bar = self._bar
        if bar is None or bar.curve is not costs or len(bar.costs) != limit + 1:
            bar = self._bar = _Bar(costs, limit)
        return _Growth(self, bar, max_depth).grow()

    def extend(self, tokens: Int32Array) -> None:
        """Takes in tokens, int32 [n], of steps without drafts; cheaper than one at a time."""
        self._expansions = {}
        self.context.extend(tokens, TokenSource.OUTPUT)
        for source in self._sources:
            source.extend(tokens)

    @property
    def wants_runner_ups(self) -> bool:
        """Whether runner-ups of the last draft's rows could ever pay for being looked up."""
        return (
            self.recycled is not None and self._bar is not None and self._bar.first < RUNNER_UP_PROB
        )

    def observe(
        self,
        tree: DraftTree,
        path: Sequence[int],
        token_ids: Sequence[int],
        runner_ups: Int32Array | None = None,
    ) -> None:
        """Learns from a verified step and takes in its tokens.

        `path`: indices of the accepted nodes of the last draft (or a prefix of it); `token_ids`:
        their tokens and the one sampled after them. `runner_ups`: int32 [1 + len(path), k], the
        model's likeliest next tokens after the root and after each accepted node, the likeliest
        first, -1 where there are fewer. Raises ValueError if numbers differ.
        """
        if len(token_ids) != len(path) + 1:
            raise ValueError(
                f"{len(path)} accepted nodes need {len(path) + 1} tokens, got {len(token_ids)}"
            )
        if runner_ups is not None and len(runner_ups) != len(token_ids):
            raise ValueError(f"{len(token_ids)} rows have runner-ups, got {len(runner_ups)}")
        for node, token in zip((-1, *path), token_ids, strict=True):
            expansion = self._expansions.get(node)
            if expansion is not None and expansion.tokens:
                right = expansion.tokens.index(token) if token in expansion.tokens else -1
                self.calibration.learn(expansion.cells, expansion.probs, right)
        self._expansions = {}
        for index, token in enumerate(token_ids):
            if runner_ups is not None and self.recycled is not None:
                self._recycle(self.recycled, runner_ups[index])
            self.context.append(token, TokenSource.OUTPUT)
        for source in self._sources:
            source.extend(np.array(token_ids, np.int32))

    def _recycle(self, recycled: Recycled, runner_ups: Int32Array) -> None:
        tokens, length = self.context.tokens, len(self.context)
        if length:
            recycled.learn(tokens[length - 2] if length > 1 else -1, tokens[length - 1], runner_ups)

    def root_candidates(self) -> tuple[list[int], list[float]]:
        """Tokens and probabilities looked at under the root of the last draft."""
        root = self._expansions.get(-1)
        return (root.tokens, root.probs) if root is not None else ([], [])

    def forget(self) -> None:
        """Forgets earlier text and runner-ups; the conversation and learned odds stay."""
        if self.earlier is not None:
            self.earlier.reset()
        if self.recycled is not None:
            self.recycled.reset()

    def reset(self) -> None:
        """Forgets the conversation and all before it; what was learned about odds stays."""
        self.forget()
        self.context.reset()
        self._expansions = {}
        for source in self._sources:
            source.reset()
        self.calibration.begin_answer()

    def expand(
        self, node: int, recent: list[int], ahead: int, effort: int = EFFORT, prob: float = 1.0
    ) -> Expansion:
        """The candidates after a context whose first `ahead` tokens are drafted."""
        result = expand_context(self.context, recent, ahead, effort)
        earlier, recycled = self.earlier, self.recycled
        if earlier is not None and len(earlier):
            found = earlier.named(recent, effort)
            result.add(earlier.kind, found, recent[0], earlier.index.tokens)
        if prob >= ASK_PROB:
            for source in self._sources:
                result.add(source.kind, named(source, recent), recent[0], source)
        if recycled is not None and len(recycled):
            result.add(recycled.kind, recycled.named(recent), recent[0], None)
        result.probs = self.calibration.probabilities(result.cells)
        self._expansions[node] = result
        return result

    def expand_run(
        self, node: int, text: Text, kind: int, position: int, size: int, last_token: int
    ) -> Expansion:
        """The one candidate a long copy goes on with; `position` in `text` is where it stands."""
        token = text[position]
        cells = [run_cells(kind, size, last_token, token)]
        result = Expansion([token], cells, [kind], [text], [position], [size])
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
        size = expansion.sizes[index] + 1
        if size > RUN_MATCH or prob < RUN_PROB:
            text, position = self._copied(expansion, index)
            if text is not None:
                kind = expansion.sources[index]
                if text is self._context:
                    kind = self._drafter.context.origins[position]
                size, last = min(size, MAX_MATCH), self._tokens[node]
                run = self._drafter.expand_run(node, text, kind, position, size, last)
                self._push(node, run, prob)
                return
        recent = self._path(node) + self._recent
        self._push(node, self._drafter.expand(node, recent, depth, _effort(prob), prob), prob)

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


_COUNTS = np.arange(1, 1025, dtype=np.float64)
