from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft import priors
from sssd_local.draft.calibrate import (
    NUM_BANDS,
    STATE_VERSION,
    Calibration,
    band_of,
)
from sssd_local.draft.cells import (
    KEPT_TABLES,
    NUM_WEIGHTS,
    OFFSETS,
    TABLE_SIZES,
    Cells,
    context_cells,
    run_cells,
)
from sssd_local.draft.context import MAX_MATCH, Follower, Followers
from sssd_local.draft.tree import TokenSource


def blank(**rates: float) -> Calibration:
    calibration = Calibration(**rates)
    calibration.weights = [0.0] * NUM_WEIGHTS
    return calibration


def test_probabilities_are_a_softmax_with_escape() -> None:
    calibration = blank()
    calibration.weights[3], calibration.weights[4] = math.log(2.0), math.log(3.0)
    probs = calibration.probabilities([(3,), (3, 4), (0,)])
    assert probs == pytest.approx([2 / 10, 6 / 10, 1 / 10])


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_probabilities_of_a_node_never_reach_one(scores: list[float]) -> None:
    calibration = blank()
    calibration.weights[: len(scores)] = scores
    probs = calibration.probabilities([(cell,) for cell in range(len(scores))])
    assert sum(probs) < 1
    assert all(0 <= prob < 1 for prob in probs)


def test_learning_moves_each_cell_by_rate_times_error() -> None:
    calibration = blank(rate=0.01, token_rate=0.1)
    evidence, token = OFFSETS["gap"], OFFSETS["token"]
    calibration.learn([(evidence, token), (evidence + 1,)], [0.25, 0.5], 0)
    assert calibration.weights[evidence] == pytest.approx(0.01 * 0.75)
    assert calibration.weights[token] == pytest.approx(0.1 * 0.75)
    assert calibration.weights[evidence + 1] == pytest.approx(0.01 * -0.5)
    calibration.learn([(evidence + 1,)], [0.5], -1)
    assert calibration.weights[evidence + 1] == pytest.approx(0.01 * -1.0)


def test_learned_odds_follow_the_hit_rate() -> None:
    calibration = blank(rate=0.05)
    cells: list[Cells] = [(OFFSETS["run"],)]
    for step in range(4000):
        right = 0 if step % 4 else -1
        calibration.learn(cells, calibration.probabilities(cells), right)
    assert calibration.probabilities(cells)[0] == pytest.approx(0.75, abs=0.03)


def test_shipped_priors_fit_the_tables_and_make_sense() -> None:
    for name, values in priors.WEIGHTS.items():
        assert len(values) == TABLE_SIZES[name]
    calibration = Calibration()
    long_copy = calibration.probabilities([run_cells(TokenSource.PROMPT, MAX_MATCH, 1, 2)])
    short_copy = calibration.probabilities([run_cells(TokenSource.PROMPT, 1, 1, 2)])
    assert short_copy[0] < 0.5 < 0.9 < long_copy[0]
    once = [Follower(5, 1, 1, 0, 0)]
    lone = context_cells(Followers(once, [1, 0, 0, 0], 2000), 7)
    assert calibration.probabilities(lone)[0] < 0.5


def test_an_answer_starts_without_the_last_ones_bias() -> None:
    calibration = blank()
    calibration.learn([(OFFSETS["answer"] + 2, 0)], [0.5], 0)
    kept = calibration.weights[0]
    calibration.begin_answer()
    assert calibration.weights[OFFSETS["answer"] :] == [0.0] * 6
    assert calibration.weights[0] == kept > 0


@pytest.mark.parametrize(
    ("temperature", "band"),
    [(0.0, 0), (0.01, 1), (0.5, 1), (0.7, 2), (1.0, 2), (1.01, 3), (9.0, 3)],
)
def test_temperatures_fall_into_bands(temperature: float, band: int) -> None:
    assert band_of(temperature) == band < NUM_BANDS


def test_each_band_learns_its_own_odds_and_starts_from_the_last_ones() -> None:
    calibration, evidence, token = blank(), OFFSETS["run"], OFFSETS["token"]
    calibration.learn([(evidence, token)], [0.5], 0)
    greedy, seen = calibration.weights[evidence], calibration.weights[token]
    calibration.begin_answer(0.8)
    assert calibration.weights[evidence] == greedy > 0
    calibration.learn([(evidence,)], [0.9], -1)
    warm = calibration.weights[evidence]
    calibration.begin_answer()
    assert calibration.weights[evidence] == warm < greedy
    calibration.begin_answer(0.0)
    assert calibration.weights[evidence] == greedy
    calibration.begin_answer(0.6)
    assert calibration.weights[evidence] == warm
    # What is known of tokens is the text's, not the temperature's.
    assert calibration.weights[token] == seen


def test_state_round_trip_leaves_tokens_out() -> None:
    learned = Calibration()
    learned.learn([(1, OFFSETS["token"] + 5, OFFSETS["trust"])], [0.5], 0)
    learned.begin_answer(0.8)
    learned.learn([(1,)], [0.5], -1)
    state = learned.state()
    assert set(state) == {"version", "bands", *KEPT_TABLES}
    assert state["version"] == STATE_VERSION
    assert state["bands"].tolist() == [2, 0]
    fresh = Calibration()
    fresh.load({name: table.tolist() for name, table in state.items()})
    evidence = slice(0, OFFSETS["trust"])
    assert fresh.weights[evidence] == learned.weights[evidence]
    assert fresh.weights[OFFSETS["token"] + 5] == 0.0
    fresh.begin_answer(0.0)
    learned.begin_answer(0.0)
    assert fresh.weights[evidence] == learned.weights[evidence]


@pytest.mark.parametrize("bad", [None, [], [[1.0]], [[math.nan] * 9], [["x"] * 9], [1.0] * 9])
def test_damaged_state_changes_nothing(bad: object) -> None:
    calibration = Calibration()
    before = list(calibration.weights)
    state: dict[str, object] = dict(Calibration().state())
    state["agreement"] = np.ones((1, TABLE_SIZES["agreement"]))
    state["run"] = bad
    with pytest.raises((ValueError, TypeError), match=r"calibration|convert|float"):
        calibration.load(state)  # type: ignore[arg-type]
    assert calibration.weights == before


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("version", 1, "another version"),
        ("version", [1, 2], "another version"),
        ("bands", [], "different numbers"),
        ("bands", [0, 0], "different numbers"),
        ("bands", [NUM_BANDS], "different numbers"),
        ("bands", [0.5], "different numbers"),
        ("bands", [0, 1], "must hold"),
    ],
)
def test_state_of_another_shape_is_refused(name: str, bad: object, message: str) -> None:
    calibration = Calibration()
    state: dict[str, object] = {**Calibration().state(), name: bad}
    with pytest.raises(ValueError, match=message):
        calibration.load(state)  # type: ignore[arg-type]
    assert calibration.weights == Calibration().weights
