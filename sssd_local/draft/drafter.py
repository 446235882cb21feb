"""Drafts from what followed this context before, in this text and in others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.alignment import Alignment
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.cells import run_cells
from sssd_local.draft.context import ContextIndex
from sssd_local.draft.earlier import EarlierText
from sssd_local.draft.expansion import Expansion, Text, expand_context
from sssd_local.draft.growth import MAX_NODES, Bar, Growth
from sssd_local.draft.recycle import Recycled
from sssd_local.draft.source import Source, named
from sssd_local.draft.tree import DraftTree, Int32Array, TokenSource, empty_tree

Float64Array = NDArray[np.float64]

# Links walked per look-up: a long comparison counts for several.
EFFORT = 24
LEAST_EFFORT = 8
# Below nodes less likely than this, stores are not asked: a look-up costs what a node brings.
ASK_PROB = 0.1
# Runner-ups are seldom much likelier than this, so they are no use where a node must be.
RUNNER_UP_PROB = 0.15
# Tokens kept before a text that the context dropped, so that its beginning is found.
LEAD_TOKENS = 4


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
        if not 1 <= max_nodes <= MAX_NODES or max_leaves < 1:
            raise ValueError("max_nodes must be from 1 to 1024 and max_leaves at least 1")
        self.calibration = calibration
        self.context = ContextIndex()
        self.alignment = Alignment(self.context)
        self.earlier = EarlierText() if keep_earlier else None
        self.recycled = Recycled() if recycle else None
        self._sources = tuple(sources)
        self.max_nodes = max_nodes
        self.max_leaves = max_leaves
        # Candidates looked at under each node of the last draft; -1 is the root.
        self._expansions: dict[int, Expansion] = {}
        self._bar: Bar | None = None

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
        self.alignment.reset()
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
            bar = self._bar = Bar(costs, limit)
        return Growth(self, bar, max_depth).grow()

    def extend(self, tokens: Int32Array) -> None:
        """Takes in tokens, int32 [n], of steps without drafts; cheaper than one at a time."""
        self._expansions = {}
        if self.alignment.is_idle:
            self.context.extend(tokens, TokenSource.OUTPUT)
        else:
            for token in tokens.tolist():
                self.alignment.take(token)
                self.context.append(token, TokenSource.OUTPUT)
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
        expansions, self._expansions = self._expansions, {}
        for index, (node, token) in enumerate(zip((-1, *path), token_ids, strict=True)):
            expansion = expansions.get(node)
            place = (-1, 0)
            if expansion is not None and expansion.tokens:
                right = expansion.tokens.index(token) if token in expansion.tokens else -1
                self.calibration.learn(expansion.cells, expansion.probs, right)
                if right >= 0 and expansion.texts[right] is self.context.tokens:
                    place = expansion.positions[right], expansion.sizes[right]
            if runner_ups is not None and self.recycled is not None:
                self._recycle(self.recycled, runner_ups[index])
            self.alignment.take(token, *place)
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
        self.alignment.reset()
        self._expansions = {}
        for source in self._sources:
            source.reset()
        self.calibration.begin_answer()

    def expand(self, node: int, recent: list[int], ahead: int, prob: float = 1.0) -> Expansion:
        """The candidates after a context whose first `ahead` tokens are drafted.

        `prob` is the node's; unlikely ones are looked up less thoroughly.
        """
        effort = max(LEAST_EFFORT, int(EFFORT * prob))
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
        # Last, as what they copy on has no match length of its own.
        alignment = self.alignment
        if alignment.rewrites:
            result.add_rewrite(alignment.rewrites, self.context.tokens, recent[0])
        if not ahead and alignment.expects_return:
            result.add_returns(alignment, self.context.origins, recent[0])
        result.probs = self.calibration.probabilities(result.cells)
        self._expansions[node] = result
        return result

    def expand_run(
        self, node: int, text: Text, kind: int, position: int, size: int, last_token: int
    ) -> Expansion:
        """The one candidate a long copy goes on with; `position` in `text` is where it stands."""
        token = text[position]
        cells = run_cells(kind, size, last_token, token)
        result = Expansion([token], [cells], [kind], [text], [position], [size])
        result.probs = [self.calibration.probability(cells)]
        self._expansions[node] = result
        return result
