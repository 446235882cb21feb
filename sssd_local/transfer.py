"""One file over HTTP: goes on where it broke off, and counts only when its checksum is right."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sssd_local.errors import ModelError

CHUNK_BYTES = 2**20
# Attempts in a row that bring nothing, and the pause after the first, doubled after each.
MAX_FAILURES = 5
RETRY_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
_PARTIAL = 206
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
# Called with the bytes that are there, and how many of them came in this run.
Report = Callable[[int, int], None]
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch; `digest` is its SHA-256, or git's SHA-1 for files outside of LFS."""

    name: str
    url: str
    num_bytes: int
    digest: str

    def __post_init__(self) -> None:
        if self.num_bytes < 0 or not _DIGEST.fullmatch(self.digest):
            raise ModelError(f"the hub tells no size and checksum of {self.name}; try again later")

    def hasher(self) -> Any:
        """Takes in the file's bytes; its hexdigest is then `digest`."""
        if len(self.digest) == 64:
            return hashlib.sha256()
        # Git puts this before a file's bytes.
        return hashlib.sha1(b"blob %d\0" % self.num_bytes, usedforsecurity=False)


def partial_path(target: Path) -> Path:
    """Where the bytes that have come so far are kept."""
    return target.with_name(f"{target.name}.incomplete")


def missing_bytes(file: RemoteFile, target: Path) -> int:
    """How many bytes of a file are still to come."""
    if target.exists():
        return 0
    try:
        return max(file.num_bytes - partial_path(target).stat().st_size, 0)
    except FileNotFoundError:
        return file.num_bytes


def transfer(file: RemoteFile, target: Path, headers: Mapping[str, str], report: Report) -> None:
    """Brings a file to `target`.

    What has come is kept when it is cut off. Raises ModelError when the connection stays lost or
    the checksum is wrong, huggingface_hub's errors when the hub refuses, and OSError.
    """
    partial = partial_path(target)
    with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as out:
        state = _Partial(file, out, report)
        _fetch(file, state, headers)
        out.flush()
        os.fsync(out.fileno())
    if state.hasher.hexdigest() != file.digest or state.num_bytes != file.num_bytes:
        partial.unlink()
        raise ModelError(
            f"the checksum of {file.name} is wrong, so what came was thrown away; try again, and "
            "if it stays so the file on the hub is damaged"
        )
    os.replace(partial, target)


class _Partial:
    """The bytes that have come, with their checksum."""

    def __init__(self, file: RemoteFile, out: IO[bytes], report: Report) -> None:
        self._out, self._report, self._file = out, report, file
        self._num_new = 0
        self.num_bytes, self.hasher = 0, file.hasher()
        while data := out.read(CHUNK_BYTES):
            self._count(data)
        if self.num_bytes > file.num_bytes:
            self.clear()

    def add(self, data: bytes) -> None:
        self._out.write(data)
        self._num_new += len(data)
        self._count(data)

    def clear(self) -> None:
        self._out.seek(0)
        self._out.truncate()
        self.num_bytes, self._num_new, self.hasher = 0, 0, self._file.hasher()

    def _count(self, data: bytes) -> None:
        self.hasher.update(data)
        self.num_bytes += len(data)
        self._report(self.num_bytes, self._num_new)


def _fetch(file: RemoteFile, state: _Partial, headers: Mapping[str, str]) -> None:
    """Asks for what is missing until it is there or nothing more comes."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    failures = 0
    while state.num_bytes < file.num_bytes:
        before, reason = state.num_bytes, "the answer was too short"
        try:
            _ask(file, state, headers)
        except HfHubHTTPError as error:
            if error.response.status_code not in _PASSING:
                raise
            reason = f"the answer was {error.response.status_code}"
        except HTTPError as error:
            reason = str(error) or type(error).__name__
        if state.num_bytes > before:
            failures = 0
            continue
        failures += 1
        if failures == MAX_FAILURES:
            raise ModelError(
                f"the connection was lost at {state.num_bytes:,} of {file.num_bytes:,} bytes of "
                f"{file.name} ({reason}); the same command goes on from there"
            )
        time.sleep(RETRY_SECONDS * 2 ** (failures - 1))


def _ask(file: RemoteFile, state: _Partial, headers: Mapping[str, str]) -> None:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    asked = {**headers, "Accept-Encoding": "identity"}
    if state.num_bytes:
        asked["Range"] = f"bytes={state.num_bytes}-"
    with get_session().stream(
        "GET", file.url, headers=asked, follow_redirects=True, timeout=TIMEOUT_SECONDS
    ) as response:
        hf_raise_for_status(response)
        if state.num_bytes and response.status_code != _PARTIAL:
            # The server sends the whole file again.
            state.clear()
        for data in response.iter_raw():
            state.add(data)
            if state.num_bytes > file.num_bytes:
                return
