"""The quick probe on made-up machines with a virtual clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.hardware.probe import (
    COARSE,
    MAX_REPEATS,
    ProbePoint,
    is_reliable,
    middle,
    run_probe,
)
from tests.hardware.machines import CURVES, FLAT, SAW_TOOTH, STEEP, Machine

EVERY_WIDTH = {*range(1, 17), 20, 24, 32, 48, 64}


def probe(machine: Machine, max_width: int = 64) -> dict[int, ProbePoint]:
    points = run_probe(
        machine.decode,
        machine.clock,
        max_width=max_width,
        context_length=300,
        max_seconds=1.95,
        max_steps=95,
    )
    assert [point.width for point in points] == sorted({point.width for point in points})
    assert all(point.context_length == 300 for point in points)
    return {point.width: point for point in points}


def worst_error(points: dict[int, ProbePoint], machine: Machine) -> float:
    """Largest relative error of a width's cost against the one-token step."""
    ratios = [
        points[width].seconds / points[1].seconds / (machine.curve[width - 1] / machine.curve[0])
        for width in points
    ]
    return max(abs(ratio - 1) for ratio in ratios)


@pytest.mark.parametrize("step_seconds", [0.0005, 0.02, 0.3])
@pytest.mark.parametrize("name", CURVES)
def test_a_quiet_machine_is_measured_exactly(name: str, step_seconds: float) -> None:
    machine = Machine(CURVES[name], step_seconds)
    points = probe(machine)
    for width, point in points.items():
        assert point.seconds == pytest.approx(machine.curve[width - 1])
        assert 0 < point.error <= 0.015
    assert is_reliable(list(points.values()), 64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("step_seconds", [0.0005, 0.02, 0.3])
@pytest.mark.parametrize("name", CURVES)
def test_the_budget_is_kept_and_noise_averaged(name: str, step_seconds: float, seed: int) -> None:
    machine = Machine(CURVES[name], step_seconds, noise=0.03, seed=seed)
    begin = machine.now
    points = probe(machine)
    assert machine.now - begin <= max(2.0, 100 * step_seconds)
    assert worst_error(points, machine) < 0.13
    assert points[1].seconds == pytest.approx(step_seconds, rel=0.05)


@pytest.mark.parametrize("step_seconds", [0.0005, 0.02, 0.3])
@pytest.mark.parametrize("name", CURVES)
def test_while_a_model_loads_a_second_and_a_half_or_eight_steps_are_enough(
    name: str, step_seconds: float
) -> None:
    machine = Machine(CURVES[name], step_seconds)
    begin = machine.now
    points = run_probe(machine.decode, machine.clock, max_width=64)
    # The first step, which may have to read the model from disk, comes on top.
    assert machine.now - begin <= max(1.5, 8 * step_seconds) + step_seconds
    assert {1, 2} <= {point.width for point in points}
    assert is_reliable(points, 64)


def test_a_fast_machine_is_measured_at_every_width_several_times() -> None:
    machine = Machine(SAW_TOOTH, 0.001, noise=0.03)
    points = probe(machine)
    assert points.keys() == EVERY_WIDTH
    assert all(machine.calls.count(width) == MAX_REPEATS for width in EVERY_WIDTH - {1})
    assert worst_error(points, machine) < 0.07


@pytest.mark.parametrize("curve", [SAW_TOOTH, STEEP])
def test_a_slow_machine_spends_its_budget_where_it_matters(curve: dict[int, float]) -> None:
    machine = Machine(curve, 0.05, noise=0.03)
    points = probe(machine)
    counts = {width: machine.calls.count(width) for width in points}
    assert counts[1] >= 3
    assert all(counts[width] >= 2 for width in (2, 3, 4, 8))
    assert all(counts[width] >= 1 for width in (6, 12, 16, 32))


def test_the_most_useful_widths_come_first() -> None:
    machine = Machine(SAW_TOOTH, 0.05)
    probe(machine)
    firsts = list(dict.fromkeys(machine.calls))
    assert firsts[:9] == [1, 4, 2, 8, 3, 16, 6, 12, 32]


def test_wide_batches_that_cannot_pay_are_skipped() -> None:
    # Beyond 8 each token costs a whole step more: no wider batch can ever win.
    machine = Machine({1: 1, 8: 1.2, 64: 57.2}, 0.001)
    points = probe(machine)
    assert {48, 64}.isdisjoint(points)
    assert {16, 32} <= points.keys()


def test_wide_batches_behind_one_cliff_are_not_skipped() -> None:
    machine = Machine({1: 1, 8: 1.1, 9: 5.0, 64: 5.0}, 0.001)
    assert probe(machine).keys() == EVERY_WIDTH


@pytest.mark.parametrize("max_width", [1, 2, 5, 8, 16, 31, 40, 64])
def test_no_batch_is_wider_than_allowed(max_width: int) -> None:
    machine = Machine(FLAT, 0.001)
    points = probe(machine, max_width)
    assert max(machine.calls) == max(points) == max_width
    assert min(points) == 1
    assert is_reliable(list(points.values()), max_width)


@pytest.mark.parametrize("stalled", range(32))
@pytest.mark.parametrize("step_seconds", [0.001, 0.02])
def test_one_stalled_sample_does_no_harm(step_seconds: float, stalled: int) -> None:
    def stall(number: int, _: int) -> float:
        return 50.0 if number == stalled else 1.0

    machine = Machine(SAW_TOOTH, step_seconds, noise=0.02, factor=stall)
    begin = machine.now
    points = probe(machine)
    assert worst_error(points, machine) < 0.1
    assert is_reliable(list(points.values()), 64)
    longest = 50 * 1.1 * machine.curve[machine.calls[stalled] - 1]
    assert machine.now - begin <= max(2.0, 100 * step_seconds) + longest


@pytest.mark.parametrize("seed", range(10))
def test_many_stalls_never_make_a_width_look_cheap(seed: int) -> None:
    def stall(number: int, _: int) -> float:
        return 50.0 if (number * 7919 + seed * 104729) % 23 == 0 else 1.0

    machine = Machine(SAW_TOOTH, 0.005, noise=0.02, seed=seed, factor=stall)
    points = probe(machine)
    for width, point in points.items():
        ratio = point.seconds / points[1].seconds / (machine.curve[width - 1] / machine.curve[0])
        assert ratio > 0.87


def test_two_stalled_anchors_in_a_row_do_not_count() -> None:
    def stall(number: int, _: int) -> float:
        return 48.0 if number in (14, 18) else 1.0

    machine = Machine(SAW_TOOTH, 0.02, factor=stall)
    points = probe(machine)
    assert [machine.calls[14], machine.calls[18]] == [1, 1]
    assert worst_error(points, machine) < 1e-9


def test_stalls_of_different_length_are_not_taken_for_a_dear_kernel() -> None:
    def stall(number: int, _: int) -> float:
        return 20.0 * number if number in (5, 6, 11) else 1.0

    machine = Machine(SAW_TOOTH, 0.001, factor=stall)
    points = probe(machine)
    assert machine.calls[5:8] == [2, 2, 2]
    assert points.keys() == EVERY_WIDTH
    assert worst_error(points, machine) < 1e-9


@pytest.mark.parametrize("again", [60.0, 61.0, 90.0])
def test_a_width_that_stalls_all_the_time_is_left_out(again: float) -> None:
    times = iter([60.0, again] * 20)

    def stall(_: int, width: int) -> float:
        return next(times) if width == 16 else 1.0

    machine = Machine(SAW_TOOTH, 0.0001, factor=stall)
    points = probe(machine)
    assert points.keys() == EVERY_WIDTH - {16}
    assert not is_reliable(list(points.values()), 64)


def test_a_machine_too_busy_to_measure_is_not_relied_on() -> None:
    machine = Machine(SAW_TOOTH, 0.001, noise=0.6)
    assert not is_reliable(list(probe(machine).values()), 64)
    machine = Machine(SAW_TOOTH, 0.001, noise=0.1)
    assert is_reliable(list(probe(machine).values()), 64)


def test_stalls_that_eat_the_budget_leave_the_probe_unreliable() -> None:
    def stall(_: int, width: int) -> float:
        return 60.0 if width in (2, 8) else 1.0

    machine = Machine(SAW_TOOTH, 0.02, factor=stall)
    points = probe(machine)
    # The first stall is forgiven, the second is too much.
    assert machine.calls == [1, 1, 1, 1, 4, 2, 2]
    assert points.keys() == {1, 4}
    assert not is_reliable(list(points.values()), 64)
    assert is_reliable(list(points.values()), 1)


def test_a_kernel_that_really_is_dear_is_believed() -> None:
    machine = Machine({1: 1, 2: 1.1, 3: 12.0, 4: 1.3, 64: 4.0}, 0.001)
    points = probe(machine)
    assert points[3].seconds == pytest.approx(0.012)
    assert points[4].seconds == pytest.approx(0.0013)


@pytest.mark.parametrize("step_seconds", [0.001, 0.02])
def test_a_machine_that_slows_down_meanwhile_keeps_its_curve(step_seconds: float) -> None:
    def throttle(number: int, _: int) -> float:
        return 1 + 0.25 * min(1.0, number / 40)

    machine = Machine(SAW_TOOTH, step_seconds, factor=throttle)
    assert worst_error(probe(machine), machine) < 0.08


def test_a_slow_start_is_not_charged_or_recorded() -> None:
    def cold(number: int, _: int) -> float:
        return (5000.0, 3.0, 1.5)[number] if number < 3 else 1.0

    machine = Machine(SAW_TOOTH, 0.001, factor=cold)
    points = probe(machine)
    assert points.keys() == EVERY_WIDTH
    assert worst_error(points, machine) < 1e-9


@pytest.mark.parametrize("allowed", range(12))
def test_it_stops_when_asked(allowed: int) -> None:
    machine = Machine(SAW_TOOTH, 0.001)
    points = run_probe(
        machine.decode,
        machine.clock,
        max_width=64,
        should_stop=lambda: len(machine.calls) >= allowed,
    )
    assert len(machine.calls) == allowed
    # Two steps warm up; after them every sample counts.
    assert {point.width for point in points} == set(COARSE[: max(0, allowed - 2)])


def test_a_failing_decode_is_not_hidden() -> None:
    def fail(_: int) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run_probe(fail, lambda: 0.0, max_width=8)


def test_a_clock_that_stands_still_is_survived() -> None:
    points = run_probe(lambda _: None, lambda: 5.0, max_width=8)
    assert {point.width for point in points} == set(range(1, 9))
    assert all(point.seconds > 0 for point in points)


def test_the_real_clock_is_the_default() -> None:
    calls: list[int] = []
    points = run_probe(calls.append, max_width=4)
    assert {point.width for point in points} == {1, 2, 3, 4}


def test_single_samples_are_trusted_less_than_repeated_ones() -> None:
    points = probe(Machine(SAW_TOOTH, 0.05, noise=0.05, seed=3))
    assert points[1].error < points[4].error < points[32].error


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([2.0], 2.0),
        ([2.0, 2.2], 2.1),
        ([2.0, 100.0], 2.0),
        ([100.0, 2.0, 2.1], 2.1),
        ([1.0, 1.1, 1.2, 9.0], 1.15),
    ],
)
def test_middle(samples: list[float], expected: float) -> None:
    assert middle(samples) == pytest.approx(expected)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=9))
