"""The commands of `python -m bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench.__main__
from bench.__main__ import main

OTHER = """
import click

@click.command("other")
def command():
    \"\"\"Does something else.\"\"\"
    click.echo("done")
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in a module of its own, and one whose module does not exist."""
    (tmp_path / "bench_other.py").write_text(OTHER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    modules = {"other": "bench_other", "missing": "bench_missing"}
    monkeypatch.setattr(bench.__main__, "MODULES", modules)


def invoke(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(main, arguments)
    return outcome.exit_code, outcome.output


@pytest.mark.usefixtures("other")
def test_commands_of_other_modules_are_found() -> None:
    assert invoke("other") == (0, "done\n")
    code, text = invoke("--help")
    assert code == 0
    listed = [line.split()[0] for line in text.split("Commands:\n")[1].splitlines()]
    assert listed == ["other", "replay"]
    assert "Does something else." in text


@pytest.mark.usefixtures("other")
def test_a_command_without_its_module_does_not_exist() -> None:
    code, text = invoke("missing")
    assert code == 2
    assert "No such command 'missing'" in text


def test_help_does_not_load_llama_cpp() -> None:
    program = (
        "import sys; from bench.__main__ import main\n"
        "main(['replay', '--help'], standalone_mode=False)\n"
        "sys.exit('llama_cpp' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--min-tokens" in done.stdout


def test_replay_needs_traces_a_vocabulary_and_a_folder() -> None:
    for option in ("--traces", "--vocab", "--out"):
        assert f"{option}" in invoke("replay", "--help")[1]
    code, text = invoke("replay", "--methods", "plain")
    assert code == 2
    assert "Missing option '--traces'" in text
