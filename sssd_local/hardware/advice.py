"""What a measured cost curve means: limit, knee, widths worth drafting, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sssd_local.hardware.budget import best_size
from sssd_local.hardware.probe import ProbePoint

# A good draft: each of its tokens is right this often.
TYPICAL_ODDS = 0.8
KNEE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Advice:
    """What a curve allows.

    `limit`: the most a draft that is always right could speed up decoding, max of width ÷ relative
    cost; `knee`: the narrowest width that gets nine tenths of it; `chosen`: by context length the
    width to verify a draft at whose tokens are each right 4 of 5 times (1: plain decoding);
    `useless`: measured widths at which no draft can pay.
    """

    limit: float
    knee: int
    chosen: dict[int, int]
    useless: tuple[int, ...]
    sentence: str


def relative_costs(points: Sequence[ProbePoint]) -> dict[int, dict[int, float]]:
    """By context length and width, the step's cost in one-token steps of that context."""
    seconds: dict[int, dict[int, float]] = {}
    for point in points:
        seconds.setdefault(point.context_length, {})[point.width] = point.seconds
    return {
        context_length: {width: cost / costs[1] for width, cost in sorted(costs.items())}
        for context_length, costs in sorted(seconds.items())
        if 1 in costs
    }


def best_rate(costs: Mapping[int, float]) -> tuple[int, float]:
    """The width with the most width ÷ cost, and that quotient: a machine's limit.

    `costs`: relative cost of each width. Drafts that always come true bring no more.
    """
    width = max(costs, key=lambda width: width / costs[width])
    return width, width / costs[width]


def advise(points: Sequence[ProbePoint]) -> Advice:
    """Reads a measured curve. Raises ValueError without a one-token step."""
    curves = relative_costs(points)
    if not curves:
        raise ValueError("no one-token step was measured")
    first = next(iter(curves.values()))
    rates = {width: width / cost for width, cost in first.items()}
    _, limit = best_rate(first)
    knee = min(width for width, rate in rates.items() if rate >= KNEE_SHARE * limit)
    chosen = {context_length: _chosen(curve) for context_length, curve in curves.items()}
    useless = tuple(width for width, rate in rates.items() if width > 1 and rate <= 1)
    return Advice(limit, knee, chosen, useless, _sentence(first, limit, chosen, useless))


def _chosen(curve: Mapping[int, float]) -> int:
    widths = np.array(list(curve))
    size = int(widths.max())
    # Only measured widths are on offer.
    costs = np.full(size, np.inf)
    costs[widths - 1] = list(curve.values())
    probs = (TYPICAL_ODDS ** np.arange(1, size)).astype(np.float32)
    return best_size(probs, costs) + 1


def _sentence(
    curve: Mapping[int, float],
    limit: float,
    chosen: Mapping[int, int],
    useless: tuple[int, ...],
) -> str:
    first = next(iter(chosen.values()))
    if limit < 1.05:
        return "No draft can pay on this machine: checking tokens costs as much as writing them."
    shown = 4 if 4 in curve else max(curve)
    cost = f"checking {shown} tokens costs {curve[shown]:.1f}× one"
    if first == 1:
        return f"Only very sure drafts pay: {cost}; copies can be up to {limit:.1f}× faster."
    avoid = ""
    if useless:
        avoid = f"; widths {', '.join(map(str, useless))} never pay"
    return f"Good drafts pay: {cost}{avoid}; copies can be up to {limit:.1f}× faster."
