"""Sizing on machines that change: how soon it is right again, and what the change costs.

Steps have 5 % noise, and 2 % of them stall for 10 to 50 times their length.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

import numpy as np
import pytest

from tests.hardware.machines import whole_curve
from tests.hardware.worlds import Change, Drafts, Float64Array, World, copies, drafts

SEEDS = range(4)


@cache
def shipped() -> dict[str, dict[int, float]]:
    text = (resources.files("bench") / "curves.json").read_text(encoding="utf-8")
    return {
        name: {int(width): cost for width, cost in curve["relative_cost"].items()}
        for name, curve in json.loads(text).items()
    }


def faster(factor: float) -> Change:
    return lambda curve: curve * factor


def dearer_tokens(factor: float) -> Change:
    return lambda curve: curve[0] + factor * (curve - curve[0])


def moved_step(by: int) -> Change:
    """The largest jump of the cost per token between two widths comes one width later or sooner."""

    def change(curve: Float64Array) -> Float64Array:
        changed = curve.copy()
        jumps = abs(np.diff(np.log(curve[:33] / np.arange(1, 34))))
        jumps[0] = 0
        edge = int(jumps.argmax())
        changed[edge + 1 if by > 0 else edge] = curve[edge if by > 0 else edge + 1]
        return changed

    return change


def outcome(name: str, change: Change, patience: int) -> tuple[float, float]:
    """Mean shortfall `patience` steps after a change amid 2,000 steps, and mean regret."""
    shortfalls, regrets = [], []
    for seed in SEEDS:
        world = World(shipped()[name], seed)
        world.run(1000)
        world.change(change)
        world.run(patience)
        shortfalls.append(world.shortfall())
        world.run(1000 - patience)
        regrets.append(world.regret())
    return float(np.mean(shortfalls)), float(np.mean(regrets))


NAMES = ("cpu-2core-q4_0", "cpu-2core-q4_k_m", "cpu-2core-q8_0", "laptop", "apple", "cuda")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change", [faster(1.5), faster(3.0), dearer_tokens(0.5), dearer_tokens(3.0)]
)
def test_a_slower_machine_or_dearer_tokens_are_met_within_20_steps(
    name: str, change: Change
) -> None:
    shortfall, regret = outcome(name, change, 20)
    assert shortfall <= 0.05
    assert regret <= 0.03


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", [1, -1])
def test_a_kernel_step_that_moved_is_met_within_60_steps(name: str, by: int) -> None:
    shortfall, regret = outcome(name, moved_step(by), 60)
    assert shortfall <= 0.05
    assert regret <= 0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_a_curve_thought_too_dear_is_found_out(seed: int) -> None:
    """A busy machine was probed: hardly a draft seems to pay, but most would."""
    world = World({1: 1.0, 2: 1.9, 4: 3.6, 8: 7.0, 16: 15.0, 64: 63.0}, seed)
    world.run(300)
    world.change(lambda curve: np.array(whole_curve(shipped()["laptop"])) * curve[0])
    assert world.shortfall() > 0.35
    world.run(600)
    assert world.shortfall() < 0.2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("drafts", [drafts, copies])
@pytest.mark.parametrize("factor", [3.0, 6.0])
def test_tokens_that_were_dear_for_a_while_are_tried_again(
    name: str, drafts: Drafts, factor: float
) -> None:
    """Wide steps were held up; since they are no longer chosen, only tries can tell it is over."""
    shortfalls = []
    for seed in SEEDS:
        world = World(shipped()[name], seed, drafts=drafts)
        usual = world.curve
        world.run(300)
        world.change(dearer_tokens(factor))
        world.run(200)
        world.change(lambda curve, usual=usual: usual)
        world.run(1200)
        shortfalls.append(world.shortfall())
    assert np.mean(shortfalls) <= 0.05


@pytest.mark.parametrize("name", NAMES)
def test_wide_drafts_that_fail_now_and_then_are_no_reason_to_rest(name: str) -> None:
    """One of 64 tokens that fails at once may cost fifteen steps, and it was worth it."""
    regrets = []
    for seed in SEEDS:
        world = World(shipped()[name], seed, drafts=copies)
        world.run(1000)
        regrets.append(world.regret())
    assert np.mean(regrets) <= 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_widths_that_can_never_pay_are_never_tried(seed: int) -> None:
    """On Q8_0 weights and two cores two tokens cost 2.5 steps: no draft is ever that good."""
    world = World(shipped()["cpu-2core-q8_0"], seed)
    world.run(2000)
    assert not world.widths & {2, 3}
    assert 1 in world.widths
