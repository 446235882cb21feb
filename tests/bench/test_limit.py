"""The machine's limit: arithmetic on made-up costs, and a measurement of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.limit import CONTEXT_TOKENS, WIDTHS, Limit, measure_limit
from bench.method import Setup
from sssd_local.errors import ConfigError

SAW = Limit({1: 1.0, 2: 1.8, 3: 2.5, 4: 2.0, 8: 8.0}, 0.02)


def test_the_best_width_is_the_limit() -> None:
    assert (SAW.width, SAW.speedup) == (4, 2.0)
    assert SAW.line() == (
        "4 tokens in one step cost 2.00 times one (20.0 ms): drafts that always come true would "
        "bring 2.00×"
    )
    assert SAW.as_dict() == {
        "speedup": 2.0,
        "width": 4,
        "step_ms": 20.0,
        "context_tokens": CONTEXT_TOKENS,
        "relative_cost": {"1": 1.0, "2": 1.8, "3": 2.5, "4": 2.0, "8": 8.0},
    }


def test_between_widths_the_best_mixture_counts() -> None:
    assert SAW.at(1.0) == 1.0
    assert SAW.at(4.0) == 2.0
    # Half plain steps and half of four tokens: cost 1.5 for 2.5 tokens.
    assert SAW.at(2.5) == pytest.approx(2.5 / 1.5)
    assert SAW.at(8.0) == 1.0


@pytest.mark.parametrize("costs", [{}, {1: 2.0}, {1: 1.0, 2: 0.0}, {2: 1.0}])
def test_costs_are_relative(costs: dict[int, float]) -> None:
    with pytest.raises(ConfigError, match="relative to that of width 1"):
        Limit(costs, 1.0)


@pytest.mark.parametrize(("ctx", "widths"), [(512, WIDTHS), (66, WIDTHS), (64, WIDTHS[:-1])])
def test_measuring(tiny_model: Callable[..., Path], ctx: int, widths: tuple[int, ...]) -> None:
    limit = measure_limit(Setup(model=tiny_model(), ctx=ctx, threads=1, kv_type="f32"), rounds=1)
    assert tuple(limit.costs) == widths
    assert limit.costs[1] == 1.0
    assert limit.step_seconds > 0
    assert limit.speedup >= 1.0
