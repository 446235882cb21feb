"""The files a datastore is built from: finding them, passing over what is no text, reading."""

from __future__ import annotations

import codecs
import glob
import hashlib
import io
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from sssd_local.store.errors import StoreError
from sssd_local.store.records import are_records, document_texts, line_texts

STDIN = "-"
JSON_LINES = frozenset({".jsonl", ".ndjson"})
JSON_DOCUMENTS = frozenset({".json"})
# Larger ones are read as text: a document has to be held in memory as a whole.
MAX_DOCUMENT_BYTES = 1 << 30
LEFT_OUT_FOLDERS = frozenset({"__pycache__", "node_modules"})
# Texts are cut at a line's end once they are so long, to be tokenised side by side.
PIECE_CHARS = 1 << 16
LOOKED_AT_LINES = 20
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Something to read: a file, or stdin's bytes. `digest` tells its content."""

    name: str
    digest: str
    time: float
    data: bytes | None = None
    num_bytes: int = 0

    def texts(self) -> Iterator[str | None]:
        """Its texts in order, the same ones each time; None for a line of JSON that has none.

        Raises OSError.
        """
        if self.data is not None:
            yield from _texts(io.BytesIO(self.data), "", None)
            return
        path = Path(self.name)
        with path.open("rb") as file:
            yield from _texts(file, path.suffix.lower(), path.stat().st_size)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not taken in, and why in a few words."""

    name: str
    reason: str


def find_files(roots: Iterable[str]) -> Iterator[Path]:
    """The files of paths, folders and globs (`src/**/*.py`) in a steady order, each once.

    Files and folders whose name starts with a dot are left out unless named themselves; links to
    folders are not followed. Raises StoreError for a path that leads to nothing.
    """
    seen: set[str] = set()
    for root in roots:
        for path in _expanded(root):
            for file in _walk(path) if os.path.isdir(path) else [path]:
                key = os.path.abspath(file)
                if key not in seen:
                    seen.add(key)
                    yield Path(key)


def leads_somewhere(root: str) -> bool:
    """Whether a path or glob has a file."""
    try:
        return next(find_files([root]), None) is not None
    except StoreError:
        return False


def _expanded(root: str) -> list[str]:
    if os.path.lexists(root):
        return [root]
    found = sorted(glob.glob(root, recursive=True)) if glob.has_magic(root) else []
    if not found:
        raise StoreError(f"{root}: there is no such file or folder; check the path")
    return found


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name[0] != "." and name not in LEFT_OUT_FOLDERS
        )
        for name in sorted(files):
            if name[0] != ".":
                yield os.path.join(parent, name)


def examine(path: Path) -> Place | Skipped:
    """What a file is, from reading all of it once."""
    name = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # Opening a named pipe would wait for ever.
            return Skipped(name, "not a file")
        name.encode()
        with path.open("rb") as file:
            digest = _digest_of_text(file)
    except UnicodeEncodeError:
        return Skipped(ascii(name), "its name is not UTF-8")
    except UnicodeDecodeError:
        return Skipped(name, "binary, or not UTF-8")
    except OSError as error:
        return Skipped(name, f"cannot be read: {error.strerror or error}")
    if not digest:
        return Skipped(name, "empty")
    return Place(name, digest, status.st_mtime, num_bytes=status.st_size)


def stdin_place(data: bytes, time: float) -> Place | Skipped:
    """What was piped to stdin, as a place to read."""
    try:
        digest = _digest_of_text(io.BytesIO(data))
    except UnicodeDecodeError:
        return Skipped(STDIN, "binary, or not UTF-8")
    return Place(STDIN, digest, time, data, len(data)) if digest else Skipped(STDIN, "empty")


def _digest_of_text(file: BinaryIO) -> str:
    """The blake2b of a file's bytes, "" for an empty one; raises UnicodeDecodeError if no text."""
    digest = hashlib.blake2b(digest_size=16)
    decoder = codecs.getincrementaldecoder("utf-8")()
    blank = True
    while block := file.read(BLOCK_BYTES):
        if b"\0" in block:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "a text has no zero bytes")
        blank = blank and not block.strip()
        digest.update(block)
        decoder.decode(block)
    decoder.decode(b"", final=True)
    return "" if blank else digest.hexdigest()


def _texts(file: BinaryIO, suffix: str, num_bytes: int | None) -> Iterator[str | None]:
    """The texts of a file; a suffix of "" tells lines of JSON by their look."""
    # The file may have changed since it was examined.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="replace")
    if suffix in JSON_DOCUMENTS and (num_bytes or 0) <= MAX_DOCUMENT_BYTES:
        texts = document_texts(text.read())
        if texts:
            yield from itertools.chain.from_iterable(map(_cut, texts))
            return
    elif suffix in (*JSON_LINES, "") and are_records(_first_lines(text)):
        text.seek(0)
        for texts in line_texts(text):
            yield from itertools.chain.from_iterable(map(_cut, texts)) if texts else (None,)
        return
    text.seek(0)
    yield from _pieces(text)


def _first_lines(text: TextIO) -> Iterator[str]:
    return itertools.islice(iter(text.readline, ""), LOOKED_AT_LINES)


def _cut(text: str) -> Iterator[str]:
    return _pieces(io.StringIO(text)) if len(text) > PIECE_CHARS else iter((text,))


def _pieces(text: TextIO) -> Iterator[str]:
    while piece := text.read(PIECE_CHARS):
        yield piece + text.readline(PIECE_CHARS)
