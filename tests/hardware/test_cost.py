"""The cost model: filling the gaps, and learning from the steps of made-up machines."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.config import MAX_WIDTH
from sssd_local.hardware.cost import (
    RECALL_STEPS,
    STALLS_BELIEVED,
    UNMEASURED_ERROR,
    CostModel,
    Float64Array,
)
from sssd_local.hardware.probe import ProbePoint, run_probe
from tests.hardware.machines import SAW_TOOTH, Machine

STEP = 0.02
CONTEXT = 300
MIX = {1: 0.5, 2: 0.1, 4: 0.2, 8: 0.15, 16: 0.05}


def saw_tooth_points(context_length: int = 256, scale: float = STEP) -> list[ProbePoint]:
    return [
        ProbePoint(context_length, width, cost * scale, 0.02) for width, cost in SAW_TOOTH.items()
    ]


def drive(
    model: CostModel,
    machine: Machine,
    steps: int,
    mix: Mapping[int, float] = MIX,
    context_length: int = CONTEXT,
) -> None:
    """Lets the model see steps of widths drawn from a mix."""
    random = np.random.default_rng(len(machine.calls) + 1)
    for width in random.choice(list(mix), size=steps, p=list(mix.values())).tolist():
        model.observe(width, context_length, machine.step(width))


def off(model: CostModel, machine: Machine, width: int, factor: float = 1.0) -> float:
    """Relative error of a width's seconds, the truth being `factor` times the machine's curve."""
    return model.seconds(width, CONTEXT) / (machine.curve[width - 1] * factor) - 1


def test_measured_widths_cost_what_was_measured() -> None:
    model = CostModel(saw_tooth_points())
    for width, cost in SAW_TOOTH.items():
        assert model.seconds(width, CONTEXT) == pytest.approx(cost * STEP)


def test_the_curve_is_64_wide_read_only_and_kept() -> None:
    model = CostModel(saw_tooth_points())
    curve = model.curve(CONTEXT)
    assert curve.shape == (MAX_WIDTH,)
    assert curve.dtype == np.float64
    assert model.curve(CONTEXT + 5000) is curve
    with pytest.raises(ValueError, match="read-only"):
        curve[0] = 1
    model.observe(1, CONTEXT, STEP * 1.1)
    assert model.curve(CONTEXT) is not curve


def test_an_unmeasured_width_costs_as_the_dearer_neighbour() -> None:
    points = [ProbePoint(0, width, seconds) for width, seconds in ((1, 1.0), (3, 5.0), (8, 2.0))]
    curve = CostModel(points).curve(0).tolist()
    assert curve == pytest.approx([1, 5, 5, 5, 5, 5, 5, 2, *[math.inf] * 56])


def test_beyond_the_widest_nothing_is_offered() -> None:
    model = CostModel(saw_tooth_points()[:4])
    assert model.seconds(4, 0) < math.inf
    assert model.seconds(5, 0) == math.inf
    assert model.relative_error(4) < 0.05
    assert model.relative_error(5) == math.inf


def test_without_points_only_plain_decoding_is_offered() -> None:
    model = CostModel()
    assert not model.is_measured
    assert model.curve(0).tolist() == [1.0, *[math.inf] * 63]
    assert model.points() == []
    model.observe(8, 0, 0.1)
    assert not model.is_measured
    model.observe(1, 0, 0.03)
    assert model.is_measured
    assert model.seconds(1, 0) == 0.03
    assert model.seconds(8, 0) == math.inf
    model.observe(8, 0, 0.1)
    assert 0.09 < model.seconds(8, 0) < 0.12


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([ProbePoint(0, 2, 0.1)], "width 1"),
        ([ProbePoint(0, 1, 0.1), ProbePoint(9, 2, 0.1)], "context length 9"),
    ],
)
def test_points_that_make_no_curve_are_refused(points: list[ProbePoint], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CostModel(points)


@pytest.mark.parametrize(
    ("width", "seconds"),
    [(0, 1.0), (65, 1.0), (-1, 1.0), (4, 0.0), (4, -1.0), (4, math.nan), (4, math.inf)],
)
def test_impossible_observations_are_ignored(width: int, seconds: float) -> None:
    model = CostModel(saw_tooth_points())
    before = model.curve(CONTEXT)
    model.observe(width, CONTEXT, seconds)
    assert model.curve(CONTEXT) is before


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.3])
@pytest.mark.parametrize("mix", [MIX, {1: 1.0}, {4: 0.8, 1: 0.2}])
def test_a_change_of_speed_is_learned_for_all_widths_in_20_steps(
    factor: float, mix: dict[int, float]
) -> None:
    model = CostModel(saw_tooth_points())
    drive(model, Machine(SAW_TOOTH, STEP, noise=0.03), 60, mix)
    machine = Machine(SAW_TOOTH, STEP * factor, noise=0.03, seed=1)
    drive(model, machine, 20, mix)
    for width in (1, 3, 4, 8, 16, 32, 64):
        assert abs(off(model, machine, width)) < 0.12


@pytest.mark.parametrize("factor", [1.5, 0.6, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_one_kernel_that_changed_is_learned_within_60_observations(
    factor: float, seed: int
) -> None:
    def kernel(_: int, width: int) -> float:
        return factor if width == 8 else 1.0

    model = CostModel(saw_tooth_points())
    drive(model, Machine(SAW_TOOTH, STEP, noise=0.03, seed=seed), 100)
    machine = Machine(SAW_TOOTH, STEP, noise=0.03, seed=seed + 10, factor=kernel)
    while machine.calls.count(8) < 60:
        drive(model, machine, 10)
    assert abs(off(model, machine, 8, factor)) < 0.08
    for width in (1, 4, 16):
        assert abs(off(model, machine, width)) < 0.09
    ratio = model.seconds(8, CONTEXT) / model.seconds(1, CONTEXT)
    assert ratio == pytest.approx(SAW_TOOTH[8] * factor, rel=0.06)


def test_a_kernel_that_got_much_dearer_is_news_after_eight_steps_of_it() -> None:
    model = CostModel(saw_tooth_points())
    for number in range(STALLS_BELIEVED):
        assert model.seconds(8, CONTEXT) == pytest.approx(SAW_TOOTH[8] * STEP, rel=0.01)
        model.observe(8, CONTEXT, 5 * SAW_TOOTH[8] * STEP)
        model.observe(1, CONTEXT, STEP)
        assert number < STALLS_BELIEVED
    assert model.seconds(8, CONTEXT) == pytest.approx(5 * SAW_TOOTH[8] * STEP, rel=0.02)
    assert model.seconds(1, CONTEXT) == pytest.approx(STEP, rel=0.02)
    assert model.seconds(4, CONTEXT) == pytest.approx(SAW_TOOTH[4] * STEP, rel=0.02)


@pytest.mark.parametrize("width", [1, 4, 9, 64])
@pytest.mark.parametrize("number", [1, STALLS_BELIEVED - 1])
def test_stalls_are_no_news(width: int, number: int) -> None:
    model = CostModel(saw_tooth_points())
    before = model.curve(CONTEXT)
    for _ in range(number):
        model.observe(width, CONTEXT, 50 * model.seconds(width, CONTEXT))
    assert model.curve(CONTEXT) is before


def test_stalls_between_ordinary_steps_never_add_up() -> None:
    model = CostModel(saw_tooth_points())
    for _ in range(30):
        model.observe(1, CONTEXT, 40 * STEP)
        model.observe(4, CONTEXT, 40 * SAW_TOOTH[4] * STEP)
        model.observe(4, CONTEXT, SAW_TOOTH[4] * STEP)
        model.observe(1, CONTEXT, STEP)
    assert model.seconds(1, CONTEXT) == pytest.approx(STEP, rel=1e-6)


def test_a_machine_that_stays_stalled_is_believed_and_forgotten() -> None:
    model = CostModel(saw_tooth_points())
    busy = Machine(SAW_TOOTH, STEP * 50, noise=0.03)
    drive(model, busy, STALLS_BELIEVED)
    for width in (1, 4, 16, 64):
        assert abs(off(model, busy, width)) < 0.1
    free = Machine(SAW_TOOTH, STEP, noise=0.03)
    drive(model, free, 30)
    for width in (1, 4, 16, 64):
        assert abs(off(model, free, width)) < 0.1


def test_stalls_of_one_wide_width_are_doubted_until_a_plain_step() -> None:
    model = CostModel(saw_tooth_points())
    for _ in range(STALLS_BELIEVED):
        model.observe(8, CONTEXT, 4 * SAW_TOOTH[8] * STEP)
    assert model.seconds(8, CONTEXT) == pytest.approx(4 * SAW_TOOTH[8] * STEP, rel=0.02)
    assert model.relative_error(8) > 0.5
    model.observe(1, CONTEXT, STEP)
    assert model.seconds(1, CONTEXT) == pytest.approx(STEP, rel=0.02)
    assert model.seconds(8, CONTEXT) == pytest.approx(4 * SAW_TOOTH[8] * STEP, rel=0.05)
    assert model.relative_error(8) < 0.1


def test_rare_stalls_leave_the_curve_where_it_was() -> None:
    def stall(number: int, _: int) -> float:
        return (5.0, 50.0, 2.5)[number % 3] if number % 17 == 0 else 1.0

    model = CostModel(saw_tooth_points())
    machine = Machine(SAW_TOOTH, STEP, noise=0.03, factor=stall)
    drive(model, machine, 500)
    for width in MIX:
        assert abs(off(model, machine, width)) < 0.08


def test_a_width_that_was_never_probed_becomes_known() -> None:
    model = CostModel(saw_tooth_points())
    assert model.seconds(9, CONTEXT) == pytest.approx(SAW_TOOTH[10] * STEP)
    assert model.relative_error(9) > UNMEASURED_ERROR
    for _ in range(3):
        model.observe(1, CONTEXT, STEP)
        model.observe(9, CONTEXT, 0.075)
    assert model.seconds(9, CONTEXT) == pytest.approx(0.075, rel=0.02)
    assert model.relative_error(9) < 0.06
    # It became a neighbour: widths between stay conservative.
    assert model.seconds(11, CONTEXT) == pytest.approx(SAW_TOOTH[10] * STEP, rel=0.02)


def test_a_width_beyond_the_widest_is_offered_once_seen() -> None:
    model = CostModel([ProbePoint(0, 1, 0.01), ProbePoint(0, 4, 0.02)])
    for _ in range(3):
        model.observe(8, 0, 0.03)
    assert model.seconds(8, 0) == pytest.approx(0.03, rel=0.05)
    assert model.seconds(6, 0) == model.seconds(8, 0)
    assert model.seconds(9, 0) == math.inf
    assert [point.width for point in model.points()] == [1, 4, 8]


def test_error_shrinks_with_observations_of_a_width_only() -> None:
    model = CostModel([ProbePoint(0, width, cost * STEP) for width, cost in SAW_TOOTH.items()])
    before = {width: model.relative_error(width) for width in (1, 4, 32)}
    assert before[1] == 0
    drive(model, Machine(SAW_TOOTH, STEP, noise=0.03), 200)
    assert model.relative_error(1) == 0
    assert 0 < model.relative_error(4) < before[4]
    assert model.relative_error(32) == pytest.approx(before[32], rel=0.05)


def test_a_width_long_unused_stays_usable() -> None:
    model = CostModel(saw_tooth_points())
    drive(model, Machine(SAW_TOOTH, STEP, noise=0.03), 5000, {1: 1.0})
    assert model.relative_error(8) < 0.05


def test_several_context_lengths_are_joined_by_lines() -> None:
    near = [ProbePoint(0, 1, 0.010), ProbePoint(0, 2, 0.020), ProbePoint(0, 4, 0.030)]
    far = [ProbePoint(1024, 1, 0.020), ProbePoint(1024, 4, 0.090)]
    model = CostModel([*far, *near])
    assert model.seconds(1, 384 + 128) == pytest.approx(0.01 + 0.01 * (512 + 128) / 1024)
    assert model.seconds(4, 5000) == pytest.approx(0.090)
    # Width 2 is twice a step wherever it was measured.
    assert model.seconds(2, 5000) == pytest.approx(0.040)
    assert model.seconds(4, 0) == pytest.approx(0.03 + 0.06 * 128 / 1024)
    for _ in range(40):
        model.observe(1, 5000, 0.030)
    assert model.seconds(4, 5000) == pytest.approx(0.135, rel=0.02)
    assert len(model.points()) == 6


def test_points_come_back_as_they_went_in() -> None:
    points = saw_tooth_points()
    kept = CostModel(points).points()
    assert [(p.context_length, p.width) for p in kept] == [
        (p.context_length, p.width) for p in points
    ]
    assert [p.seconds for p in kept] == pytest.approx([p.seconds for p in points])
    again = CostModel.from_points(kept)
    assert again.curve(CONTEXT) == pytest.approx(CostModel(points).curve(CONTEXT))


def test_kept_points_hold_what_was_learned_but_not_todays_speed() -> None:
    def kernel(_: int, width: int) -> float:
        return 1.5 if width == 8 else 1.0

    model = CostModel(saw_tooth_points())
    drive(model, Machine(SAW_TOOTH, STEP * 1.4, noise=0.02, factor=kernel), 600)
    again = CostModel.from_points(model.points())
    assert again.seconds(1, CONTEXT) == pytest.approx(STEP)
    for width in (2, 4, 8, 16):
        expected = model.seconds(width, CONTEXT) / model.seconds(1, CONTEXT)
        assert again.seconds(width, CONTEXT) / STEP == pytest.approx(expected)
    assert again.seconds(8, CONTEXT) == pytest.approx(SAW_TOOTH[8] * 1.5 * STEP, rel=0.06)


def test_what_got_much_dearer_today_is_kept_at_twice_its_cost() -> None:
    model = CostModel(saw_tooth_points())
    machine = Machine(SAW_TOOTH, STEP, factor=lambda _, width: 2.9 if width == 16 else 1.0)
    drive(model, machine, 400, {1: 0.5, 16: 0.5})
    assert model.seconds(16, CONTEXT) > 2.5 * SAW_TOOTH[16] * STEP
    kept = {point.width: point.seconds for point in model.points()}
    assert kept[16] == pytest.approx(2 * SAW_TOOTH[16] * STEP)
    # That it is more is not forgotten: it is less sure than it was.
    errors = {point.width: point.error for point in model.points()}
    assert errors[16] > 0.2 > errors[8]


def test_an_unmeasured_width_is_as_hopeless_as_its_neighbours() -> None:
    points = [ProbePoint(0, 1, 1.0), ProbePoint(0, 8, 2.0), ProbePoint(0, 16, 3.0)]
    model = CostModel(points)
    for _ in range(60):
        model.observe(1, 0, 1.0)
        model.observe(8, 0, 15.0)
        model.observe(16, 0, 40.0)
    hoped = model.hopeful(0)
    assert np.isinf(hoped[7:16]).all()
    for _ in range(RECALL_STEPS + 1):
        model.observe(1, 0, 1.0)
    assert model.hopeful(0)[7:16] == pytest.approx([2.0] + [3.0] * 8, rel=0.1)


def test_a_dear_width_unseen_for_long_is_hoped_to_cost_what_the_probe_found() -> None:
    model = CostModel(saw_tooth_points())
    for _ in range(30):
        model.observe(16, CONTEXT, 20 * STEP)
        model.observe(1, CONTEXT, STEP)
    assert model.seconds(16, CONTEXT) > 16 * STEP
    assert model.hopeful(CONTEXT)[15] == math.inf
    for _ in range(RECALL_STEPS + 1):
        model.observe(1, CONTEXT, STEP)
    hoped = model.hopeful(CONTEXT)
    assert 3 * STEP < hoped[15] <= 1.02 * SAW_TOOTH[16] * STEP
    assert (hoped[:20] <= hoped[1:21]).all()
    # What two tokens cost is more than two steps: that was so from the first.
    steep = CostModel([ProbePoint(0, 1, 1.0), ProbePoint(0, 2, 2.5), ProbePoint(0, 4, 3.0)])
    for _ in range(RECALL_STEPS + 1):
        steep.observe(1, 0, 1.0)
    assert steep.hopeful(0)[1] == math.inf
    assert steep.hopeful(0)[3] < 3.0


def test_beyond_the_widest_known_batches_of_it_are_expected() -> None:
    model = CostModel(saw_tooth_points()[:4])
    expected = model.expected_curve(CONTEXT)
    assert expected[:4] == pytest.approx(model.curve(CONTEXT)[:4])
    assert expected[7] == pytest.approx(2 * model.seconds(4, CONTEXT))


def test_probe_and_model_together_find_the_best_width() -> None:
    machine = Machine(SAW_TOOTH, STEP, noise=0.03, seed=4)
    model = CostModel(run_probe(machine.decode, machine.clock, max_width=64))
    best = np.argmax(np.arange(1, 17) / model.curve(0)[:16]) + 1
    assert best == 16
    assert model.curve(0)[3] < model.curve(0)[2]


def naive_fill(known: dict[int, float]) -> list[float]:
    """The rule for gaps, written out."""
    curve = []
    for width in range(1, MAX_WIDTH + 1):
        below = known[max(w for w in known if w <= width)]
        above = [known[w] for w in sorted(known) if w >= width]
        curve.append(max(below, above[0]) if above else math.inf)
    return curve


costs = st.floats(1e-4, 10)
tables: st.SearchStrategy[dict[int, float]] = st.builds(
    lambda first, rest: {1: first, **rest},
    costs,
    st.dictionaries(st.integers(2, MAX_WIDTH), costs, max_size=20),
)


@given(tables)
def test_any_points_fill_by_the_rule(known: dict[int, float]) -> None:
    points = [ProbePoint(0, width, seconds) for width, seconds in known.items()]
    assert CostModel(points).curve(7).tolist() == pytest.approx(naive_fill(known))


observations = st.lists(st.tuples(st.integers(1, MAX_WIDTH), st.floats(1e-6, 100)), max_size=60)


@settings(deadline=None)
@given(tables, observations)
def test_whatever_happens_the_curve_stays_sane(
    known: dict[int, float], steps: list[tuple[int, float]]
) -> None:
    model = CostModel([ProbePoint(0, width, seconds) for width, seconds in known.items()])
    twin = CostModel([ProbePoint(0, width, seconds) for width, seconds in known.items()])
    for width, seconds in steps:
        model.observe(width, 0, seconds)
        twin.observe(width, 0, seconds)
    curve: Float64Array = model.curve(0)
    assert (curve > 0).all()
    assert np.isfinite(curve[: max(known)]).all()
    assert curve.tolist() == twin.curve(0).tolist()
    learned = {point.width: model.seconds(point.width, 0) for point in model.points()}
    assert known.keys() <= learned.keys() <= known.keys() | {width for width, _ in steps}
    assert curve.tolist() == naive_fill(learned)
    errors = [model.relative_error(width) for width in range(1, MAX_WIDTH + 1)]
    assert all(error >= 0 for error in errors)
    assert [math.isinf(error) for error in errors] == np.isinf(curve).tolist()


@settings(deadline=None)
@given(tables, observations, st.floats(0.01, 50))
def test_units_do_not_matter(
    known: dict[int, float], steps: list[tuple[int, float]], unit: float
) -> None:
    def learned(scale: float) -> Float64Array:
        points = [ProbePoint(0, width, seconds * scale) for width, seconds in known.items()]
        model = CostModel(points)
        for width, seconds in steps:
            # Away from the edge where rounding decides what a stall is.
            if abs(seconds / model.seconds(width, 0) * scale / 3 - 1) > 1e-3:
                model.observe(width, 0, seconds * scale)
        return model.curve(0)

    assert learned(unit) == pytest.approx(learned(1.0) * unit, rel=1e-6)
