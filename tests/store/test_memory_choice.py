"""The user's decision, and the folder that is theirs alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sssd_local.errors import ConfigError
from sssd_local.store.errors import StoreError
from sssd_local.store.memory_choice import (
    DEFAULT_MAX_MB,
    Choice,
    memory_folder,
    read_choice,
    write_choice,
)


def test_nothing_is_decided_at_first() -> None:
    assert read_choice() == Choice(keep=None, max_mb=DEFAULT_MAX_MB) == Choice(None, 64)
    assert not memory_folder().exists()
    assert Choice().max_bytes == 64_000_000


@pytest.mark.parametrize("choice", [Choice(True), Choice(False, 3)])
def test_a_decision_is_kept(choice: Choice) -> None:
    write_choice(choice)
    assert read_choice() == choice


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"keep": 1, "max_mb": 2}', '{"keep": true, "max_mb": 0}', "[" * 9999],
)
def test_a_file_that_says_nothing_decides_nothing(text: str) -> None:
    write_choice(Choice(True))
    (memory_folder() / "choice.json").write_text(text)
    assert read_choice() == Choice()


@pytest.mark.parametrize("max_mb", [0, -1, 1 << 21])
def test_impossible_bounds(max_mb: int) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to 1048576 MB, got {max_mb}"):
        Choice(max_mb=max_mb)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_the_user_may_look() -> None:
    write_choice(Choice(True))
    for folder in (memory_folder(), memory_folder().parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((memory_folder() / "choice.json").stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_folder_that_was_there_keeps_its_permissions() -> None:
    for folder in (memory_folder().parent, memory_folder()):
        folder.mkdir()
        folder.chmod(0o755)
    write_choice(Choice(True))
    for folder in (memory_folder().parent, memory_folder()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((memory_folder() / "choice.json").stat().st_mode) == 0o600


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSSD_LOCAL_HOME", str(tmp_path / "file" / "app"))
    assert read_choice() == Choice()
    with pytest.raises(StoreError, match="cannot be written"):
        write_choice(Choice(True))
