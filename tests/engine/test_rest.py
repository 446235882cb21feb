"""Steps nobody is asked in: the answer is the same, and all is known of them afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.engine.rest import Rest
from sssd_local.hardware.sizer import Sizer
from tests.tiny import Bench

TinyModel = Callable[..., Path]


def test_a_rest_counts_its_steps_and_ends_with_what_they_yielded() -> None:
    rest = Rest()
    assert not rest.goes_on()
    rest.begin(3)
    for step in range(3):
        assert rest.is_on
        rest.note(step, step / 10)
        assert rest.goes_on() == (step < 2)
    assert rest.end() == ([0, 1, 2], [0.0, 0.1, 0.2])
    assert rest.end() == ([], [])
    rest.begin(5)
    assert rest.end() == ([], [])
    assert not rest.goes_on()


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizers allow a draft in every fifth step only; the list holds the lengths of rests heard."""
    heard: list[int] = []
    inner = Sizer.observe_rest

    def observe_rest(self: Sizer, seconds: list[float], context_length: int) -> None:
        heard.append(len(seconds))
        inner(self, seconds, context_length)

    asked = iter(range(10_000))
    monkeypatch.setattr(Sizer, "allows", lambda self: next(asked) % 2 == 1)
    monkeypatch.setattr(Sizer, "num_resting", 4)
    monkeypatch.setattr(Sizer, "observe_rest", observe_rest)
    return heard


def test_what_was_written_in_a_rest_is_in_the_tables(
    tiny_model: TinyModel, rests: list[int]
) -> None:
    with Bench(tiny_model(), drafter=Drafter(Calibration()), width=None) as bench:
        ids = bench.run(max_tokens=18)
        history = bench.engine.drafter.context.history().tolist()
        assert history[-18:] == ids
        assert bench.engine.ledger.check() == ""
        # The first token belongs to the prompt; 17 steps are four times four at rest and one not.
        assert rests == [4, 4, 4, 2]
    with Bench(tiny_model(), width=1) as plain:
        assert plain.run(max_tokens=18) == ids


def test_an_answer_that_is_left_in_a_rest_is_known_as_far_as_it_got(
    tiny_model: TinyModel, rests: list[int]
) -> None:
    with Bench(tiny_model(), drafter=Drafter(Calibration()), width=None) as bench:
        steps: Any = bench.steps(max_tokens=18)
        ids = [token for _ in range(3) for token in next(steps).token_ids]
        steps.close()
        assert bench.engine.drafter.context.history().tolist()[-3:] == ids
        assert rests == [2]
        bench.engine.reset()
        assert not len(bench.engine.drafter.context)
