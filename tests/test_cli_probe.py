"""`sssd-local probe`: table, JSON, picture, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sssd_local import costs
from sssd_local.cli import main
from sssd_local.cli_probe import report_lines, report_of
from sssd_local.hardware.probe import ProbePoint
from sssd_local.hardware.profile import Profile
from sssd_local.hardware.survey import Findings, Plan, Survey

TinyModel = Callable[..., Path]
CURVE = {1: 1.0, 2: 1.8, 4: 2.0, 8: 3.5, 16: 5.0}
POINTS = tuple(
    ProbePoint(length, width, 0.02 * cost * (1 + length / 1000))
    for length in (0, 1000)
    for width, cost in CURVE.items()
)
PROFILE = Profile(POINTS, 2, 1, branch_seconds=0.0005, is_full=True)
REPORT = report_of("m.gguf", "b1", "cpu", PROFILE, device="Some CPU")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["probe", *arguments])


def test_the_json_object_holds_what_was_measured(tiny_model: TinyModel) -> None:
    result = call(str(tiny_model()), "--json", "--ctx", "512", "--threads", "1")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["threads"] == report["threads_batch"] == 1
    assert report["backend"] == "cpu"
    assert report["build"]
    assert report["model"].endswith(".gguf")
    # On a machine that is busy at the moment the deeper blocks may be thrown away.
    lengths = {point["context"] for point in report["points"]}
    assert {0} <= lengths <= {0, 112, 448}
    assert {point["width"] for point in report["points"] if point["context"] == 0} >= {1, 2, 4, 64}
    for point in report["points"]:
        assert set(point) == {"context", "width", "ms", "relative"}
        assert point["ms"] > 0
    assert set(report["chosen"]) == set(map(str, lengths))
    assert report["limit"] >= 1
    assert report["knee"] >= 1
    assert report["complete"] == (len(lengths) == 3)


@pytest.fixture
def surveys(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Surveys find POINTS; the list holds what they were asked to measure."""
    plans: list[Plan] = []

    def run(self: Survey) -> Findings:
        plans.append(self.plan)
        return Findings(POINTS, 1, 1, 0.0005)

    monkeypatch.setattr(Survey, "run", run)
    return plans


def test_a_kept_full_probe_is_shown_again_unless_fresh(
    tiny_model: TinyModel, surveys: list[Plan]
) -> None:
    path = str(tiny_model())
    first = call(path, "--json", "--threads", "1")
    assert json.loads(first.stdout)["points"][7]["ms"] == 80.0
    assert call(path, "--json", "--threads", "1").stdout == first.stdout
    assert [plan.threads for plan in surveys] == [(1,)]
    assert call(path, "--json", "--threads", "1", "--fresh").exit_code == 0
    assert len(surveys) == 2


def test_numbers_of_the_report() -> None:
    assert REPORT["limit"] == pytest.approx(3.2)
    assert REPORT["knee"] == 16
    assert REPORT["tree_ms"] == 0.5
    assert REPORT["chosen"] == {"0": 4, "1000": 4}
    assert REPORT["points"][7] == {"context": 1000, "width": 4, "ms": 80.0, "relative": 2.0}


def test_the_table_marks_the_chosen_widths() -> None:
    lines = list(report_lines(REPORT))
    assert lines[1] == "2 threads, 1 for batches"
    marked = [line for line in lines if "◀ chosen" in line]
    assert [line.split()[:3] for line in marked] == [["4", "40.00", "2.00"], ["4", "80.00", "2.00"]]
    assert "█" * 40 in lines[-4]
    assert "█" * 41 not in "".join(lines)
    assert lines[-2].startswith("limit 3.20× · knee at width 16 · a tree costs 0.50 ms more")
    assert "checking 4 tokens costs 2.0× one" in lines[-1]
    assert REPORT["flash_attention"] is False
    assert REPORT["restore_ms"] == 0
    other = replace(PROFILE, flash_attention=True, save_seconds=0.002, load_seconds=0.0005)
    lines = list(report_lines(report_of("m.gguf", "b1", "cpu", other, device="")))
    assert lines[1] == "2 threads, 1 for batches · flash attention"
    assert lines[-1].startswith("A wrong draft costs 2.50 ms for going back")
    partial = list(report_lines({**REPORT, "complete": False}))
    assert partial[-1].startswith("Not everything was measured")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_written(tiny_model: TinyModel, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"curve.{suffix}"
    assert call(str(tiny_model()), "--threads", "1", "--plot", str(file)).exit_code == 0
    start = file.read_bytes()[:200]
    assert start.startswith(b"\x89PNG") if suffix == "png" else b"<svg" in file.read_bytes()


def test_what_is_kept_is_listed_and_forgotten(tiny_model: TinyModel, surveys: list[Plan]) -> None:
    path = tiny_model()
    assert "nothing is kept" in call("--list").stdout
    call(str(path), "--threads", "1")
    store = costs.profile_store()
    (kept,) = store.list()
    assert kept.profile is not None
    assert call("--list").stdout.startswith(f"{kept.path.name[:8]}  {path.name} · 1/1 threads · ")
    assert call("--list").stdout.endswith(" · full\n")
    other = tiny_model("gpt2")
    refused = call("--forget", "hf:someone/model")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "hf:someone/model is not in the cache" in refused.stderr
    assert call("--forget", str(other)).stdout == "0 profiles removed\n"
    assert call("--forget", str(path)).stdout == "1 profile removed\n"
    assert store.list() == []


def test_a_damaged_profile_is_listed_as_of_no_use_and_removed() -> None:
    folder = costs.profile_store().folder
    folder.mkdir(parents=True)
    (folder / "broken.json").write_text("[")
    assert "of no use" in call("--list").stdout
    assert call("--forget").stdout == "1 profile removed\n"


def test_a_quick_profile_is_not_shown_as_a_full_one(
    tiny_model: TinyModel, surveys: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Profile(POINTS[:5], 1, 1)
    monkeypatch.setattr("sssd_local.hardware.profile.ProfileStore.load", lambda self, key: quick)
    report = json.loads(call(str(tiny_model()), "--threads", "1", "--json").stdout)
    assert report["complete"] is True
    assert len(surveys) == 1


def test_nothing_measured_is_an_error(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "full_probe", lambda *arguments, **options: None)
    result = call(str(tiny_model()))
    assert (result.exit_code, "nothing was measured" in result.stderr) == (1, True)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    assert call().exit_code == 2
    missing = call(str(tmp_path / "no.gguf"))
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
    assert call(str(tmp_path / "no.gguf"), "--threads", "0").exit_code == 2
