"""Pictures that cannot be drawn are refused before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sssd_local import plot
from sssd_local.cli import main
from sssd_local.plot import check_plot


@pytest.mark.parametrize("name", ["a.png", "a.svg", "a.PDF"])
def test_what_can_be_drawn(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    check_plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["probe", "bench"])
def command(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A command with --plot, in a package that would fail if it looked for the model."""
    monkeypatch.setattr(f"sssd_local.cli_{request.param}.named_model", None)
    return str(request.param)


def refused(command: str, path: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [command, "m.gguf", "--plot", str(path)])
    return result.exit_code, result.stdout, result.stderr


def test_another_ending_is_wrong_usage(command: str, tmp_path: Path) -> None:
    message = "error: a plot is a .png, .svg, .pdf file, not 'a.txt'\n"
    assert refused(command, tmp_path / "a.txt") == (2, "", message)


def test_a_folder_that_is_missing(command: str, tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.png"
    message = f"error: cannot write {path}: there is no folder {path.parent}\n"
    assert refused(command, path) == (1, "", message)


def test_a_library_that_is_missing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(plot, "import_module", missing)
    message = "error: a plot needs matplotlib: pip install 'sssd-local[bench]'\n"
    assert refused(command, tmp_path / "a.png") == (1, "", message)
