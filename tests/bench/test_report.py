"""Speed-up arithmetic and report files, on made-up runs."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import pytest

from bench.limit import Limit
from bench.plots import can_plot
from bench.replay import Result
from bench.report import (
    baseline_of,
    machine,
    processor,
    speed_points,
    summary,
    table,
    write_report,
)

RUN_FIELDS = [
    "trace",
    "task",
    "method",
    "tokens",
    "seconds",
    "tokens_per_second",
    "steps",
    "tested",
    "accepted",
    "identical",
]


def result(
    trace: str, task: str, method: str, seconds: float, tokens: int = 11, identical: bool = True
) -> Result:
    rate = (tokens - 1) / seconds
    return Result(trace, task, method, tokens, seconds, rate, 10, 4, 2, identical)


RESULTS = [
    result("1", "qa", "plain", 2.0),
    result("1", "qa", "sssd", 1.0),
    result("2", "qa", "plain", 6.0, tokens=31),
    result("2", "qa", "sssd", 4.0, tokens=31, identical=False),
    result("3", "code", "plain", 4.0),
    result("3", "code", "sssd", 0.5),
]


def test_speedups_are_ratios_of_summed_seconds() -> None:
    sums = summary(RESULTS)
    assert list(sums) == ["plain", "sssd"]
    assert sums["sssd"] == {
        "total_speedup": 12.0 / 5.5,
        "geomean_speedup": pytest.approx((2.0 * 1.5 * 8.0) ** (1 / 3)),
        "worst_task_speedup": 8.0 / 5.0,
        "per_task": {"qa": 8.0 / 5.0, "code": 8.0},
        "identical": False,
    }
    assert sums["plain"] == {
        "total_speedup": 1.0,
        "geomean_speedup": 1.0,
        "worst_task_speedup": 1.0,
        "per_task": {"qa": 1.0, "code": 1.0},
        "identical": True,
    }


def test_without_plain_the_first_method_is_the_base() -> None:
    assert baseline_of(["sssd", "plain"]) == "plain"
    assert baseline_of(["other", "sssd"]) == "other"
    others = [result("1", "qa", "a", 3.0), result("1", "qa", "b", 2.0)]
    assert summary(others)["b"]["total_speedup"] == 1.5


def test_results_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        summary(RESULTS[:3])


def test_table() -> None:
    assert table(RESULTS).splitlines() == [
        "| task | traces | tokens | plain tok/s | plain | sssd |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| qa | 2 | 42 | 5.0 | 1.00 | 1.60 |",
        "| code | 1 | 11 | 2.5 | 1.00 | 8.00 |",
        "| **total** | 3 | 53 | 4.2 | 1.00 | 2.18 |",
        "| geometric mean |  |  |  | 1.00 | 2.88 |",
        "| worst task |  |  |  | 1.00 | 1.60 |",
        "| identical output |  |  |  | yes | **NO** |",
    ]


def test_nothing_run() -> None:
    assert summary([]) == {}
    assert table([]) == "No trace was run.\n"


def test_files(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    limit = Limit({1: 1.0, 4: 2.0}, 0.01)
    as_json, as_text, as_csv, *plots = write_report(
        folder, RESULTS, {"threads": 2, "size": "1b"}, limit
    )
    names = ["by-task.png", "by-task.svg", "limit.png", "limit.svg"]
    assert [plot.name for plot in plots] == (names if can_plot() else [])
    with as_csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seconds"] for row in rows] == ["2.0", "1.0", "6.0", "4.0", "4.0", "0.5"]
    assert list(rows[0]) == RUN_FIELDS
    data = json.loads(as_json.read_text(encoding="utf-8"))
    assert list(data) == ["runs", "summary", "limit", "machine"]
    assert data["limit"] == limit.as_dict()
    assert date.fromisoformat(data["machine"]["date"])
    assert [list(run) for run in data["runs"]] == [RUN_FIELDS] * 6
    assert data["runs"][3]["identical"] is False
    assert data["summary"] == summary(RESULTS)
    assert data["machine"]["threads"] == 2
    assert {"processor", "system", "python", "llama_cpp_python"} <= set(data["machine"])
    text = as_text.read_text(encoding="utf-8")
    assert text.startswith(table(RESULTS))
    assert "- size: 1b\n" in text
    assert f"The machine's limit: {limit.line()}.\n" in text


def test_processor_names(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast CPU: 9000\n", encoding="utf-8")
    assert processor(cpuinfo) == "Fast CPU: 9000"
    cpuinfo.write_text("processor\t: 0\n", encoding="utf-8")
    assert processor(cpuinfo) == processor(tmp_path / "none") == machine_name()


def machine_name() -> str:
    import platform

    return platform.processor() or platform.machine()


def test_machine_says_nothing_about_the_user() -> None:
    facts = machine()
    versions = {"python", "sssd_local", "llama_cpp_python", "llama_cpp"}
    assert set(facts) == {"processor", "system"} | versions


def test_points_are_tokens_a_step_and_speedup() -> None:
    assert speed_points(RESULTS) == {
        "plain": [(40 / 20, 1.0), (10 / 10, 1.0)],
        "sssd": [(40 / 20, 8.0 / 5.0), (10 / 10, 8.0)],
    }
