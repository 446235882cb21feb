"""Made-up machines: verify batches that take virtual time by a given cost curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

# Measured: a saw-toothed curve of a 2-core CPU with 4-bit weights, in one-token steps.
SAW_TOOTH = {1: 1.0, 2: 1.78, 3: 2.45, 4: 2.07, 5: 2.74, 6: 3.4, 7: 4.11, 8: 3.53, 10: 4.63}
SAW_TOOTH |= {12: 4.62, 16: 4.89, 20: 6.77, 24: 7.68, 32: 9.05, 48: 13.0, 64: 15.3}
# A curve where two tokens cost more than two steps.
STEEP = {1: 1.0, 2: 2.49, 4: 3.41, 5: 4.81, 7: 6.47, 8: 4.27, 10: 6.17, 12: 4.86, 16: 5.91}
STEEP |= {20: 7.11, 24: 8.43, 32: 12.08, 48: 15.73, 64: 18.74}
FLAT = {1: 1.0, 8: 1.15, 16: 1.3, 32: 1.5, 64: 2.0}
CLIFF = {1: 1.0, 8: 1.15, 9: 2.3, 64: 3.0}
LINEAR = {1: 1.0, 64: 64.0}
CURVES = {
    "saw-tooth": SAW_TOOTH,
    "steep": STEEP,
    "flat": FLAT,
    "cliff": CLIFF,
    "linear": LINEAR,
}


def whole_curve(points: Mapping[int, float]) -> list[float]:
    """Relative cost of widths 1 to 64 (index width - 1), linear between the points."""
    widths, costs = list(points), list(points.values())
    return [float(cost) for cost in np.interp(np.arange(1, 65), widths, costs)]


class Machine:
    """A clock that only verify batches move; `factor(number, width)` disturbs single steps."""

    def __init__(
        self,
        points: Mapping[int, float],
        step_seconds: float,
        *,
        noise: float = 0.0,
        seed: int = 0,
        factor: Callable[[int, int], float] = lambda number, width: 1.0,
    ) -> None:
        self.curve = [cost * step_seconds for cost in whole_curve(points)]
        self.now = 100.0
        self.calls: list[int] = []
        self._noise = noise
        self._random = np.random.default_rng(seed)
        self._factor = factor

    def clock(self) -> float:
        return self.now

    def decode(self, width: int) -> None:
        self.now += self.step(width)

    def step(self, width: int) -> float:
        """Seconds of the next step."""
        disturbed = self._factor(len(self.calls), width)
        self.calls.append(width)
        noise = float(np.exp(self._random.normal(0, self._noise))) if self._noise else 1.0
        return self.curve[width - 1] * noise * disturbed
