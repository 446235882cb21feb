"""A made-up machine under a stream of made-up drafts: what sizing earns against the best."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import run_probe
from sssd_local.hardware.sizer import Sizer
from tests.hardware.machines import Machine, whole_curve

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Change = Callable[[Float64Array], Float64Array]
Drafts = Callable[[int, int], list[Float32Array]]

NOISE = 0.05
STALLS = 0.02
PANEL = 400


def drafts(number: int, seed: int) -> list[Float32Array]:
    """Path probabilities as replays see them: often nothing, mostly short, now and then a copy."""
    random = np.random.default_rng(seed)
    found: list[Float32Array] = []
    for _ in range(number):
        if random.random() < 0.4:
            found.append(np.zeros(0, np.float32))
            continue
        each = random.beta(2, 1.2)
        probs = np.cumprod(np.clip(each + random.normal(0, 0.05, 63), 0.02, 0.97))
        found.append(probs[probs > 0.02].astype(np.float32))
    return found


def copies(number: int, seed: int) -> list[Float32Array]:
    """Path probabilities of a text that mostly repeats an earlier one."""
    random = np.random.default_rng(seed)
    each = random.choice([0.9, 0.97, 0.985, 0.99], size=number)
    return list(np.cumprod(np.repeat(each[:, None], 63, axis=1), axis=1, dtype=np.float32))


def best_sizes(panel: list[Float32Array], curve: Float64Array) -> list[int]:
    """The size of most expected tokens per second for each draft, by trying all."""
    sizes = []
    for probs in panel:
        rates = (1 + np.concatenate(([0.0], np.cumsum(probs, dtype=float)))) / curve[
            : len(probs) + 1
        ]
        sizes.append(int(rates.argmax()))
    return sizes


def rates(panel: list[Float32Array], sizes: list[int], curve: Float64Array) -> Float64Array:
    """Expected tokens per second of testing `sizes` nodes of each draft."""
    tokens = [1 + float(probs[:size].sum()) for probs, size in zip(panel, sizes, strict=True)]
    return np.array(tokens) / curve[sizes]


class World:
    """A sizer at work on a machine whose curve may change between two steps."""

    def __init__(
        self,
        points: dict[int, float],
        seed: int,
        step_seconds: float = 0.02,
        drafts: Drafts = drafts,
    ) -> None:
        self.curve = np.array(whole_curve(points)) * step_seconds
        self._random = np.random.default_rng(seed)
        self._stream = iter(drafts(5000, seed))
        self._panel = drafts(PANEL, seed + 1000)
        machine = Machine(
            points, step_seconds, noise=NOISE, seed=seed, factor=lambda number, width: self._stall()
        )
        found = run_probe(machine.decode, machine.clock, max_width=64)
        self.sizer = Sizer(CostModel(found))
        self.earned = self.possible = 0.0
        self.widths: set[int] = set()

    def _stall(self) -> float:
        return float(self._random.uniform(10, 50)) if self._random.random() < STALLS else 1.0

    def change(self, change: Change) -> None:
        """The machine changes from now on."""
        self.curve = change(self.curve)

    def run(self, num_steps: int) -> None:
        """Sized steps, each verified with the odds its draft states."""
        for _ in range(num_steps):
            probs = next(self._stream)
            drafts = self.sizer.allows()
            size = self.sizer.choose(probs, self.sizer.costs(0)) if drafts else 0
            before = np.concatenate(([1.0], probs))[:size]
            conditional = probs[:size] / before
            misses = np.flatnonzero(self._random.random(size) >= conditional)
            accepted = int(misses[0]) if len(misses) else size
            self.widths.add(size + 1)
            noise = float(np.exp(self._random.normal(0, NOISE))) * self._stall()
            seconds = self.curve.item(size) * noise
            self.sizer.observe(probs[:size], accepted, 0, seconds, 0.0)
            (best,) = best_sizes([probs], self.curve)
            self.earned += rates([probs], [size], self.curve).item()
            self.possible += rates([probs], [best], self.curve).item()

    def shortfall(self) -> float:
        """How far the sizes chosen now fall short of the best rate, by a panel of drafts."""
        sizer = deepcopy(self.sizer)
        sizes = [sizer.choose(probs, sizer.cost.curve(0)) for probs in self._panel]
        best = rates(self._panel, best_sizes(self._panel, self.curve), self.curve)
        return 1 - float(rates(self._panel, sizes, self.curve).sum() / best.sum())

    def regret(self) -> float:
        """The share of the best rate missed so far."""
        return 1 - self.earned / self.possible
