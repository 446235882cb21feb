"""When to speculate and how widely: costs, odds and the account of one model together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from sssd_local.hardware.budget import MARGIN, Account, best_size
from sssd_local.hardware.cost import CostModel

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# A step's time counts in the account within this factor of what it should have taken: a stalled
# machine is no reason to stop speculating.
MAX_SURPRISE = 2.0
# Plain steps teach the cost model in groups, by the median of each, as one lesson costs as much
# as a draft; those of a very fast model less often still.
LESSON_STEPS = 4
LESSON_SECONDS = 0.01
# After so many steps without a draft that paid, or once drafting has taken so many plain steps'
# time more than it brought, it may take this share of the time.
IDLE_STEPS = 32
IDLE_DEBT = 2.0
MOST_DEBT = 3.0
IDLE_SHARE = 0.01
MAX_SKIPPED = 512
# No more time than this passes without a look at the machine.
REST_SECONDS = 0.05
# Steps between two tries of widths the cost model may be wrong about.
TRY_STEPS = 128
GAP_STEPS = 96
MAX_TRIES = 4
RETRY_STEPS = 8
# What tries may lose, in plain steps: a share of all steps, saved up to a limit.
TRY_SHARE = 0.01
FIRST_TRIED = 12.0
MOST_TRIED = 64.0
# A try this much cheaper than expected is repeated at once.
CHEAPER = 0.85


class Sizer:
    """Chooses how many nodes of a draft to test and learns from what came of it."""

    def __init__(
        self,
        cost: CostModel,
        branch_seconds: float = 0.0,
        save_seconds: float = 0.0,
        load_seconds: float = 0.0,
    ) -> None:
        """`branch_seconds`: what a tree costs over a chain of the same width.

        `save_seconds` and `load_seconds` (zeros where there is no need): what saving the model's
        state before a draft costs, and going back to it after a wrong one; what was right of that
        is then evaluated once more.
        """
        self.cost = cost
        self.branch_seconds = branch_seconds
        self.save_seconds = save_seconds
        self.load_seconds = load_seconds
        self._account = Account()
        self._plain_times: list[float] = []
        self._since_lesson = 0.0
        self._idle = 0
        self._skipped = 0
        self._debt = 0.0
        # Of a draft, smoothed, and of a one-token step at the last context length.
        self._draft_seconds = 0.0
        self._step_seconds = math.inf
        self._since_try = 0
        self._tries = 0
        self._is_try = False
        self._may_lose = FIRST_TRIED
        self._context_length = 0

    def begin(self) -> None:
        """Starts an answer."""
        self._account.begin()
        self._skipped = 0

    def allows(self) -> bool:
        """Whether to draft in this step; to be asked once a step.

        False while speculation rests because it has been losing, and in most steps while nothing
        has paid for long and drafting takes a share of the step that is worth saving.
        """
        self._is_try = False
        if not self._account.allows() or self._skips():
            return False
        self._since_try += 1
        self._is_try = self._since_try > TRY_STEPS and self.cost.is_measured
        return True

    def _skips(self) -> bool:
        is_idle = self._idle >= IDLE_STEPS or self._debt > IDLE_DEBT * self._step_seconds
        if not is_idle or not self.cost.is_measured:
            return False
        self._skipped += 1
        if self._skipped < self._affordable:
            return True
        self._skipped = 0
        return False

    @property
    def _affordable(self) -> float:
        """Every how many steps a draft takes the share it may."""
        return min(MAX_SKIPPED, self._draft_seconds / (IDLE_SHARE * self._step_seconds))

    @property
    def num_resting(self) -> int:
        """How many steps, this one included, need not ask after `allows` has said no.

        Their times are given to `observe_rest` together.
        """
        left = self._account.num_resting or math.ceil(self._affordable) - self._skipped
        return max(1, min(left, int(REST_SECONDS / self._step_seconds)))

    def costs(self, context_length: int) -> Float64Array:
        """Seconds of a verify batch of 1 to 64 tokens, float64 [64].

        Now and then what they might be at best, for widths that were not seen for long.
        """
        self._context_length = context_length
        if self._is_try:
            return self.cost.hopeful(context_length)
        return self.cost.curve(context_length)

    def choose(self, probs: Float32Array, costs: Float64Array, num_chain: int | None = None) -> int:
        """How many first nodes (path probabilities `probs` [n]) to test; 0 is plain decoding.

        The first `num_chain` nodes are a chain (None: all). The gain must exceed the margin by as
        much as the chosen width's cost is uncertain.
        """
        optimism = self._account.optimism
        if self.branch_seconds and num_chain is not None and num_chain < len(probs):
            costs = costs.copy()
            costs[num_chain + 1 :] += self.branch_seconds
        if self.save_seconds or self.load_seconds:
            costs = self._with_replay(optimism * probs, costs)
        if self._is_try:
            costs = self._with_limit(optimism * probs, costs)
        size = best_size(probs, costs, optimism=optimism)
        self._idle = 0 if size else self._idle + 1
        if size == 0 or self._is_try:
            return size
        expected = 1.0 + optimism * float(probs[:size].sum())
        gain = expected * costs.item(0) / costs.item(size) - 1.0
        return size if gain > MARGIN + self.cost.relative_error(size + 1) / 2 else 0

    def _with_limit(self, probs: Float32Array, costs: Float64Array) -> Float64Array:
        """Costs without sizes that, as far as is known, lose more than a try may."""
        size = min(len(probs), len(costs) - 1)
        learned = self.cost.expected_curve(self._context_length)
        lost = learned[1 : size + 1] / learned[0] - 1.0 - np.cumsum(probs[:size])
        costs = costs.copy()
        costs[1 : size + 1][lost > self._may_lose] = math.inf
        return costs

    def _with_replay(self, probs: Float32Array, costs: Float64Array) -> Float64Array:
        """What chains cost with the expected costs of going back; those of no draft stay."""
        size = min(len(probs), len(costs) - 1)
        # The odds that all of a chain's first 0, 1, ... nodes are right, and that just they are.
        reached = np.concatenate(([1.0], probs[:size]))
        ends = reached[:-1] - reached[1:]
        again = np.cumsum(ends * np.where(np.isfinite(costs[:size]), costs[:size], 0.0))
        wrong = 1.0 - reached[1:]
        costs = costs.copy()
        costs[1 : size + 1] += self.save_seconds + wrong * self.load_seconds + again
        return costs

    def observe(
        self,
        probs: Float32Array,
        num_accepted: int,
        context_length: int,
        decode_seconds: float,
        draft_seconds: float,
        extra_seconds: float = 0.0,
    ) -> None:
        """Takes in a verified step: tested nodes' probabilities, hits, and the step's seconds.

        `extra_seconds`: what going back took, beside `decode_seconds`.
        """
        width = len(probs) + 1
        self._save_for_tries(1)
        plain = self.cost.seconds(1, context_length)
        is_known = self.cost.is_measured and self.cost.seconds(width, context_length) < math.inf
        predicted = self.cost.expected_seconds(width, context_length)
        # Neither a stall nor a lucky step is what such a step takes.
        bounded = min(max(decode_seconds, predicted / MAX_SURPRISE), predicted * MAX_SURPRISE)
        self._step_seconds = plain
        draft_seconds = self._usual_draft(draft_seconds)
        if width > 1:
            self.cost.observe(width, context_length, decode_seconds)
            if self._is_try:
                self._after_try(decode_seconds / predicted)
                lost = (bounded + extra_seconds) / plain - 1 - num_accepted
                self._may_lose -= min(max(0.0, lost), self._may_lose)
                # Tries have that account of their own.
                bounded = min(bounded, (1 + num_accepted) * plain)
        else:
            if self._is_try:
                # There was no draft to try it on; looking at every step would cost too much.
                self._since_try = TRY_STEPS - RETRY_STEPS
            self._observe_plain(context_length, decode_seconds)
        if is_known:
            seconds = bounded + extra_seconds
            self._account.record(
                float(probs.sum()) if width > 1 else 0.0,
                num_accepted,
                seconds + draft_seconds,
                plain,
                staked=0.0 if self._is_try else predicted / plain - 1.0,
            )
            won = max(0.0, (1 + num_accepted) * plain - seconds) if width > 1 else 0.0
            self._debt = min(max(0.0, self._debt + draft_seconds - won), MOST_DEBT * plain)

    def _usual_draft(self, seconds: float) -> float:
        """Seconds of a draft without what a stall within it added; learns what is usual."""
        if self._draft_seconds:
            seconds = min(seconds, MAX_SURPRISE * self._draft_seconds)
        if seconds > 0:
            before = self._draft_seconds or seconds
            self._draft_seconds = before + (seconds - before) / 8
        return seconds

    def observe_rest(self, seconds: Sequence[float], context_length: int) -> None:
        """Takes in the seconds of `num_resting` plain steps, or fewer, that nobody was asked in."""
        if self._account.num_resting:
            self._account.rest(len(seconds))
        else:
            self._skipped += len(seconds) - 1
        self._save_for_tries(len(seconds))
        self._plain_times += seconds
        self._since_lesson += sum(seconds)
        self._teach_plain(context_length)
        self._step_seconds = self.cost.seconds(1, context_length)

    def _save_for_tries(self, num_steps: int) -> None:
        self._may_lose = min(MOST_TRIED, self._may_lose + TRY_SHARE * num_steps)

    def _after_try(self, surprise: float) -> None:
        again = surprise < CHEAPER and self._tries < MAX_TRIES
        self._tries = self._tries + 1 if again else 0
        self._since_try = TRY_STEPS if again else GAP_STEPS if self.cost.has_gaps else 0

    def _observe_plain(self, context_length: int, seconds: float) -> None:
        self._plain_times.append(seconds)
        self._since_lesson += seconds
        self._teach_plain(context_length)

    def _teach_plain(self, context_length: int) -> None:
        enough = len(self._plain_times) >= LESSON_STEPS and self._since_lesson > LESSON_SECONDS
        if enough or not self.cost.is_measured:
            self.cost.observe(1, context_length, median(self._plain_times))
            self._plain_times.clear()
            self._since_lesson = 0.0

    def plain_seconds(self, context_length: int) -> float | None:
        """Measured seconds of a one-token step, None before one was measured."""
        if not self.cost.is_measured:
            return None
        return self.cost.seconds(1, context_length)
