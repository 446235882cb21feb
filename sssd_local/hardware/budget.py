"""How many draft nodes pay on this machine, and whether speculation has been paying at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

MARGIN = 0.03


def best_size(
    probs: Float32Array,
    costs: Float64Array,
    *,
    draft_seconds: float = 0.0,
    margin: float = MARGIN,
    optimism: float = 1.0,
) -> int:
    """How many of the first nodes to test: the most expected tokens per second.

    `probs` [n]: path probabilities, non-increasing; `costs` [≥ n + 1]: seconds of a verify batch
    of i + 1 tokens, inf where a width is not offered. Sizes are judged by
    (1 + optimism · Σ probs) / (costs[size] + draft_seconds), all of them, because curves are
    saw-toothed; the result is 0 unless plain decoding is beaten by `margin`.
    """
    expected, best, best_rate = 1.0, 0, (1.0 + margin) / costs.item(0) if len(costs) else 0.0
    for size, (prob, cost) in enumerate(zip(probs.tolist(), costs[1:].tolist(), strict=False), 1):
        expected += optimism * prob
        rate = expected / (cost + draft_seconds)
        if rate > best_rate:
            best, best_rate = size, rate
    return best


class Account:
    """Whether speculation pays in this answer: expected against realised, in tokens and in time.

    Realised over predicted tokens, shrunk towards 1, scales the next predictions (`optimism`).
    The time won or lost against plain decoding is kept with slow forgetting; once it falls below
    the loss allowed, speculation rests for some steps and is then tried again, resting longer
    each time it fails.
    """

    SHRINK_TOKENS = 30.0
    CARRIED = 0.5
    LEAST_OPTIMISM = 0.5
    # Below 1: the best of many sizes is in part the one whose odds happen to be too high.
    MOST_OPTIMISM = 0.95
    KEEP = 0.98
    # In plain steps; or this many times what the dearest draft of late staked: a wide one that
    # fails is no trend.
    ALLOWED_LOSS = 6.0
    ALLOWED_STAKES = 2.0
    FIRST_REST = 16
    LONGEST_REST = 256

    def __init__(self) -> None:
        self._predicted = 0.0
        self._accepted = 0.0
        self._gain = 0.0
        self._allowed = self.ALLOWED_LOSS
        self._resting = 0
        self._next_rest = self.FIRST_REST

    @property
    def optimism(self) -> float:
        """What predicted acceptance is multiplied with."""
        ratio = (self._accepted + self.SHRINK_TOKENS) / (self._predicted + self.SHRINK_TOKENS)
        return min(self.MOST_OPTIMISM, max(self.LEAST_OPTIMISM, ratio))

    def begin(self) -> None:
        """Starts an answer: what was learned of the odds counts half, the time starts anew.

        After an answer that ended in a rest the first one is as long as that would have been next.
        """
        self._predicted *= self.CARRIED
        self._accepted *= self.CARRIED
        self._gain = 0.0
        self._allowed = self.ALLOWED_LOSS
        if not self._resting:
            self._next_rest = self.FIRST_REST
        self._resting = 0

    def allows(self) -> bool:
        """Whether the next step may speculate."""
        return self._resting == 0

    @property
    def num_resting(self) -> int:
        """How many more steps speculation rests."""
        return self._resting

    def rest(self, num_steps: int) -> None:
        """Takes in plain steps of a rest."""
        self._resting = max(0, self._resting - num_steps)

    def record(
        self,
        predicted: float,
        accepted: int,
        seconds: float,
        plain: float,
        *,
        staked: float = 0.0,
    ) -> None:
        """Takes in a step: Σ probs of the tested nodes, how many were right, the step's seconds
        with drafting, and the seconds of a plain step.

        `staked`: the plain steps that a draft of this width was known to lose if all of it is
        wrong.
        """
        if self._resting:
            self._resting -= 1
            return
        self._predicted = self.KEEP * self._predicted + predicted
        self._accepted = self.KEEP * self._accepted + accepted
        # In plain steps; what was won early does not pay for losing on and on.
        self._allowed = max(
            self.ALLOWED_LOSS, self.KEEP * self._allowed, self.ALLOWED_STAKES * staked
        )
        gain = self.KEEP * self._gain + (1 + accepted) - seconds / plain
        self._gain = min(gain, self.ALLOWED_LOSS)
        if self._gain < -self._allowed:
            self._resting = self._next_rest
            self._next_rest = min(2 * self._next_rest, self.LONGEST_REST)
            # What is left is as little as for narrow drafts: one more wide one that fails rests.
            self._gain = self.ALLOWED_LOSS / 2 - self._allowed
