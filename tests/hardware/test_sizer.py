"""The sizer joins cost, odds and account."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.hardware.budget import MARGIN
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import ProbePoint
from sssd_local.hardware.sizer import (
    FIRST_TRIED,
    IDLE_SHARE,
    IDLE_STEPS,
    MAX_SKIPPED,
    REST_SECONDS,
    RETRY_STEPS,
    TRY_SHARE,
    TRY_STEPS,
    Sizer,
)


def cost_model(*seconds: float, error: float = 0.01) -> CostModel:
    return CostModel(
        [ProbePoint(0, width, cost, error) for width, cost in enumerate(seconds, start=1)]
    )


def probs(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def expected_gain(
    odds: list[float], size: int, num_chain: int, curve: list[float], tree: float, save: float,
    load: float,
) -> float:  # fmt: skip
    """Tokens of a step over its seconds, against plain decoding, written out."""
    seconds = curve[size] + (tree if size > num_chain else 0.0)
    if save or load:
        reached = [1.0, *odds[:size]]
        seconds += save + (1 - reached[-1]) * load
        for kept in range(size):
            seconds += (reached[kept] - reached[kept + 1]) * curve[kept]
    return (1 + sum(odds[:size])) / seconds * curve[0] - 1


@settings(deadline=None)
@given(
    odds=st.lists(st.floats(0.01, 1), min_size=1, max_size=15),
    extra=st.lists(st.floats(0.05, 2), min_size=15, max_size=15),
    num_chain=st.integers(0, 15),
    tree=st.just(0.0) | st.floats(0, 1),
    restore=st.just((0.0, 0.0)) | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    error=st.floats(0.001, 0.2),
)
def test_every_choice_is_the_best_of_all_sizes_or_none(
    odds: list[float],
    extra: list[float],
    num_chain: int,
    tree: float,
    restore: tuple[float, float],
    error: float,
) -> None:
    """Chains and trees, on any curve; no width that costs as many steps as it has tokens."""
    curve = np.cumsum([1.0, *extra]).tolist()
    sizer = Sizer(cost_model(*curve, error=error), tree, *restore)
    path = np.cumprod(np.array(odds, np.float32))
    num_chain = min(num_chain, len(odds))
    size = sizer.choose(path, sizer.costs(0), num_chain if tree else None)
    believed = (0.95 * path.astype(float)).tolist()
    gains = [
        expected_gain(believed, n, num_chain if tree else 15, curve, tree, *restore)
        for n in range(1, len(odds) + 1)
    ]
    best = max(gains)
    if size:
        assert gains[size - 1] == pytest.approx(best, rel=1e-4, abs=1e-5)
        assert gains[size - 1] > MARGIN - 1e-6
        assert (size + 1) / curve[size] > 1
    else:
        bar = MARGIN + max(sizer.cost.relative_error(n + 1) for n in range(1, len(odds) + 1)) / 2
        assert best <= bar + 1e-5


def test_what_going_back_costs_is_counted_before_any_of_it_was_seen() -> None:
    odds = probs(0.7, 0.5)
    assert Sizer(cost_model(1.0, 1.2, 1.4)).choose(odds, cost_model(1.0, 1.2, 1.4).curve(0)) == 2
    for save, load in ((0.4, 0.1), (0.05, 0.8)):
        sizer = Sizer(cost_model(1.0, 1.2, 1.4), 0.0, save, load)
        assert sizer.choose(odds, sizer.costs(0)) == 0
    sure = Sizer(cost_model(1.0, 1.2, 1.4), 0.0, 0.05, 0.8)
    assert sure.choose(probs(0.99, 0.98), sure.costs(0)) == 2


def test_the_curve_does_not_learn_what_going_back_cost() -> None:
    sizer = Sizer(cost_model(1.0, 1.2, 1.4), 0.0, 0.1, 0.1)
    for _ in range(50):
        sizer.observe(probs(0.9, 0.8), 0, 0, 1.4, 0.0, 1.5)
    assert sizer.costs(0)[2] == pytest.approx(1.4, rel=0.02)


def test_going_back_that_is_dearer_than_was_measured_ends_drafting_in_a_few_steps() -> None:
    sizer = Sizer(cost_model(1.0, 1.2, 1.4))
    drafted = 0
    for _ in range(200):
        drafts = sizer.allows()
        size = sizer.choose(probs(0.8, 0.6), sizer.costs(0)) if drafts else 0
        drafted += size > 0
        # Every second draft is wrong, and going back takes four steps.
        wrong = drafted % 2
        sizer.observe(
            probs(0.8, 0.6)[:size], 0 if wrong else size, 0, (1.0, 1.2, 1.4)[size], 0.0,
            4.0 * wrong if size else 0.0,
        )  # fmt: skip
    assert 2 <= drafted <= 16


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


def test_tries_lose_no_more_than_their_share() -> None:
    """Drafts of 15 sure tokens, which once cost 3 steps and now 40; shorter ones never pay."""
    costs = [1.0, *(1.9 * size for size in range(1, 15)), 3.0]
    sizer = Sizer(cost_model(*costs))
    sure = np.full(15, 0.99, np.float32).cumprod()

    def lost(now: float) -> float:
        size = sizer.choose(sure, sizer.costs(0)) if sizer.allows() else 0
        seconds = now if size == 15 else costs[size]
        sizer.observe(sure[:size], size, 0, seconds, 0.0)
        return seconds - 1 - size

    for _ in range(200):
        lost(40.0)
    losses = [max(0.0, lost(40.0)) for _ in range(4000)]
    assert 0 < sum(losses) <= FIRST_TRIED + TRY_SHARE * len(losses)
    for _ in range(8000):
        lost(3.0)
    assert sizer.choose(sure, sizer.cost.curve(0)) == 15


def test_dear_drafting_is_thinned_out_while_nothing_pays() -> None:
    sizer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    step = sizer.cost.seconds(1, 0)
    drafted = [drafts for drafts, _ in idle(sizer, 2000, 0.05 * step)]
    assert all(drafted[:IDLE_STEPS])
    # 5 % of a step every fifth step is the share allowed.
    assert sum(drafted[IDLE_STEPS:]) == pytest.approx((2000 - IDLE_STEPS) / 5, rel=0.05)
    assert IDLE_SHARE == 0.01


def test_drafting_that_costs_steps_is_thinned_out_before_it_has_cost_many() -> None:
    sizer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    drafted = [drafts for drafts, _ in idle(sizer, 2000, 0.5)]
    # Four drafts cost the two steps allowed, the fifth more.
    assert drafted[:8] == [True] * 5 + [False] * 3
    assert sum(drafted[5:]) == pytest.approx(1995 * IDLE_SHARE / 0.5, abs=1)
    dearest = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    assert sum(drafts for drafts, _ in idle(dearest, 2000, 5.0)) <= 3 + 2000 / MAX_SKIPPED


def test_a_draft_that_won_steps_pays_for_the_next_looks() -> None:
    sizer = Sizer(cost_model(1.0, 1.2, 1.4, 1.6))
    assert not all(drafts for drafts, _ in idle(sizer, 20, 0.5))
    while not sizer.allows():
        sizer.observe(probs(), 0, 0, 1.0, 0.0)
    assert sizer.choose(probs(0.9, 0.8, 0.7), sizer.costs(0)) == 3
    sizer.observe(probs(0.9, 0.8, 0.7), 3, 0, 1.6, 0.5)
    assert all(drafts for drafts, _ in idle(sizer, 3, 0.5))


def test_a_rest_is_told_in_advance_and_learned_from_at_once() -> None:
    fast = 0.0002
    one, other = (Sizer(cost_model(fast, 2 * fast)) for _ in range(2))
    for sizer in (one, other):
        idle(sizer, 40, fast)
        while sizer.allows():
            sizer.observe(probs(), 0, 0, fast, fast)
    assert 1 < one.num_resting <= MAX_SKIPPED
    rests = one.num_resting
    one.observe_rest([fast] * rests, 0)
    other.observe(probs(), 0, 0, fast, 0.0)
    for _ in range(rests - 1):
        assert not other.allows()
        other.observe(probs(), 0, 0, fast, 0.0)
    assert one.allows()
    assert other.allows()


def test_a_rest_ends_early_enough_to_see_a_slower_machine() -> None:
    slow = Sizer(cost_model(0.02, 0.04))
    idle(slow, 40, 0.02)
    while slow.allows():
        slow.observe(probs(), 0, 0, 0.02, 0.02)
    assert slow.num_resting == int(REST_SECONDS / 0.02) == 2
    for _ in range(20):
        slow.observe_rest([0.03, 0.03], 0)
    assert slow.plain_seconds(0) == pytest.approx(0.03, rel=0.05)


def test_a_rest_of_the_account_is_passed_at_once() -> None:
    sizer = Sizer(cost_model(1e-4, 1.9e-4))
    while sizer.allows():
        sizer.observe(probs(0.95), 0, 0, 1.9e-4, 0.0)
    assert sizer.num_resting == 16
    sizer.observe_rest([1e-4] * 16, 0)
    assert sizer.allows()


def test_cheap_drafting_is_not_thinned_out() -> None:
    sizer = Sizer(cost_model(1.0, 1.8, 2.4, 2.1))
    step = sizer.cost.seconds(1, 0)
    assert all(drafts for drafts, _ in idle(sizer, 500, 0.5 * IDLE_SHARE * step))
