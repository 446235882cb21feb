from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.hardware.budget import MARGIN, Account, best_size

PLAIN = 1.0


def brute_force(
    probs: list[float], costs: list[float], draft_seconds: float, margin: float, optimism: float
) -> list[float]:
    rates = [1.0 / costs[0]]
    for size in range(1, min(len(probs), len(costs) - 1) + 1):
        expected = 1.0 + optimism * sum(probs[:size])
        rates.append(expected / (costs[size] + draft_seconds))
    return rates


@given(
    st.lists(st.floats(0, 1, width=32), max_size=63),
    st.lists(st.floats(0.01, 100) | st.just(float("inf")), min_size=1, max_size=64),
    st.floats(0.01, 100),
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.floats(0.5, 1.5),
)
def test_best_size_equals_trying_all(
    probs: list[float],
    costs: list[float],
    first_cost: float,
    draft_seconds: float,
    margin: float,
    optimism: float,
) -> None:
    probs, costs = sorted(probs, reverse=True), [first_cost, *costs]
    size = best_size(
        np.array(probs, np.float32),
        np.array(costs),
        draft_seconds=draft_seconds,
        margin=margin,
        optimism=optimism,
    )
    rates = brute_force(probs, costs, draft_seconds, margin, optimism)
    best = max(rates[1:], default=0.0)
    wanted = (1.0 + margin) / costs[0]
    if size:
        assert rates[size] == pytest.approx(best)
        assert rates[size] > wanted * (1 - 1e-9)
    else:
        assert best <= wanted * (1 + 1e-9)


def test_a_saw_tooth_is_looked_across() -> None:
    probs = np.array([0.6, 0.5, 0.45, 0.4], np.float32)
    assert best_size(probs, np.array([1.0, 1.78, 2.45, 2.07, 2.74])) == 3


def test_the_margin_guards_small_gains() -> None:
    probs = np.array([0.5], np.float32)
    assert best_size(probs, np.array([1.0, 1.5 / (1 + 0.9 * MARGIN)])) == 0
    assert best_size(probs, np.array([1.0, 1.5 / (1 + 1.1 * MARGIN)])) == 1
    assert best_size(probs, np.array([1.0, 1.3]), draft_seconds=0.2) == 0
    assert best_size(probs, np.array([1.0, 1.3]), optimism=0.5) == 0


def test_nothing_to_choose_from() -> None:
    assert best_size(np.zeros(0, np.float32), np.ones(64)) == 0
    assert best_size(np.ones(5, np.float32), np.ones(1)) == 0
    assert best_size(np.ones(2, np.float32), np.array([1.0, np.inf, np.inf])) == 0


def test_optimism_follows_what_came_true_within_bounds() -> None:
    account = Account()
    assert account.optimism == Account.MOST_OPTIMISM == 0.95
    account.record(30.0, 0, 1.0, PLAIN)
    assert account.optimism == pytest.approx(0.5)
    account.record(0.0, 15, 1.0, PLAIN)
    keep, shrink = Account.KEEP, Account.SHRINK_TOKENS
    assert account.optimism == pytest.approx((15 + shrink) / (keep * 30 + shrink))
    for _ in range(100):
        account.record(1.0, 3, 1.0, PLAIN)
    assert account.optimism == 0.95
    for _ in range(300):
        account.record(3.0, 0, 1.0, PLAIN)
    assert account.optimism == Account.LEAST_OPTIMISM == 0.5


def test_half_of_the_odds_and_none_of_the_time_is_carried_to_the_next_answer() -> None:
    account = Account()
    account.record(30.0, 10, 100.0, PLAIN)
    assert not account.allows()
    account.begin()
    assert account.allows()
    shrink = Account.SHRINK_TOKENS
    assert account.optimism == pytest.approx((5 + shrink) / (15 + shrink))


def test_losing_rests_speculation_and_tries_again_later_and_rarer() -> None:
    account = Account()
    rests: list[int] = []
    for _ in range(3):
        while account.allows():
            account.record(1.0, 0, 2.5, PLAIN)
        rest = 0
        while not account.allows():
            account.record(0.0, 0, 1.0, PLAIN)
            rest += 1
        rests.append(rest)
    assert rests == [16, 32, 64]


def test_paying_never_rests_and_does_not_excuse_a_long_loss() -> None:
    account = Account()
    for _ in range(500):
        account.record(2.0, 2, 2.0, PLAIN)
        assert account.allows()
    losing = 0
    while account.allows():
        account.record(2.0, 0, 2.0, PLAIN)
        losing += 1
    assert losing <= 2.5 * Account.ALLOWED_LOSS


def test_one_wide_draft_that_fails_is_no_reason_to_rest_but_three_are() -> None:
    account = Account()
    account.record(20.0, 0, 15.0, PLAIN, staked=14.0)
    assert account.allows()
    account.record(20.0, 0, 15.0, PLAIN, staked=14.0)
    assert account.allows()
    account.record(20.0, 0, 15.0, PLAIN, staked=14.0)
    assert not account.allows()
    account.begin()
    # The same loss, where such a draft was known to cost one step more.
    account.record(20.0, 0, 15.0, PLAIN, staked=1.0)
    assert not account.allows()


def test_after_a_rest_one_wide_draft_that_fails_rests_again() -> None:
    account = Account()
    rests: list[int] = []
    for _ in range(3):
        failed = 0
        while account.allows():
            account.record(20.0, 0, 15.0, PLAIN, staked=14.0)
            failed += 1
        rests.append(failed)
        while not account.allows():
            account.record(0.0, 0, 1.0, PLAIN)
    assert rests == [3, 1, 1]


def test_an_answer_after_one_that_ended_in_a_rest_rests_as_long() -> None:
    account = Account()
    for expected in (16, 32, 64):
        while account.allows():
            account.record(1.0, 0, 2.5, PLAIN)
        assert account.num_resting == expected
        account.begin()
    account.begin()
    while account.allows():
        account.record(1.0, 0, 2.5, PLAIN)
    assert account.num_resting == 16


def test_plain_steps_cost_nothing() -> None:
    account = Account()
    for _ in range(1000):
        account.record(0.0, 0, 1.0, PLAIN)
    assert account.allows()
