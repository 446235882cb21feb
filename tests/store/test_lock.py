"""One writer at a time, across processes, and none is left behind by a dead one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sssd_local.store import lock
from sssd_local.store.errors import StoreError
from sssd_local.store.lock import WriterLock

HOLD = """
import sys
from pathlib import Path
from sssd_local.store.lock import WriterLock
with WriterLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    with WriterLock(tmp_path):
        with pytest.raises(StoreError, match="is being written by another process") as caught:
            WriterLock(tmp_path).__enter__()
        assert f"(process {os.getpid()})" in str(caught.value)
    with WriterLock(tmp_path):
        pass


def test_a_lock_on_a_file_that_was_deleted_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = lock._lock, []

    def late(descriptor: int) -> None:
        if not calls:
            # Another writer deletes the store, and a third makes it anew.
            (tmp_path / lock.NAME).unlink()
        calls.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(lock, "_lock", late)
    with WriterLock(tmp_path):
        assert len(calls) == 2
        with pytest.raises(StoreError, match="is being written by another process"):
            WriterLock(tmp_path).__enter__()


def test_the_lock_goes_with_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WriterLock(tmp_path):
        raise KeyError
    with WriterLock(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=rf"\(process {holder.pid}\); try again"):
            WriterLock(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with WriterLock(tmp_path):
        pass


def test_a_folder_that_is_missing_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WriterLock(tmp_path / "none").__enter__()
