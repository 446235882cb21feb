"""What curves mean."""

from __future__ import annotations

import numpy as np
import pytest

from sssd_local.hardware.advice import KNEE_SHARE, TYPICAL_ODDS, advise, best_rate, relative_costs
from sssd_local.hardware.probe import ProbePoint
from tests.hardware.machines import CURVES, LINEAR, SAW_TOOTH, STEEP


def points(curve: dict[int, float], context_length: int = 0) -> list[ProbePoint]:
    return [ProbePoint(context_length, width, 0.02 * cost) for width, cost in curve.items()]


def test_costs_are_relative_to_the_one_token_step_of_their_context() -> None:
    deep = [ProbePoint(9, 1, 0.04), ProbePoint(9, 2, 0.06), ProbePoint(99, 2, 0.06)]
    assert relative_costs([*points({1: 1.0, 2: 1.5}), *deep]) == {
        0: {1: 1.0, 2: pytest.approx(1.5)},
        9: {1: 1.0, 2: pytest.approx(1.5)},
    }


@pytest.mark.parametrize("name", CURVES)
def test_limit_knee_and_choice_equal_trying_all(name: str) -> None:
    curve = CURVES[name]
    found = advise([*points(curve), *points(curve, 100)])
    rates = {width: width / cost for width, cost in curve.items()}
    assert found.limit == pytest.approx(max(rates.values()))
    assert found.knee == min(w for w, rate in rates.items() if rate >= KNEE_SHARE * found.limit)
    expected = {w: 1 + float(np.sum(TYPICAL_ODDS ** np.arange(1, w))) for w in curve}
    best = max(curve, key=lambda width: expected[width] / curve[width])
    pays = expected[best] / curve[best] > 1.03
    assert found.chosen == {0: best if pays else 1, 100: best if pays else 1}


def test_the_best_rate_is_of_the_widest_gain() -> None:
    assert best_rate({1: 1.0, 2: 1.6, 4: 2.0, 8: 5.0}) == (4, 2.0)
    assert best_rate({1: 1.0, 2: 3.0}) == (1, 1.0)
    assert best_rate({1: 1.0, 2: float("inf")}) == (1, 1.0)


def test_widths_that_never_pay_are_named() -> None:
    assert advise(points(STEEP)).useless == (2,)
    assert "widths 2 never pay" in advise(points(STEEP | {6: 1.5})).sentence
    assert advise(points(SAW_TOOTH)).useless == ()


def test_the_sentence_fits_the_curve() -> None:
    assert advise(points(LINEAR)).sentence.startswith("No draft can pay")
    assert "checking 4 tokens costs 2.1× one" in advise(points(SAW_TOOTH)).sentence
    assert advise(points({1: 1.0, 2: 1.9, 4: 3.2})).sentence.startswith("Only very sure drafts")


def test_without_a_plain_step_there_is_no_advice() -> None:
    with pytest.raises(ValueError, match="one-token step"):
        advise([ProbePoint(0, 2, 0.1)])
