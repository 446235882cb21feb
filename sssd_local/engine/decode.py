"""The decode loop: draft, size, verify, keep, observe, emit.

`answer` is the whole of it; the sections of DESIGN and of the method's paper (arXiv 2411.05894)
appear as one line each. `Engine` holds what outlives an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sssd_local.config import MAX_WIDTH
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import DraftTree, Int32Array, TokenSource, empty_tree
from sssd_local.engine.ability import Speculation
from sssd_local.engine.context import Context
from sssd_local.engine.kv import Ledger, leaf_masks, sequence_sets
from sssd_local.engine.model import Model
from sssd_local.engine.output import Clock, Output, StepResult
from sssd_local.engine.rest import Rest
from sssd_local.engine.rollback import new_roll_back
from sssd_local.engine.sampling import Sampler, runner_ups
from sssd_local.engine.verify import Verdict, verify
from sssd_local.errors import Cancelled, ContextFullError
from sssd_local.hardware.governor import ThreadGovernor
from sssd_local.hardware.sizer import Sizer

# A piece is evaluated between two looks at the clock; the abort callback answers within it.
PROMPT_PIECE = 256


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to produce.

    `prompt`: int32 [n]. `make_room(history)` returns a shorter history that ends the same, or None
    to stop, when the context is full. `progress(done, total)` hears of evaluated prompt tokens.
    `temperature` is what the sampler draws at.
    """

    prompt: Int32Array
    sampler: Sampler
    max_tokens: int | None
    stop: tuple[str, ...]
    make_room: Callable[[Int32Array], Int32Array | None]
    should_stop: Callable[[], bool]
    progress: Callable[[int, int], None] | None = None
    temperature: float = 0.0


def answer(engine: Engine, request: Request) -> Generator[StepResult, None, None]:
    """Yields an answer step by step; model, history and sources agree however it is left."""
    output = Output(engine.model, request.max_tokens, request.stop)
    try:
        root = engine.evaluate_prompt(request)
        yield output.take((root,), (TokenSource.MODEL,), Clock())
        while output.finish_reason is None:
            clock = Clock()
            if request.should_stop():
                yield output.end("cancelled")
            elif not engine.make_room(root, request):
                yield output.end("length")
            else:
                engine.wake()
                clock.drafts()
                tree = engine.draft(output.max_depth)
                clock.drafted()
                masks = engine.decode(root, tree)
                clock.decode_seconds = engine.context.decode_seconds
                verdict = verify(tree, engine.context.logits, request.sampler, engine.model.is_eog)
                rows = engine.runner_ups(verdict, clock)
                engine.keep(root, tree, masks, verdict)
                clock.decode_seconds += engine.ledger.extra_seconds
                engine.observe(tree, verdict, clock, rows)
                root = verdict.token
                yield output.emit(tree, verdict, clock)
    finally:
        request.sampler.close()
        engine.settle(request, output)