def test_middle_is_between_the_samples(samples: list[float]) -> None:
    assert min(samples) <= middle(samples) * (1 + 1e-12)
    assert middle(samples) <= max(samples) * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.5, 30), min_size=64, max_size=64),
    st.sampled_from([0.0003, 0.01, 0.1]),
    st.integers(1, 64),
)
def test_any_curve_gives_sane_points(
    costs: list[float], step_seconds: float, max_width: int
) -> None:
    machine = Machine({1: 1.0} | dict(enumerate(costs[1:], 2)), step_seconds)
    points = probe(machine, max_width)
    assert points[1].seconds == pytest.approx(step_seconds)
    for width, point in points.items():
        assert point.seconds == pytest.approx(machine.curve[width - 1])
        assert math.isfinite(point.error)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-1, 1, 0.1), "context_length"),
        ((0, 0, 0.1), "width"),
        ((0, 65, 0.1), "width"),
        ((0, True, 0.1), "width"),
        ((0, 1.0, 0.1), "width"),
        ((0, 1, 0.0), "seconds"),
        ((0, 1, 1), "seconds"),
        ((0, 1, math.inf), "seconds"),
        ((0, 1, math.nan), "seconds"),
        ((0, 1, "1"), "seconds"),
        ((0, 1, 0.1, -0.1), "error"),
    ],
)
def test_impossible_points_are_refused(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbePoint(*values)  # type: ignore[arg-type]
