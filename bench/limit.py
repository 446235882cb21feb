"""What a verify batch costs on this machine by its width, and the most that drafts could bring."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.method import Setup
from sssd_local.config import MAX_WIDTH
from sssd_local.engine.rig import ContextRig
from sssd_local.errors import ConfigError
from sssd_local.hardware.advice import best_rate
from sssd_local.llm import LLM

WIDTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
ROUNDS = 5
CONTEXT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Limit:
    """Cost of widths relative to one token's, and seconds of that; `costs` has width 1.

    Raises ConfigError for costs that are none.
    """

    costs: Mapping[int, float]
    step_seconds: float

    def __post_init__(self) -> None:
        if self.costs.get(1) != 1.0 or not all(cost > 0 for cost in self.costs.values()):
            raise ConfigError("costs are positive and relative to that of width 1")

    @property
    def width(self) -> int:
        """The width that brings the most when all of its drafts come true."""
        return best_rate(self.costs)[0]

    @property
    def speedup(self) -> float:
        """The machine's limit: max(width ÷ cost), for drafts that always come true."""
        return best_rate(self.costs)[1]

    def at(self, tokens_per_step: float) -> float:
        """The most speed-up that steps of so many tokens on average can bring.

        No tested token is wasted then, and steps of different widths are mixed as it pays best.
        """
        widths = np.array(sorted(self.costs), np.float64)
        costs = np.array([self.costs[int(width)] for width in widths])
        best = np.inf
        for low in range(len(widths)):
            for high in range(low, len(widths)):
                if widths[low] <= tokens_per_step <= widths[high]:
                    pair = widths[[low, high]], costs[[low, high]]
                    best = min(best, float(np.interp(tokens_per_step, *pair)))
        return tokens_per_step / best

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.width} tokens in one step cost {self.costs[self.width]:.2f} times one "
            f"({1000 * self.step_seconds:.1f} ms): drafts that always come true would bring "
            f"{self.speedup:.2f}×"
        )

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON."""
        return {
            "speedup": self.speedup,
            "width": self.width,
            "step_ms": 1000 * self.step_seconds,
            "context_tokens": CONTEXT_TOKENS,
            "relative_cost": {str(width): cost for width, cost in self.costs.items()},
        }


def measure_limit(setup: Setup, rounds: int = ROUNDS) -> Limit:
    """Times every width in turn, several rounds, after CONTEXT_TOKENS tokens; takes medians."""
    with (
        LLM(
            setup.model,
            ctx=setup.ctx,
            threads=setup.threads,
            threads_batch=setup.threads,
            kv_type=setup.kv_type,
            speculation="off",
        ) as llm,
        llm.engine() as engine,
    ):
        context, rig = engine.context, ContextRig(engine.context)
        start = max(1, min(CONTEXT_TOKENS, context.ctx - MAX_WIDTH))
        widths = [width for width in WIDTHS if start + width <= context.ctx]
        try:
            rig.fill(start)
            seconds: dict[int, list[float]] = {width: [] for width in widths}
            for number in range(rounds + 1):
                for width in widths:
                    rig.decode(width)
                    # The first round warms up.
                    if number:
                        seconds[width].append(context.decode_seconds)
        finally:
            engine.reset()
    medians = {width: statistics.median(times) for width, times in seconds.items()}
    return Limit({width: time / medians[1] for width, time in medians.items()}, medians[1])
