"""The sizer joins cost, odds and account."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import ProbePoint
from sssd_local.hardware.sizer import (
    IDLE_SHARE,
    IDLE_STEPS,
    MAX_SKIPPED,
    RETRY_STEPS,
    TRY_STEPS,
    Sizer,
)


def cost_model(*seconds: float, error: float = 0.01) -> CostModel:
    return CostModel(
        [ProbePoint(0, width, cost, error) for width, cost in enumerate(seconds, start=1)]
    )


def probs(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_no_draft_is_plain() -> None:
    sizer = Sizer(cost_model(1.0, 1.2))
    assert sizer.choose(probs(), sizer.costs(0)) == 0


def test_a_sure_node_is_tested_where_it_pays() -> None:
    sizer = Sizer(cost_model(1.0, 1.2, 3.0))
    assert sizer.choose(probs(0.9, 0.8), sizer.costs(0)) == 1
    assert sizer.choose(probs(0.1, 0.1), sizer.costs(0)) == 0


def test_uncertain_costs_ask_for_more_gain() -> None:
    sure, unsure = Sizer(cost_model(1.0, 1.5)), Sizer(cost_model(1.0, 1.5, error=0.3))
    odds = probs(0.6)
    assert sure.choose(odds, sure.costs(0)) == 1
    assert unsure.choose(odds, unsure.costs(0)) == 0


def test_widths_that_were_never_measured_are_not_chosen() -> None:
    sizer = Sizer(cost_model(1.0, 1.01))
    assert sizer.choose(probs(0.9, 0.9, 0.9), sizer.costs(0)) == 1


def test_losing_rests_and_is_tried_again() -> None:
    sizer = Sizer(cost_model(1.0, 1.9))
    sizer.begin()
    losses = 0
    while sizer.allows():
        sizer.observe(probs(0.95), 0, 0, 1.9, 0.0)
        losses += 1
        assert losses < 20
    rests = 0
    while not sizer.allows():
        sizer.observe(probs(), 0, 0, 1.0, 0.0)
        rests += 1
        assert rests < 100
    assert losses >= 3
    assert rests >= 8


def test_misses_lower_the_expectation() -> None:
    sizer = Sizer(cost_model(1.0, 1.4))
    odds = probs(0.6)
    assert sizer.choose(odds, sizer.costs(0)) == 1
    for _ in range(40):
        sizer.observe(odds, 0, 0, 1.4, 0.0)
    assert sizer.choose(odds, sizer.costs(0)) == 0


def test_a_stalled_step_counts_twice_at_most() -> None:
    sizer = Sizer(cost_model(1.0, 1.2))
    sizer.observe(probs(0.9), 1, 0, 500.0, 0.0)
    assert sizer.allows()
    assert sizer.costs(0)[1] == pytest.approx(1.2, rel=0.01)


def test_plain_seconds_are_known_once_measured() -> None:
    assert Sizer(cost_model(0.02, 0.04)).plain_seconds(100) == pytest.approx(0.02)
    sizer = Sizer(CostModel())
    assert sizer.plain_seconds(0) is None
    sizer.observe(probs(), 0, 0, 0.5, 0.0)
    assert sizer.plain_seconds(0) == pytest.approx(0.5)


def idle(sizer: Sizer, num_steps: int, draft_seconds: float) -> list[tuple[bool, bool]]:
    """For each of so many steps without candidates: whether it drafts, and whether it tries."""
    seen = []
    for _ in range(num_steps):
        drafts = sizer.allows()
        hopeful = False
        if drafts:
            costs = sizer.costs(0)
            hopeful = costs is not sizer.cost.curve(0)
            assert sizer.choose(np.zeros(0, np.float32), costs) == 0
        sizer.observe(
            np.zeros(0, np.float32), 0, 0, sizer.cost.seconds(1, 0), draft_seconds if drafts else 0
        )
        seen.append((drafts, hopeful))
    return seen


def test_a_try_without_a_draft_is_repeated_some_steps_later() -> None:
    sizer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    seen = idle(sizer, 3 * TRY_STEPS, 1e-9)
    tries = [number for number, (_, hopeful) in enumerate(seen) if hopeful]
    assert tries[0] == TRY_STEPS
    assert {after - before for before, after in pairwise(tries)} == {RETRY_STEPS + 1}


def test_dear_drafting_is_thinned_out_while_nothing_pays() -> None:
    sizer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    step = sizer.cost.seconds(1, 0)
    drafted = [drafts for drafts, _ in idle(sizer, 2000, 0.05 * step)]
    assert all(drafted[:IDLE_STEPS])
    # 5 % of a step every fifth step is the share allowed.
    assert sum(drafted[IDLE_STEPS:]) == pytest.approx((2000 - IDLE_STEPS) / 5, rel=0.05)
    dearer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    seen = [drafts for drafts, _ in idle(dearer, 2000, 0.5 * step)]
    # Rests for what the first drafts cost come in between at first.
    assert sum(seen[1000:]) == pytest.approx(1000 / MAX_SKIPPED, abs=1)
    assert IDLE_SHARE == 0.01


def test_cheap_drafting_is_not_thinned_out() -> None:
    sizer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    step = sizer.cost.seconds(1, 0)
    assert all(drafts for drafts, _ in idle(sizer, 500, 0.5 * IDLE_SHARE * step))
