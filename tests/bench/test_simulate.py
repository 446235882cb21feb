from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench import fit as fitting
from bench import simulate as simulation
from bench import traces as recorded
from bench.curves import curve_names, load_curve, parse_curve
from bench.simulate import Reliability, Replay, Tally, right_path, simulate, table
from bench.traces import TokenTrace
from sssd_local.draft.tree import tree_from_lists
from sssd_local.errors import ConfigError, SSSDError

TEXT = tuple(range(100, 160))
COPY = TokenTrace("a", "copying", (1, *TEXT, 2), TEXT)
FRESH = TokenTrace("b", "fresh", (1, 2, 3), tuple(range(200, 240)))
FLAT = np.ones(64)
STEEP = np.arange(1.0, 65.0)


def number(report: dict[str, object], key: str) -> float:
    value = report[key]
    assert isinstance(value, int | float)
    return value


def test_curves_interpolate_between_given_widths() -> None:
    assert {"cpu-2core-q4_0", "laptop", "apple", "cuda"} <= set(curve_names())
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


def test_reliability_arithmetic() -> None:
    reliability = Reliability()
    reliability.add([0.11, 0.19, 0.95, 1.0], [True, False, True, True])
    assert [row["count"] for row in reliability.rows()] == [2, 2]
    assert reliability.rows()[0]["hit_rate"] == 0.5
    assert reliability.error() == pytest.approx((abs(0.30 - 1) + abs(1.95 - 2)) / 4)
    assert Reliability().error() == 0.0


def test_report_has_the_promised_keys() -> None:
    report = simulate([COPY, FRESH], FLAT, history=[FRESH])
    assert number(report, "tokens") == 59 + 39
    assert number(report, "limit") >= number(report, "speedup") > 1
    assert number(report, "pool_tokens_per_step") > 1
    tasks = report["per_task"]
    assert isinstance(tasks, dict)
    assert list(tasks) == ["copying", "fresh"]
    text = table(report)
    assert "copying" in text
    assert "32 nodes always" in text
    quick = simulate([COPY], FLAT, with_limit=False)
    assert quick["limit"] is None
    assert "32 nodes always" not in table(quick)
    assert number(simulate([], FLAT), "speedup") == 1.0
    assert Tally().limit == 1.0


def test_command_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "vocabulary_tokenizer", lambda _: lambda t, _b: [*t.encode()])
    row = {"id": "1", "task": "a/b", "messages": [{"role": "user", "content": "abcdefgh " * 5}]}
    traces = tmp_path / "traces.jsonl"
    traces.write_text(json.dumps({**row, "output": "abcdefgh " * 8}) + "\n", encoding="utf-8")
    arguments = ["--traces", str(traces), "--vocab", str(traces), "--curve", "cuda"]
    out = tmp_path / "report.json"
    result = CliRunner().invoke(simulation.command, [*arguments, "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text(encoding="utf-8"))["speedup"] > 1.5
    wrong = CliRunner().invoke(simulation.command, [*arguments[:-1], "nowhere"])
    assert wrong.exit_code == 1
    assert "no cost curve" in wrong.output


def test_fit_slope_is_the_derivative_of_the_loss() -> None:
    labels = fitting.balance([fitting.collect([COPY, FRESH]), fitting.collect([COPY])])
    joined = fitting.join(labels)
    weights = np.random.default_rng(0).normal(size=fitting.NUM_FITTED) * 0.1
    _, slope = fitting.loss(joined, weights)
    for cell in np.flatnonzero(slope)[:5]:
        nudge = np.zeros(fitting.NUM_FITTED)
        nudge[cell] = 1e-5
        rise = fitting.loss(joined, weights + nudge)[0] - fitting.loss(joined, weights - nudge)[0]
        assert slope[cell] == pytest.approx(rise / 2e-5, rel=1e-3, abs=1e-6)


def test_fit_learns_and_writes_a_table_that_loads(tmp_path: Path) -> None:
    labels = fitting.collect([COPY])
    weights = fitting.fit(labels, steps=60, ridge=0.1)
    start = fitting.loss(labels, np.zeros(fitting.NUM_FITTED))[0]
    assert fitting.loss(labels, weights)[0] < 0.5 * start
    file = tmp_path / "priors.py"
    fitting.write_priors(weights, file)
    space: dict[str, dict[str, list[int]]] = {}
    exec(file.read_text(encoding="utf-8"), space)
    assert space["WEIGHTS"] == fitting.tables(weights)
