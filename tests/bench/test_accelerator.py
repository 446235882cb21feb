"""The script for machines with an accelerator, here on a CPU with a tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import bench.__main__
import sssd_local.cli
from models.tiny import write_tiny_llama

SCRIPT = Path(bench.__main__.__file__).with_name("accelerator.sh")
PROGRAMS: dict[str, click.Group] = {"bench": bench.__main__.main, "sssd_local": sssd_local.cli.main}

pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")


def run(backend: str, **variables: str) -> subprocess.CompletedProcess[str]:
    root = SCRIPT.parents[1]
    environment = {**os.environ, "PYTHON": sys.executable, "SKIP_BUILD": "1", **variables}
    return subprocess.run(
        ["sh", str(SCRIPT), backend],
        env=environment, cwd=root, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_every_command_and_option_in_it_exists() -> None:
    text = SCRIPT.read_text("utf-8").replace("\\\n", " ")
    calls = re.findall(r'"\$PYTHON" -m (bench|sssd_local) (\w+)(.*)', text)
    assert [call[:2] for call in calls] == [
        ("bench", "replay"), ("sssd_local", "probe"), ("bench", "overhead")
    ]  # fmt: skip
    for program, name, rest in calls:
        group = PROGRAMS[program]
        command = group.get_command(click.Context(group), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known


def test_a_run_leaves_all_figures(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "vocab.gguf")
    record = {
        "id": "t",
        "task": "copy",
        "messages": [{"role": "user", "content": "the king and the queen and the town"}],
        "output": "the king and the queen and the town " * 8,
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(record), encoding="utf-8")
    out = tmp_path / "out"
    found = run(
        "cpu", TRACES=str(tmp_path / "t.jsonl"), VOCAB=str(tmp_path / "vocab.gguf"), SIZES="tiny",
        QUANT="Q8_0", REPEAT="1", THREADS="1", CACHE=str(tmp_path), OUT=str(out),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith(f"figures are in {out}\n")
    curve = json.loads((out / "probe-tiny.json").read_text("utf-8"))
    assert {1, 8, 64} <= {point["width"] for point in curve["points"]}
    assert curve["advice"] in (out / "probe-tiny.txt").read_text("utf-8")
    results = json.loads((out / "replay-tiny" / "results.json").read_text("utf-8"))
    assert {run["method"] for run in results["runs"]} >= {"plain", "sssd", "fixed-4"}
    assert json.loads((out / "overhead-tiny.json").read_text("utf-8"))["plain"]["steps"] > 0
    assert "all outside llama_decode" in (out / "overhead-tiny.md").read_text("utf-8")


def test_what_is_missing_or_unknown_is_said() -> None:
    assert "a JSONL of recorded answers" in run("cuda", TRACES="", VOCAB="v").stderr
    unknown = run("tpu", TRACES="t", VOCAB="v")
    assert (unknown.returncode, "unknown backend tpu" in unknown.stderr) == (2, True)
