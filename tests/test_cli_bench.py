"""`sssd-local bench` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sssd_local import measure as measuring
from sssd_local.cli_bench import bench
from sssd_local.cli_guard import guarded
from sssd_local.measure import AUTO, OFF, Measurement, Run

command = click.command("bench")(guarded(bench))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    path.write_text('{"copying": ["the king and the king and"], "prose": ["a sailor"]}', "utf-8")
    return path


def test_all_is_told_and_written(
    tiny_model: Callable[..., Path], prompts: Path, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("x.json", "x.csv")]
    outcome = invoke(
        tiny_model(), "--prompts", prompts, "--tokens", 12, "--repeats", 2, "--ctx", 128,
        "--threads", 1, "--kv-type", "f32", "--json", files[0], "--csv", files[1],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines[:5]] == [
        "prompts", "---", "copying", "prose", "**all**",
    ]  # fmt: skip
    assert lines[5] == ""
    assert lines[6].startswith("Too little was decoded to tell (")
    assert "Answers with and without speculation are the same for 2 of 2." in lines
    data = json.loads(files[0].read_text("utf-8"))
    assert list(data["per_kind"]) == ["copying", "prose"]
    assert len(data["runs"]) == len(files[1].read_text("utf-8").splitlines()) - 1 == 8
    assert outcome.stderr == ""


def test_a_plot(tiny_model: Callable[..., Path], prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ["--prompts", prompts, "--tokens", 6, "--repeats", 1, "--ctx", 128]
    outcome = invoke(tiny_model(), *options, "--plot", tmp_path / "x.png")
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_tells_what_is_known(
    tiny_model: Callable[..., Path],
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(llm: object, found: Measurement, **_: object) -> None:
        found.runs.append(Run(0, "copying", OFF, 0, 11, 100.0, 10, 0, 0))
        found.runs.append(Run(0, "copying", AUTO, 0, 11, 50.0, 5, 8, 5))
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", stopped)
    options = ["--prompts", prompts, "--ctx", 128]
    outcome = invoke(tiny_model(), *options, "--json", tmp_path / "x.json")
    assert outcome.exit_code == 130
    assert "| copying | 10 | 100.0 | 200.0 | 2.00 | 62 % |" in outcome.stdout
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["speedup"] == 2.0

    def at_once(llm: object, found: Measurement, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", at_once)
    outcome = invoke(tiny_model(), *options)
    assert (outcome.exit_code, outcome.stdout) == (130, "Nothing was compared.\n")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--prompts", "none.json"], 2, "the prompts file none.json cannot be read"),
        (["--plot", "x.txt"], 2, "a plot is a .png"),
        (["--tokens", "1"], 2, "1 is not in the range"),
        (["--json", "no/such/folder/x.json"], 1, "x.json cannot be written"),
    ],
)
def test_what_cannot_be(
    tiny_model: Callable[..., Path],
    prompts: Path,
    options: list[str],
    code: int,
    message: str,
) -> None:
    usual = ["--tokens", "4", "--repeats", "1", "--ctx", "128", "--prompts", prompts]
    outcome = invoke(tiny_model(), *usual, *options)
    assert outcome.exit_code == code
    assert message in outcome.stderr


def test_defaults() -> None:
    defaults = {param.name: param.default for param in command.params if param.name != "model"}
    assert (defaults["tokens"], defaults["repeats"], defaults["kv_type"]) == (128, 3, "f16")
    text = invoke("--help").output
    for name in ("--prompts", "--csv", "--json", "--plot", "--threads", "--gpu-layers"):
        assert name in text
