"""The files of what was typed and of the last chat: the user's own, and gone once forgotten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sssd_local.chat import kept as module
from sssd_local.chat.kept import forget_kept, history_path, kept_history, last_chat_path


def test_the_files_are_in_the_apps_folder(home: Path) -> None:
    assert history_path() == home / "app" / "history"
    assert last_chat_path() == home / "app" / "last_chat.json"
    assert forget_kept() == []
    assert not (home / "app").exists()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and open files")
def test_a_running_chat_begins_the_list_anew_for_the_user_only() -> None:
    history = kept_history(history_path())
    history.append_string("the first secret")
    assert forget_kept() == [history_path()]
    assert not history_path().exists()
    umask = os.umask(0)
    try:
        history.append_string("said later")
    finally:
        os.umask(umask)
    text = history_path().read_text()
    assert "+said later" in text
    assert "secret" not in text
    assert stat.S_IMODE(history_path().stat().st_mode) == 0o600


def test_a_long_list_loses_its_oldest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_HISTORY_BYTES == 1 << 20
    history = kept_history(history_path())
    for index in range(20):
        history.append_string(f"line {index}")
    monkeypatch.setattr(module, "MAX_HISTORY_BYTES", history_path().stat().st_size - 1)
    kept_history(history_path())
    lines = [line for line in history_path().read_text().splitlines() if line.startswith("+")]
    assert lines == [f"+line {index}" for index in range(20 - len(lines), 20)]
    assert 8 <= len(lines) <= 10
