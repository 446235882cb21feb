"""What a chat keeps on disk beside memory: the lines that were typed, and the last conversation."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sssd_local.errors import SSSDError
from sssd_local.files import app_folder, make_folder, overwrite

if TYPE_CHECKING:
    from prompt_toolkit.history import History

LAST_CHAT, HISTORY = "last_chat.json", "history"
MAX_HISTORY_BYTES = 1 << 20


def last_chat_path() -> Path:
    """The file of the last conversation, there or not."""
    return app_folder() / LAST_CHAT


def history_path() -> Path:
    """The file of what was typed, there or not."""
    return app_folder() / HISTORY


def forget_kept() -> list[Path]:
    """Overwrites and deletes both files; returns those that were there. Raises SSSDError."""
    # A write that was cut off leaves a file beside its own.
    halves = app_folder().glob(f".{LAST_CHAT}.*.tmp")
    found = [path for path in (last_chat_path(), history_path(), *halves) if path.is_file()]
    failed: list[str] = []
    for path in found:
        overwrite(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            failed.append(f"{path} cannot be deleted: {error.strerror or error}")
    if failed:
        raise SSSDError("; ".join(failed))
    return found


def kept_history(path: Path) -> History:
    """Entries in a file for the user only; without a writable file they last for this run."""
    from prompt_toolkit.history import FileHistory

    class KeptHistory(FileHistory):
        def store_string(self, string: str) -> None:
            # The entry is in memory; a full disk must not end the chat.
            with suppress(OSError):
                # It may have been forgotten since; the library would make it for everybody.
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                super().store_string(string)

        def load_history_strings(self) -> Iterable[str]:
            try:
                return list(super().load_history_strings())
            except OSError:
                return []

    with suppress(OSError):
        _prepare(path)
    return KeptHistory(str(path))


def _prepare(path: Path) -> None:
    """Creates the file, closes it to others, and drops the oldest entries of a long one."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        if os.name == "posix":
            os.fchmod(file.fileno(), 0o600)
        data = file.read()
        if len(data) > MAX_HISTORY_BYTES:
            # An entry begins with an empty line and a comment.
            start = data.find(b"\n# ", len(data) - MAX_HISTORY_BYTES // 2)
            file.seek(0)
            file.write(data[start:] if start >= 0 else b"")
            file.truncate()
