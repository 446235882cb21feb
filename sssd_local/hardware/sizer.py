"""When to speculate and how widely: costs, odds and the account of one model together."""

from __future__ import annotations

import math
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
LESSON_SECONDS = 0.002
# After so many steps without a draft that paid, drafting may take this share of the time.
IDLE_STEPS = 32
IDLE_SHARE = 0.01
MAX_SKIPPED = 32
# Steps between two tries of widths the cost model may be wrong about.
TRY_STEPS = 128
GAP_STEPS = 96
MAX_TRIES = 4
RETRY_STEPS = 8
# A try this much cheaper than expected is repeated at once.
CHEAPER = 0.85


class Sizer:
    """Chooses how many nodes of a draft to test and learns from what came of it."""

    def __init__(self, cost: CostModel, branch_seconds: float = 0.0) -> None:
        """`branch_seconds`: what a tree costs over a chain of the same width."""
        self.cost = cost
        self.branch_seconds = branch_seconds
        self._account = Account()
        self._plain_times: list[float] = []
        self._since_lesson = 0.0
        self._idle = 0
        self._skipped = 0
        # Of a draft, smoothed, and of a one-token step at the last context length.
        self._draft_seconds = 0.0
        self._step_seconds = math.inf
        self._since_try = 0
        self._tries = 0
        self._is_try = False

    def begin(self) -> None:
        """Starts an answer."""
        self._account.begin()

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
        if self._idle < IDLE_STEPS or not self.cost.is_measured:
            return False
        affordable = self._draft_seconds / (IDLE_SHARE * self._step_seconds)
        self._skipped += 1
        if self._skipped < min(MAX_SKIPPED, affordable):
            return True
        self._skipped = 0
        return False

    def costs(self, context_length: int) -> Float64Array:
        """Seconds of a verify batch of 1 to 64 tokens, float64 [64].

        Now and then what they might be at best, for widths that were not seen for long.
        """
        if self._is_try:
            return self.cost.hopeful(context_length)
        return self.cost.curve(context_length)

    def choose(self, probs: Float32Array, costs: Float64Array, num_chain: int | None = None) -> int:
        """How many first nodes (path probabilities `probs` [n]) to test; 0 is plain decoding.

        The first `num_chain` nodes are a chain (None: all). The gain must exceed the margin by as
        much as the chosen width's cost is uncertain.
        """
        if self.branch_seconds and num_chain is not None and num_chain < len(probs):
            costs = costs.copy()
            costs[num_chain + 1 :] += self.branch_seconds
        optimism = self._account.optimism
        size = best_size(probs, costs, optimism=optimism)
        self._idle = 0 if size else self._idle + 1
        if size == 0 or self._is_try:
            return size
        expected = 1.0 + optimism * float(probs[:size].sum())
        gain = expected * costs.item(0) / costs.item(size) - 1.0
        return size if gain > MARGIN + self.cost.relative_error(size + 1) / 2 else 0

    def observe(
        self,
        probs: Float32Array,
        num_accepted: int,
        context_length: int,
        decode_seconds: float,
        draft_seconds: float,
    ) -> None:
        """Takes in a verified step: tested nodes' probabilities, hits, and the step's seconds."""
        width = len(probs) + 1
        costs = self.cost.curve(context_length)
        plain, predicted = costs.item(0), costs.item(width - 1)
        self._step_seconds = plain
        if draft_seconds > 0:
            self._draft_seconds += (draft_seconds - self._draft_seconds) / 8
        if width == 1 and self._is_try:
            # There was no draft to try it on; looking at every step would cost more than it finds.
            self._since_try = TRY_STEPS - RETRY_STEPS
        if width > 1:
            self.cost.observe(width, context_length, decode_seconds)
            if self._is_try:
                self._after_try(decode_seconds / predicted)
        else:
            self._observe_plain(context_length, decode_seconds)
        if self.cost.is_measured and predicted < np.inf:
            bounded = min(max(decode_seconds, predicted / MAX_SURPRISE), predicted * MAX_SURPRISE)
            tokens = float(probs.sum()) if width > 1 else 0.0
            self._account.record(tokens, num_accepted, bounded + draft_seconds, plain)

    def _after_try(self, surprise: float) -> None:
        again = surprise < CHEAPER and self._tries < MAX_TRIES
        self._tries = self._tries + 1 if again else 0
        self._since_try = TRY_STEPS if again else GAP_STEPS if self.cost.has_gaps else 0

    def _observe_plain(self, context_length: int, seconds: float) -> None:
        self._plain_times.append(seconds)
        self._since_lesson += seconds
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
