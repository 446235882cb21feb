from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bench import simulate as simulation
from bench import traces as recorded
from bench.curves import curve_names, load_curve, parse_curve
from bench.knowledge import Knowledge, known
from bench.simulate import Replay, least_cost, right_path, simulate
from bench.traces import TokenTrace
from sssd_local.draft.tree import tree_from_lists
from sssd_local.errors import ConfigError, SSSDError

TEXT = tuple(range(100, 160))
COPY = TokenTrace("a", "copying", (1, *TEXT, 2), TEXT)
FRESH = TokenTrace("b", "fresh", (1, 2, 3), tuple(range(200, 240)))
FLAT = np.ones(64)
STEEP = np.arange(1.0, 65.0)


def test_curves_interpolate_between_given_widths() -> None:
    assert curve_names() == [
        "cpu-2core-q4_0",
        "cpu-2core-q4_k_m",
        "cpu-2core-q8_0",
        "laptop",
        "apple",
        "cuda",
    ]
    for name in curve_names():
        curve = load_curve(name)
        assert curve.shape == (64,)
        assert curve[0] == 1.0
    laptop = load_curve("laptop")
    assert laptop[[1, 2, 3]] == pytest.approx([1.05, 1.10, 1.15])


def test_a_curve_file_may_end_early_and_have_any_unit(tmp_path: Path) -> None:
    file = tmp_path / "curve.json"
    file.write_text(json.dumps({"relative_cost": {"1": 2, "4": 4}}), encoding="utf-8")
    curve = load_curve(str(file))
    assert curve[:5] == pytest.approx([1, 4 / 3, 5 / 3, 2, 2.5])


@pytest.mark.parametrize("data", [[], {}, {"2": 1}, {"1": -1}, {"1": "x"}, {"relative_cost": 3}])
def test_what_is_no_curve_is_refused(data: object) -> None:
    with pytest.raises(ConfigError, match="a cost curve maps widths"):
        parse_curve(data, "mine")


def test_unknown_and_unreadable_curves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cost curve 'nowhere'"):
        load_curve("nowhere")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(SSSDError, match="cannot read the cost curve"):
        load_curve(str(tmp_path / "bad.json"))


def test_what_a_probe_measured_is_a_curve(tmp_path: Path) -> None:
    """Of the contexts measured, the one nearest to 256 tokens counts; kept profiles alike."""
    printed = [
        {"context": 300, "width": 1, "ms": 20.0},
        {"context": 300, "width": 2, "ms": 30.0},
        {"context": 4096, "width": 1, "ms": 90.0},
    ]
    file = tmp_path / "probe.json"
    file.write_text(json.dumps({"model": "m", "points": printed}), encoding="utf-8")
    assert load_curve(str(file))[:3] == pytest.approx([1, 1.5, 2.25])
    kept = [[0, 1, 0.01, 0.02], [0, 4, 0.02, 0.02], [4096, 1, 0.04, 0.02]]
    assert parse_curve({"version": 2, "points": kept}, "p")[3] == 2.0
    for points in ([], [[1]], [{"context": 0}], [["a", 1, 2]], 7):
        with pytest.raises(ConfigError, match="a cost curve maps widths"):
            parse_curve({"points": points}, "p")


def test_right_path_follows_the_answer_only() -> None:
    tree = tree_from_lists([5, 6, 7, 8], [-1, -1, 1, 2], [0.5, 0.4, 0.3, 0.2], [1] * 4, [0] * 4)
    assert right_path(tree, [0, 6, 7, 9], 1) == [1, 2]
    assert right_path(tree, [6, 7], 0) == [1, 2]
    assert right_path(tree, [9], 0) == []
    assert right_path(tree, [6], 1) == []


def test_every_token_is_accounted_for() -> None:
    for trace in (COPY, FRESH):
        tally = Replay(FLAT).run(trace)
        assert tally.tokens == len(trace.answer) - 1
        assert tally.accepted + tally.steps == tally.tokens
        assert len(tally.draft_us) == tally.steps


def test_copying_is_fast_on_a_flat_curve_and_plain_on_a_steep_one() -> None:
    copied = Replay(FLAT).run(COPY)
    assert copied.speedup > 10
    assert copied.cost == copied.steps
    steep = Replay(STEEP).run(COPY)
    assert (steep.tested, steep.speedup) == (0, 1.0)
    assert Replay(FLAT).run(FRESH).speedup == 1.0


def test_the_limit_is_the_cheapest_way_through() -> None:
    least = Replay(STEEP).least_cost(COPY)
    assert least == len(COPY.answer) - 1
    assert Replay(FLAT).least_cost(FRESH) == len(FRESH.answer) - 1
    curve = load_curve("apple")
    assert Replay(curve).least_cost(COPY) <= Replay(curve).run(COPY).cost
    assert Replay(FLAT).least_cost(TokenTrace("c", "one", (1, 2), (3,))) == 0.0


def test_forced_width_takes_all_nodes() -> None:
    tally = Replay(STEEP).run_forced(COPY, 9)
    assert tally.steps < len(COPY.answer) / 4


def all_ways(longest: list[int], costs: np.ndarray, position: int = 0) -> list[float]:
    """What each way through the positions costs."""
    if position == len(longest):
        return [0.0]
    reach = min(longest[position], len(longest) - position - 1)
    return [
        float(costs[n]) + rest
        for n in range(reach + 1)
        for rest in all_ways(longest, costs, position + n + 1)
    ]


