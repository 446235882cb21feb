"""Thread counts on machines with and without a busy neighbour."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sssd_local.hardware.governor import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SLOW_STEPS,
    TRIAL_STEPS,
    WINDOW,
    ThreadGovernor,
)


def drive(
    governor: ThreadGovernor, slowness: Callable[[tuple[int, int]], float], num_steps: int
) -> list[tuple[int, int]]:
    """The counts each step ran with."""
    used = []
    for _ in range(num_steps):
        used.append(governor.current)
        change = governor.observe(slowness(governor.current))
        assert change is None or change == governor.current
    return used


def busy(counts: tuple[int, int]) -> float:
    return 20.0 if counts[0] == 2 else 1.9


def quiet(counts: tuple[int, int]) -> float:
    return 1.0 if counts[0] == 2 else 1.9


def test_a_quiet_machine_keeps_its_threads() -> None:
    governor = ThreadGovernor(2, 2)
    assert set(drive(governor, quiet, 1000)) == {(2, 2)}


def test_a_few_stalls_are_no_reason() -> None:
    governor = ThreadGovernor(2, 2)
    times = [50.0 if step % 4 == 0 else 1.0 for step in range(400)]
    assert SLOW_STEPS * 4 > WINDOW
    assert set(drive(governor, lambda counts: times.pop(), 400)) == {(2, 2)}


def test_a_busy_neighbour_costs_a_window_and_is_looked_after_now_and_then() -> None:
    governor = ThreadGovernor(2, 3)
    used = drive(governor, busy, 600)
    assert used[:WINDOW] == [(2, 3)] * WINDOW
    assert used[WINDOW] == (1, 2)
    assert used[WINDOW : WINDOW + TRIAL_STEPS + FIRST_PAUSE] == [(1, 2)] * (
        TRIAL_STEPS + FIRST_PAUSE
    )
    # Trials of all threads come rarer and rarer.
    assert used.count((2, 3)) <= WINDOW + 5 * TRIAL_STEPS


def test_threads_come_back_when_the_neighbour_goes() -> None:
    governor = ThreadGovernor(2, 2)
    drive(governor, busy, 40)
    assert governor.current == (1, 1)
    drive(governor, quiet, FIRST_PAUSE + TRIAL_STEPS)
    assert governor.current == (2, 2)
    assert set(drive(governor, quiet, 200)) == {(2, 2)}


def test_a_slow_machine_that_gains_nothing_is_tried_rarer_each_time() -> None:
    governor = ThreadGovernor(2, 2)
    used = drive(governor, lambda counts: 3.0, 4000)
    assert used.count((1, 1)) <= TRIAL_STEPS * 12
    assert governor.current == (2, 2) or governor._in_trial
    assert governor._next_pause == LONGEST_PAUSE


@pytest.mark.parametrize("counts", [(1, 1)])
def test_one_thread_cannot_be_fewer(counts: tuple[int, int]) -> None:
    governor = ThreadGovernor(*counts)
    assert set(drive(governor, lambda counts: 30.0, 200)) == {counts}
