"""The full probe on made-up rigs with a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from sssd_local.hardware.survey import MAX_SECONDS, MAX_STEPS, Findings, Plan, Survey
from tests.hardware.machines import CURVES, SAW_TOOTH, whole_curve


@dataclass
class Rig:
    """A machine with the cost of `width` tokens after `length`, by thread counts."""

    step_seconds: float = 0.02
    points: dict[int, float] = field(default_factory=lambda: SAW_TOOTH)
    noise: float = 0.0
    tree_seconds: float = 0.0
    per_token: float = 1e-4
    can_fill: bool = True
    # Of a step after 1,000 tokens with flash attention over without; None: it cannot be set.
    flash: Callable[[int], float] | None = None
    speed: Callable[[float, tuple[int, int], int], float] = lambda now, threads, width: 1.0
    now: float = 0.0
    length: int = 0
    has_flash: bool = False
    threads: tuple[int, int] = (0, 0)
    fills: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.curve = whole_curve(self.points)
        self.random = np.random.default_rng(1)

    def fill(self, context_length: int) -> bool:
        self.now += 0.1 if context_length else 0.0
        self.length = context_length if self.can_fill else 0
        self.fills.append(context_length)
        return self.can_fill or context_length == 0

    def set_threads(self, threads: int, threads_batch: int) -> None:
        self.threads = (threads, threads_batch)

    def set_flash_attention(self, on: bool) -> bool:
        if self.flash is not None and on != self.has_flash:
            self.has_flash = on
            self.now += 0.05
        return on == self.has_flash

    def expect(self, width: int, length: int) -> float:
        return self.step_seconds * self.curve[width - 1] * (1 + self.per_token * length)

    def decode(self, width: int) -> None:
        noise = float(np.exp(self.random.normal(0, self.noise))) if self.noise else 1.0
        slow = self.speed(self.now, self.threads, width)
        if self.has_flash and self.flash is not None:
            slow *= 1 + (self.flash(width) - 1) * self.length / 1000
        self.now += self.expect(width, self.length) * noise * slow

    def decode_tree(self, width: int) -> None:
        self.decode(width)
        self.now += self.tree_seconds

    def clock(self) -> float:
        return self.now


def survey(rig: Rig, plan: Plan, **options: object) -> Findings:
    return Survey(rig, plan, rig.clock, **options).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("step_seconds", [0.002, 0.02, 0.2])
def test_the_grid_is_measured_within_ten_seconds_or_500_steps(
    name: str, step_seconds: float
) -> None:
    rig = Rig(step_seconds, CURVES[name], noise=0.02)
    found = survey(rig, Plan(64, (0, 1000, 4000), (2, 4, 1), (2, 4, 1)))
    assert rig.now <= max(10.0, 500 * step_seconds) * 1.1
    assert MAX_SECONDS < 10
    assert MAX_STEPS < 500
    assert found.is_complete
    assert found.dropped_blocks == 0
    assert {point.context_length for point in found.points} == {0, 1000, 4000}
    for point in found.points:
        truth = rig.expect(point.width, point.context_length)
        assert point.seconds == pytest.approx(truth, rel=0.12)


def test_the_deep_blocks_hold_the_informative_widths() -> None:
    found = survey(Rig(0.002), Plan(64, (0, 1000)))
    deep = [point.width for point in found.points if point.context_length == 1000]
    assert deep == [1, 2, 4, 8, 16, 32]


def test_the_best_thread_counts_are_found_for_each_kind_of_step() -> None:
    def speed(now: float, threads: tuple[int, int], width: int) -> float:
        # One-token steps are bound by memory: fewer threads are as fast; 1 is faster here.
        return {1: 0.8, 2: 1.0, 4: 0.9}[threads[0]] if width == 1 else 4 / threads[1]

    rig = Rig(speed=speed)
    found = survey(rig, Plan(16, threads=(2, 4, 1), threads_batch=(2, 4, 1)))
    assert (found.threads, found.threads_batch) == (1, 4)
    assert rig.threads == (1, 4)


def test_the_usual_count_stays_unless_another_is_clearly_faster() -> None:
    rig = Rig(noise=0.01, speed=lambda now, threads, width: 1.0 if threads[0] == 2 else 0.98)
    found = survey(rig, Plan(16, threads=(2, 1), threads_batch=(2,)))
    assert (found.threads, found.threads_batch) == (2, 2)


def test_a_tree_is_dearer_by_what_was_measured() -> None:
    assert survey(Rig(tree_seconds=0.003), Plan(64)).branch_seconds == pytest.approx(0.003)
    assert survey(Rig(), Plan(64)).branch_seconds == pytest.approx(0, abs=1e-9)
    assert survey(Rig(tree_seconds=0.003), Plan(64, trees=False)).branch_seconds == 0


def test_drift_between_blocks_is_divided_out() -> None:
    rig = Rig(0.005, speed=lambda now, threads, width: 1 + 0.02 * now)
    found = survey(rig, Plan(64, (0, 2000)))
    (first,) = [p.seconds for p in found.points if (p.context_length, p.width) == (0, 1)]
    (deep,) = [p.seconds for p in found.points if (p.context_length, p.width) == (2000, 1)]
    assert deep / first == pytest.approx(1.2, rel=0.02)


def test_a_block_on_a_machine_that_changed_is_measured_again() -> None:
    rig = Rig(0.005)
    plan = Plan(64, (0, 2000))

    def speed(now: float, threads: tuple[int, int], width: int) -> float:
        # Twice as slow from the middle of the first deep block on, as seen by its second anchor.
        return 2.0 if rig.fills.count(2000) > 1 or (rig.length == 0 and 2000 in rig.fills) else 1.0

    rig.speed = speed
    found = survey(rig, plan)
    assert found.dropped_blocks == 1
    assert rig.fills.count(2000) == 2
    (deep,) = [p.seconds for p in found.points if (p.context_length, p.width) == (2000, 1)]
    assert deep == pytest.approx(0.005 * 1.2, rel=0.02)


def test_a_rig_that_cannot_fill_a_context_measures_the_empty_one() -> None:
    found = survey(Rig(can_fill=False), Plan(64, (0, 2000)))
    assert {point.context_length for point in found.points} == {0}
    assert not found.is_complete


@pytest.mark.parametrize("moment", [0.0, 0.5, 2.0, 5.0])
def test_stopping_keeps_what_is_known(moment: float) -> None:
    rig = Rig()
    found = survey(rig, Plan(64, (0, 2000)), should_stop=lambda: rig.now > moment)
    assert not found.is_complete
    assert rig.now < moment + 1.5
    for point in found.points:
        assert point.seconds == pytest.approx(rig.expect(point.width, point.context_length))
    assert bool(found.points) == (moment > 0.2)


def test_progress_rises_to_one() -> None:
    heard: list[float] = []
    rig = Rig()
    survey(rig, Plan(64, (0, 2000)), progress=lambda fraction, doing: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


FLASH = Plan(64, (0, 250, 1000), flash_attention=True)


@pytest.mark.parametrize(
    ("cost", "chosen"),
    [
        (lambda width: 0.8, True),
        (lambda width: 0.99, False),
        (lambda width: 1.2, False),
        # As on a CPU: its cost grows row by row.
        (lambda width: 0.9 + 0.2 * width, False),
        # Plain decoding may not lose by it.
        (lambda width: 1.05 if width == 1 else 0.5, False),
        (None, False),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_flash_attention_is_chosen_where_it_is_faster_after_a_long_context(
    cost: Callable[[int], float] | None, chosen: bool, noise: float
) -> None:
    rig = Rig(flash=cost, noise=noise)
    found = survey(rig, FLASH)
    assert found.flash_attention == rig.has_flash == chosen
    assert found.is_complete
    assert rig.now < 10
    share = cost(4) if cost is not None and chosen else 1.0
    (deep,) = [p.seconds for p in found.points if (p.context_length, p.width) == (1000, 4)]
    assert deep == pytest.approx(rig.expect(4, 1000) * share, rel=0.05)


def test_flash_attention_is_not_tried_unless_it_is_to_be_chosen() -> None:
    rig = Rig(flash=lambda width: 0.5)
    assert not survey(rig, Plan(64, (0, 1000))).flash_attention
    assert not survey(rig, Plan(64, (0,), flash_attention=True)).flash_attention
    assert not rig.has_flash


def test_a_machine_that_slows_down_meanwhile_does_not_choose_flash_attention() -> None:
    # The second setting tried, without it, is measured on a machine half as fast.
    rig = Rig(flash=lambda width: 1.0)
    rig.speed = lambda now, threads, width: 2.0 if 0.9 < now < 1.1 else 1.0
    assert not survey(rig, FLASH).flash_attention


@pytest.mark.parametrize("moment", [0.2, 0.4, 0.8])
def test_stopped_while_flash_attention_is_tried_it_is_off(moment: float) -> None:
    rig = Rig(flash=lambda width: 0.5)
    found = survey(rig, FLASH, should_stop=lambda: rig.now > moment)
    assert not found.flash_attention
    assert not rig.has_flash


@pytest.mark.parametrize("lengths", [(), (5,), (0, 5, 5), (0, 9, 5)])
def test_a_plan_starts_at_an_empty_context(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rise from 0"):
        Plan(64, lengths)
