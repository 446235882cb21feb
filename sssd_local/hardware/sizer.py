"""When to speculate and how widely: costs, odds and the account of one model together."""

from __future__ import annotations

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


class Sizer:
    """Chooses how many nodes of a draft to test and learns from what came of it."""

    def __init__(self, cost: CostModel) -> None:
        self.cost = cost
        self._account = Account()
        self._plain_times: list[float] = []
        self._since_lesson = 0.0

    def begin(self) -> None:
        """Starts an answer."""
        self._account.begin()

    def allows(self) -> bool:
        """False while speculation rests because it has been losing."""
        return self._account.allows()

    def costs(self, context_length: int) -> Float64Array:
        """Seconds of a verify batch of 1 to 64 tokens, float64 [64], read-only."""
        return self.cost.curve(context_length)

    def choose(self, probs: Float32Array, costs: Float64Array) -> int:
        """How many first nodes (path probabilities `probs` [n]) to test; 0 is plain decoding.

        The gain must exceed the margin by as much as the chosen width's cost is uncertain.
        """
        optimism = self._account.optimism
        size = best_size(probs, costs, optimism=optimism)
        if size == 0:
            return 0
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
        if width > 1:
            self.cost.observe(width, context_length, decode_seconds)
        else:
            self._observe_plain(context_length, decode_seconds)
        if self.cost.is_measured and predicted < np.inf:
            bounded = min(max(decode_seconds, predicted / MAX_SURPRISE), predicted * MAX_SURPRISE)
            tokens = float(probs.sum()) if width > 1 else 0.0
            self._account.record(tokens, num_accepted, bounded + draft_seconds, plain)

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
