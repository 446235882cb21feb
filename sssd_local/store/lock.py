"""One writer at a time: a lock that the system drops when its holder dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from sssd_local.store.errors import BusyStoreError

NAME = "lock"


class WriterLock:
    """Holds the right to write to a folder; a context manager.

    Entering raises BusyStoreError if another process (or another lock of this one) holds it, and
    OSError if the file cannot be opened. The file stays until the folder goes, which its holder
    may delete.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._descriptor = -1

    def __enter__(self) -> WriterLock:
        descriptor = self._locked()
        while not _is_at(descriptor, self._path):
            # The store was deleted in between; a lock on what is gone keeps nobody out.
            os.close(descriptor)
            descriptor = self._locked()
        self._descriptor = descriptor
        # Byte 0 is what Windows locks, and then nobody else can read it.
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f" {os.getpid()}".encode())
        return self

    def _locked(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
        except OSError as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise BusyStoreError(
                f"{self._path.parent} is being written by another process{holder}; "
                "try again when that is done"
            ) from error
        return descriptor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closing drops the lock.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that a path leads to now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    os.lseek(descriptor, 1, os.SEEK_SET)
    number = os.read(descriptor, 20).decode("ascii", "replace").strip()
    return f" (process {number})" if number.isdecimal() else ""


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