class Engine:
    """Model, cache, drafter and sizer, and what they hold between answers."""

    def __init__(
        self, model: Model, context: Context, drafter: Drafter, sizer: Sizer, width: int | None
    ) -> None:
        """`width` None sizes drafts by cost, 1 never drafts, more tests width − 1 nodes a step.

        Models that can check no draft never draft, whatever the width.
        """
        self.model = model
        self.context = context
        self.drafter = drafter
        self.sizer = sizer
        self.width = width if self.can_draft else 1
        self.ledger = Ledger(context, new_roll_back(context, context.plan))
        self.reused_tokens = 0
        self._offset = 0
        self._governor: ThreadGovernor | None = None
        self._rest = Rest()

    def use(self, sizer: Sizer, governor: ThreadGovernor | None = None) -> None:
        """Sizes drafts by `sizer` from now on, and lets `governor` choose the threads."""
        self.sizer, self._governor = sizer, governor

    @property
    def can_draft(self) -> bool:
        """False for models that can check no draft."""
        return self.context.plan.ability.speculation is not Speculation.NONE

    def evaluate_prompt(self, request: Request) -> int:
        """Brings the prompt into the cache, as far as it is not there, and samples after it."""
        prompt = request.prompt
        if len(prompt) == 0:
            raise ContextFullError("the prompt is empty; nothing can be continued")
        if len(prompt) >= self.context.ctx:
            raise ContextFullError(
                f"the prompt has {len(prompt)} tokens, the context holds {self.context.ctx} with "
                "the answer; shorten it, or use a larger --ctx if the model was trained for one"
            )
        self._offset = len(prompt)
        self.reused_tokens = self.ledger.reuse(prompt)
        self._evaluate(prompt[self.reused_tokens :], request, logits=True)
        if self.width != 1:
            self.drafter.sync(prompt, temperature=request.temperature)
            self.sizer.begin()
        root = request.sampler.sample(self.context.logits[0])
        if self.width != 1:
            self.drafter.observe(empty_tree(), [], [root])
        return root

    def _evaluate(self, tokens: Int32Array, request: Request, *, logits: bool) -> None:
        # A prompt of a recurrent model can be gone back to: the next one may differ from here on.
        comes_back = logits and self.model.facts.recurrent
        for start, end in _pieces(len(tokens), one_last=comes_back):
            piece = tokens[start:end]
            if request.should_stop():
                raise Cancelled("stopped while the prompt was evaluated")
            last = end == len(tokens)
            if last and comes_back:
                self.ledger.keep_here()
            self.ledger.begin(len(piece))
            self.context.decode_prompt(
                piece,
                self.ledger.length,
                logits=logits and last,
                should_stop=None if len(tokens) < 2 else request.should_stop,
            )
            self.ledger.commit_prompt(piece)
            if request.progress is not None:
                request.progress(end, len(tokens))

    def make_room(self, root: int, request: Request) -> bool:
        """True when the context takes another token, after shortening the history if need be."""
        if self.ledger.room > 0:
            return True
        before = self.ledger.length
        history = np.append(self.ledger.tokens, np.int32(root))
        shorter = request.make_room(history)
        if shorter is None or len(shorter) > self.context.ctx or len(shorter) < 1:
            return False
        kept = self.ledger.reuse(shorter)
        self._evaluate(shorter[kept:-1], request, logits=False)
        self._offset -= before - self.ledger.length
        return True

    def draft(self, max_depth: int) -> DraftTree:
        """The tree that pays best now; empty for plain decoding."""
        if self._rest.is_on:
            return empty_tree()
        room = min(self.ledger.room - 1, self.context.plan.max_nodes)
        if self.width == 1 or room < 1 or max_depth < 1:
            return empty_tree()
        if self.width is not None:
            return self._checkable(self.drafter.draft(_FLAT, min(room, self.width - 1), max_depth))
        if not self.sizer.allows():
            self._rest.begin(self.sizer.num_resting)
            return empty_tree()
        costs = self.sizer.costs(self.ledger.length)
        tree = self._checkable(self.drafter.draft(costs, room, max_depth))
        num_chain = tree.num_chain if self.sizer.branch_seconds else None
        return tree.prefix(self.sizer.choose(tree.probs, costs, num_chain))

    def _checkable(self, tree: DraftTree) -> DraftTree:
        return tree if self.context.num_sequences > 1 else tree.prefix(tree.num_chain)

    def decode(self, root: int, tree: DraftTree) -> list[int] | None:
        """Evaluates root and nodes in one batch; returns the nodes' sequence masks."""
        length = self.ledger.length
        self.ledger.begin(1 + len(tree), drafted=len(tree) > 0)
        if not len(tree):
            self.context.decode_one(root, length)
            return None
        masks = leaf_masks(tree.parents.tolist())
        tokens = np.concatenate((np.array([root], np.int32), tree.tokens))
        positions = np.concatenate((np.array([0], np.int32), tree.depths)) + np.int32(length)
        sets = None if masks is None else sequence_sets(masks)
        self.context.decode_rows(tokens, positions, sets)
        return masks

    def runner_ups(self, verdict: Verdict, clock: Clock) -> Int32Array | None:
        """The likeliest tokens after the root and the accepted nodes, where they can pay."""
        if self.width == 1 or self._rest.is_on or not self.drafter.wants_runner_ups:
            return None
        clock.drafts()
        rows = runner_ups(self.context.logits, [0, *(node + 1 for node in verdict.path)])
        clock.drafted()
        return rows

    def keep(self, root: int, tree: DraftTree, masks: list[int] | None, verdict: Verdict) -> None:
        """Commits the root and the accepted path."""
        self.ledger.commit_step(root, tree, masks, verdict.path)

    def observe(
        self, tree: DraftTree, verdict: Verdict, clock: Clock, rows: Int32Array | None
    ) -> None:
        """Lets the drafter learn what came true and the cost model what it cost."""
        if self.width == 1:
            return
        if self._rest.is_on:
            self._rest.note(verdict.token, clock.decode_seconds)
            return
        new_tokens = tree.tokens[verdict.path].tolist() if verdict.path else []
        self.drafter.observe(tree, verdict.path, [*new_tokens, verdict.token], rows)
        context_length = self.ledger.length - 1 - len(verdict.path)
        # What a roll-back cost says nothing of the width, and is no sign of a machine that stalls.
        extra_seconds = self.ledger.extra_seconds
        seconds = clock.decode_seconds - extra_seconds
        self.sizer.observe(
            tree.probs,
            len(verdict.path),
            context_length,
            seconds,
            clock.draft_seconds,
            extra_seconds,
        )
        self._watch(len(tree) + 1, context_length, [seconds])

    def _watch(self, width: int, context_length: int, steps: Sequence[float]) -> None:
        """Lets the governor see the seconds of steps, and sets the threads it asks for."""
        if self._governor is None or not self.sizer.cost.is_measured:
            return
        probed = self.sizer.cost.probed_seconds(width, context_length)
        for seconds in steps:
            threads = self._governor.observe(seconds / probed)
            if threads is not None:
                # The rest of them ran with the threads before.
                self.context.set_threads(*threads)
                return

    def wake(self) -> None:
        """Goes on with a rest, or ends it: all hear of its steps."""
        if not self._rest.goes_on():
            self._wake()

    def _wake(self) -> None:
        tokens, seconds = self._rest.end()
        if tokens:
            self.drafter.extend(np.array(tokens, np.int32))
            self.sizer.observe_rest(seconds, self.ledger.length)
            self._watch(1, self.ledger.length, seconds)

    def settle(self, request: Request, output: Output) -> None:
        """Makes cache, history and sources agree on what was emitted, wherever it stopped."""
        self.ledger.restore()
        self.ledger.roll_back(self._offset + len(output.token_ids))
        if self.width != 1:
            self._wake()
            history = np.array(output.token_ids, np.int32)
            self.drafter.sync(np.concatenate((request.prompt, history)))

    def plain_seconds(self) -> float | None:
        """Seconds of a one-token step at the present context, if it was measured."""
        return self.sizer.plain_seconds(self.ledger.length)

    def reset(self) -> None:
        """Forgets all text; what was learned about odds and costs stays."""
        self._rest.end()
        self.ledger.clear()
        self.drafter.reset()


_FLAT = np.ones(MAX_WIDTH)


def _pieces(num_tokens: int, *, one_last: bool) -> Iterator[tuple[int, int]]:
    """Start and end of the pieces a prompt is evaluated in, its last token by itself or not."""
    body = num_tokens - 1 if one_last else num_tokens
    for start in range(0, body, PROMPT_PIECE):
        yield start, min(start + PROMPT_PIECE, body)
    if body < num_tokens:
        yield body, num_tokens
