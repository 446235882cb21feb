"""The immutable files of a store: tokens, their order, and where the texts came from."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.datastore import OrderArray, Segment, TokenArray
from sssd_local.draft.tree import Int32Array
from sssd_local.store.errors import DamagedStoreError
from sssd_local.store.order import context_order

BLOCK_BYTES = 1 << 22
_FILE_NAME = re.compile(r"[0-9]{6,12}\.(tokens\.npy|order\.npy|sources\.json)")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file and what it must be: its size, and the blake2b of all its bytes in hexadecimal."""

    name: str
    num_bytes: int
    checksum: str

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.name) or self.num_bytes < 0:
            raise ValueError(f"{self.name!r} is no file of a segment")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """Texts that came from one place, in the order of the segment.

    `digest` tells the content of the place; `done` is False where more of its texts follow in a
    later segment; `time` is in seconds since 1970, of the file or the chat.
    """

    name: str
    digest: str
    time: float
    num_texts: int
    num_tokens: int
    done: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """A segment's files; `num_tokens` counts separators too, `num_places` is the order's length."""

    num_tokens: int
    num_places: int
    num_texts: int
    tokens: FileRecord
    order: FileRecord
    sources: FileRecord

    def __post_init__(self) -> None:
        if not 0 <= self.num_places <= self.num_tokens or self.num_texts < 0:
            raise ValueError("a segment has no more sorted places than tokens")

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return self.tokens, self.order, self.sources


def token_type(num_vocab: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds every id and the separator, `num_vocab`."""
    return np.uint16 if num_vocab <= np.iinfo(np.uint16).max else np.uint32


def join(texts: Sequence[Int32Array | TokenArray], num_vocab: int) -> TokenArray:
    """One array of all texts: a separator first, and one after each.

    Raises ValueError for a token outside the vocabulary.
    """
    separator = np.array([num_vocab], token_type(num_vocab))
    parts = [separator]
    for text in texts:
        if len(text) and not (int(text.min()) >= 0 and int(text.max()) < num_vocab):
            raise ValueError(f"a text has a token outside the vocabulary of {num_vocab}")
        parts += [np.asarray(text).astype(separator.dtype), separator]
    return np.concatenate(parts)


def split(tokens: TokenArray, num_vocab: int) -> Iterator[TokenArray]:
    """The texts that `join` put together."""
    ends = np.flatnonzero(tokens == num_vocab)
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        yield tokens[start + 1 : end]


def write_segment(
    folder: Path,
    number: int,
    tokens: TokenArray,
    sources: Sequence[SourceRecord],
    num_vocab: int,
    order: OrderArray | None = None,
) -> SegmentRecord:
    """Writes the files of a segment and makes them last; a manifest must name them afterwards.

    `order` None sorts. Raises OSError, and SSSDError for too many tokens.
    """
    order = context_order(tokens, num_vocab) if order is None else order
    stem = f"{number:06d}"
    listing = json.dumps([asdict(source) for source in sources], allow_nan=False).encode()
    return SegmentRecord(
        num_tokens=len(tokens),
        num_places=len(order),
        num_texts=int(np.count_nonzero(tokens == num_vocab)) - 1,
        tokens=_write_array(folder / f"{stem}.tokens.npy", tokens),
        order=_write_array(folder / f"{stem}.order.npy", order),
        sources=_write(folder / f"{stem}.sources.json", [listing]),
    )


def _write_array(path: Path, array: NDArray[Any]) -> FileRecord:
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = array.view(np.uint8).data
    blocks = (data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    return _write(path, itertools.chain([_npy_header(array.dtype, len(array))], blocks))


def _npy_header(dtype: np.dtype[Any], length: int) -> bytes:
    """The bytes before the data of an .npy file of one dimension."""
    file = io.BytesIO()
    fields = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


def _write(path: Path, blocks: Iterable[bytes | memoryview]) -> FileRecord:
    # No temporary name: until a manifest names the file, no reader looks at it.
    digest = hashlib.blake2b(digest_size=16)
    num_bytes = 0
    with open(path, "wb", opener=_for_the_user) as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            num_bytes += len(block)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(path.name, num_bytes, digest.hexdigest())


def _for_the_user(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def open_segment(folder: Path, record: SegmentRecord, num_vocab: int) -> Segment:
    """The arrays of a segment as memory maps; their headers and sizes are checked, not the rest.

    Raises FileNotFoundError, other OSErrors and DamagedStoreError.
    """
    dtype = np.dtype(token_type(num_vocab))
    return Segment(
        _map(folder, record.tokens, dtype, record.num_tokens),
        _map(folder, record.order, np.dtype(np.uint32), record.num_places),
    )


def _map(folder: Path, record: FileRecord, dtype: np.dtype[Any], length: int) -> Any:
    path = folder / record.name
    header = _npy_header(dtype, length)
    with path.open("rb") as file:
        found, size = file.read(len(header)), os.fstat(file.fileno()).st_size
        # A map that reaches past its file's end would kill the process when it is read there.
        if found != header or size != len(header) + length * dtype.itemsize:
            raise DamagedStoreError(f"{path} is damaged: it is not as long as it was written")
        if not length:
            return np.empty(0, dtype)
        return np.memmap(file, dtype, "r", len(header), (length,))


def read_sources(folder: Path, record: SegmentRecord) -> list[SourceRecord]:
    """Where the texts of a segment came from. Raises OSError and DamagedStoreError."""
    path = folder / record.sources.name
    data = path.read_bytes()
    if hashlib.blake2b(data, digest_size=16).hexdigest() != record.sources.checksum:
        raise DamagedStoreError(f"{path} is damaged: its checksum is another")
    return [SourceRecord(**source) for source in json.loads(data)]


def damage(path: Path, record: FileRecord) -> str:
    """What is wrong with a file, in a few words; "" for nothing. Reads all of it."""
    try:
        with path.open("rb") as file:
            found = _digest(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if path.stat().st_size != record.num_bytes:
        return f"has {path.stat().st_size} bytes, not {record.num_bytes}"
    return "" if found == record.checksum else "has another checksum: its content was changed"


def _digest(file: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=16)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
