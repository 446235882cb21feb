from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft import priors
from sssd_local.draft.calibrate import (
    KEPT_TABLES,
    MAX_AGE,
    NUM_EVIDENCE,
    NUM_WEIGHTS,
    OFFSETS,
    STORE_PRIOR,
    TABLE_SIZES,
    Calibration,
    Cells,
)
from sssd_local.draft.context import MAX_GAP, MAX_MATCH, Follower, Followers
from sssd_local.draft.source import Candidates
from sssd_local.draft.tree import TokenSource


def blank(**rates: float) -> Calibration:
    calibration = Calibration(**rates)
    calibration.weights = [0.0] * NUM_WEIGHTS
    return calibration


def table_of(cell: int) -> str:
    return max((name for name in OFFSETS if OFFSETS[name] <= cell), key=OFFSETS.__getitem__)


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


@given(
    st.lists(
        st.tuples(
            st.integers(0, 200_000),
            st.integers(0, 10**6),
            st.integers(1, MAX_MATCH),
            st.integers(0, MAX_GAP),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=24,
    ),
    st.integers(0, 200_000),
)
def test_every_candidate_selects_one_cell_of_each_table(
    items: list[tuple[int, int, int, int, int]], last_token: int
) -> None:
    followers = [Follower(*item) for item in items]
    totals = [sum(item.level == level for item in followers) for level in range(4)]
    end = max(item.position for item in followers) + 1
    cells = Calibration().context_cells(Followers(followers, totals, end), last_token)
    expected = ["agreement", "gap", "rank", "loose", "rival", "age"]
    assert len(expected) == NUM_EVIDENCE
    for row in cells:
        names = [table_of(cell) for cell in row]
        assert names == [*expected, "last", "token", "pair", "answer"]
        assert all(cell < NUM_WEIGHTS for cell in row)


def test_evidence_is_told_apart() -> None:
    def cells(*items: Follower, end: int = 10) -> tuple[int, ...]:
        totals = [0, 0, 0, 0]
        for item in items:
            totals[item.level] += item.level_count
        rows = Calibration().context_cells(Followers(list(items), totals, end), 7)
        return rows[0][:NUM_EVIDENCE]

    plain = cells(Follower(5, 1, 2, 0, 1))
    assert plain == cells(Follower(6, 1, 2, 0, 1))
    assert plain != cells(Follower(5, 1, 3, 0, 1))
    assert plain != cells(Follower(5, 1, 2, 1, 1))
    assert plain != cells(Follower(5, 1, 2, 0, 1), end=MAX_AGE + 50)
    assert plain != cells(Follower(5, 1, 2, 0, 1), Follower(6, 0, 2, 0, 1))


def test_shipped_priors_fit_the_tables_and_make_sense() -> None:
    for name, values in priors.WEIGHTS.items():
        assert len(values) == TABLE_SIZES[name]
    calibration = Calibration()
    long_copy = calibration.probabilities([calibration.run_cells(MAX_MATCH, 1, 2)])
    short_copy = calibration.probabilities([calibration.run_cells(1, 1, 2)])
    assert short_copy[0] < 0.5 < 0.9 < long_copy[0]
    once = [Follower(5, 1, 1, 0, 0)]
    lone = calibration.context_cells(Followers(once, [1, 0, 0, 0], 2000), 7)
    assert calibration.probabilities(lone)[0] < 0.5


def test_other_sources_start_conservative_and_add_to_the_context() -> None:
    calibration = Calibration()
    found = Candidates((4, 5), (3, 1), 4, 2)
    first = calibration.store_cells(TokenSource.DATASTORE, found, 0, 9)
    second = calibration.store_cells(TokenSource.DATASTORE, found, 1, 9)
    assert first[0] != second[0]
    assert first[0] != calibration.store_cells(TokenSource.MEMORY, found, 0, 9)[0]
    assert calibration.probabilities([first])[0] == pytest.approx(1 / (1 + math.exp(-STORE_PRIOR)))
    also = calibration.also_cell(TokenSource.DATASTORE, 2)
    assert table_of(also) == "also"
    assert calibration.probabilities([(also,)])[0] > 0.5


def test_an_answer_starts_without_the_last_ones_bias() -> None:
    calibration = blank()
    calibration.learn([(OFFSETS["answer"] + 2, 0)], [0.5], 0)
    kept = calibration.weights[0]
    calibration.begin_answer()
    assert calibration.weights[OFFSETS["answer"] :] == [0.0] * 4
    assert calibration.weights[0] == kept > 0


def test_state_round_trip_leaves_tokens_out() -> None:
    learned = Calibration()
    learned.learn([(1, OFFSETS["token"] + 5)], [0.5], 0)
    state = learned.state()
    assert set(state) == set(KEPT_TABLES)
    fresh = Calibration()
    fresh.load({name: table.tolist() for name, table in state.items()})
    assert fresh.weights[: OFFSETS["last"]] == learned.weights[: OFFSETS["last"]]
    assert fresh.weights[OFFSETS["token"] + 5] == 0.0


@pytest.mark.parametrize("bad", [None, [], [[1.0]], [math.nan] * 9, ["x"] * 9])
def test_damaged_state_changes_nothing(bad: object) -> None:
    calibration = Calibration()
    before = list(calibration.weights)
    state: dict[str, object] = dict(Calibration().state())
    state["agreement"] = np.ones(TABLE_SIZES["agreement"])
    state["run"] = bad
    with pytest.raises(ValueError, match=r"calibration|convert"):
        calibration.load(state)  # type: ignore[arg-type]
    assert calibration.weights == before