@given(
    st.lists(st.integers(0, 5), max_size=8),
    st.lists(st.floats(0.5, 9), min_size=6, max_size=6),
)
def test_least_cost_is_that_of_the_best_of_all_ways(longest: list[int], dear: list[float]) -> None:
    costs = np.array(dear)
    assert least_cost(longest, costs) == pytest.approx(min(all_ways(longest, costs)))


def test_a_step_drafts_no_more_than_the_curve_has_costs_for() -> None:
    assert least_cost([9] * 10, np.array([1.0, 1.0, 1.0])) == 4.0
    assert least_cost([], FLAT) == 0.0


def test_no_node_is_too_unlikely_for_the_limit() -> None:
    """Each of 20 tokens followed once: none is likely, and the one that comes counts."""
    prompt = [token for follower in range(100, 120) for token in (7, follower)]
    trace = TokenTrace("u", "unlikely", tuple(prompt), (7, 101, 131))
    replay = Replay(FLAT)
    replay.drafter.max_leaves = 64
    assert replay.least_cost(trace) == 1.0


def test_report_has_the_promised_keys_and_no_others() -> None:
    report = simulate([COPY, FRESH], FLAT)
    found = report.as_dict()
    assert list(found) == [
        "speedup",
        "tokens_per_step",
        "tested",
        "accepted",
        "limit",
        "pool_tokens_per_step",
        "per_task",
        "calibration_error",
        "draft_us_median",
        "draft_us_p99",
    ]
    assert report.total.tokens == 59 + 39
    assert list(report.per_task) == ["copying", "fresh"]
    assert report.total.limit is not None
    assert report.total.limit >= report.total.speedup > 1
    assert found["pool_tokens_per_step"] == report.pool.tokens_per_step > 1
    quick = simulate([COPY], FLAT, with_limit=False).as_dict()
    assert (quick["limit"], quick["pool_tokens_per_step"]) == (None, None)
    empty = simulate([], FLAT)
    assert (empty.total.speedup, empty.total.limit) == (1.0, None)


def test_a_history_is_kept_or_put_into_a_datastore() -> None:
    earlier = [TokenTrace("h", "before", (5, 6), FRESH.answer)]
    alone = simulate([FRESH], FLAT, with_limit=False).total
    kept = simulate([FRESH], FLAT, knowledge=known(earlier, datastore=False, keep=False)).total
    stored = simulate([FRESH], FLAT, knowledge=known(earlier, datastore=True, keep=False)).total
    assert alone.accepted == 0
    assert kept.accepted > 20
    assert stored.accepted > 20
    assert kept.limit is not None
    assert kept.limit > 10


def test_traces_are_forgotten_unless_they_are_kept() -> None:
    once = Replay(FLAT)
    assert [once.run(FRESH).accepted, once.run(FRESH).accepted] == [0, 0]
    kept = Replay(FLAT, Knowledge(keep=True))
    kept.run(FRESH)
    kept.run(COPY)
    assert kept.run(FRESH).accepted > 20


def test_runner_ups_are_used_where_they_are_recorded() -> None:
    """Each position's row is what the model thought of after the tokens before it."""
    answer = tuple(range(100, 140))
    rows = np.array([answer, range(300, 340)], np.int32).T
    trace = TokenTrace("r", "ranked", (1,), answer, rows)
    replay = Replay(FLAT)
    replay.run(trace)
    assert replay.drafter.recycled is not None
    # The first token comes with the prompt, and nothing is known yet of what pays.
    assert replay.drafter.recycled.named([1]) == []
    for position in (1, 2, 39):
        recent = [1, *answer][position::-1][:2]
        named = [item.token for item in replay.drafter.recycled.named(recent)]
        assert named == [100 + position, 300 + position]
    dear = Replay(np.arange(1.0, 65.0))
    dear.run(trace)
    assert dear.drafter.recycled is not None
    assert len(dear.drafter.recycled) == 0
    without = Replay(FLAT, Knowledge(recycle=False))
    without.run(trace)
    assert without.drafter.recycled is None


def command(arguments: list[object]) -> Result:
    return CliRunner().invoke(simulation.command, [str(argument) for argument in arguments])


def test_command_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "vocabulary_tokenizer", lambda _: lambda t, _b: [*t.encode()])
    row = {"id": "1", "task": "a/b", "messages": [{"role": "user", "content": "abcdefgh " * 5}]}
    traces = tmp_path / "traces.jsonl"
    traces.write_text(json.dumps({**row, "output": "abcdefgh " * 8}) + "\n", encoding="utf-8")
    arguments = ["--traces", traces, "--vocab", traces, "--curve", "cuda"]
    out = tmp_path / "report.json"
    result = command([*arguments, "--json", out])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text(encoding="utf-8"))["speedup"] > 1.5
    wrong = command([*arguments[:-1], "nowhere"])
    assert (wrong.exit_code, "no cost curve" in wrong.output) == (1, True)
    for options in (["--history", traces], ["--history", traces, "--datastore", "--no-recycle"]):
        assert command([*arguments, "--no-limit", *options]).exit_code == 0
    lone = command([*arguments, "--datastore"])
    assert (lone.exit_code, "--datastore is made of a --history" in lone.output) == (2, True)
    without = command(["--traces", traces, "--curve", "cuda"])
    assert (without.exit_code, "a vocabulary is needed" in without.output) == (1, True)
