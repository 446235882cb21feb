"""The one small file that says what a store is made of; swapping it is what commits a change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sssd_local.files import write_atomic
from sssd_local.store.errors import DamagedStoreError, StoreError
from sssd_local.store.segment import FileRecord, SegmentRecord

NAME = "manifest.json"
FORMAT = "sssd-local store"
VERSION = 1
MAX_BYTES = 64 << 20
DEFAULT_SEGMENT_TOKENS = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store holds, the oldest segment first, and for which tokenizer.

    `fingerprint` and `num_vocab` tell the tokenizer, `model` the path of the file it was taken
    from. `roots` are the paths the user named; `unfinished` those of a build that was cut off.
    `counters` are numbers that whoever writes the store keeps with it, none of them text.
    """

    fingerprint: str
    num_vocab: int
    model: str
    segment_tokens: int = DEFAULT_SEGMENT_TOKENS
    next_number: int = 0
    segments: tuple[SegmentRecord, ...] = ()
    roots: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    counters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.num_vocab < 2**31 or self.segment_tokens < 1 or self.next_number < 0:
            raise ValueError("a store has a vocabulary, and segments of at least one token")

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts, separators not counted."""
        return sum(part.num_tokens - part.num_texts - 1 for part in self.segments)

    @property
    def num_texts(self) -> int:
        return sum(part.num_texts for part in self.segments)

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for part in self.segments for file in part.files)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Swaps the manifest: readers and crashes see the old one or this. Raises OSError."""
    content = {"format": FORMAT, "version": VERSION, "store": asdict(manifest)}
    content["checksum"] = _checksum(content)
    write_atomic(folder / NAME, json.dumps(content, indent=1, allow_nan=False).encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store. Raises FileNotFoundError, other OSErrors and StoreErrors."""
    path = folder / NAME
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("it is too large")
        return _parse(json.loads(data), path)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedStoreError(
            f"{path} is damaged: {str(error) or type(error).__name__}"
        ) from None


def _parse(content: Any, path: Path) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("it is no manifest of a store")
    if content.pop("checksum", None) != _checksum(content):
        raise ValueError("its checksum is another")
    version, body = content["version"], content["store"]
    if version != VERSION:
        raise StoreError(
            f"{path} has the format version {version}, this program knows {VERSION}; "
            "install a newer sssd-local or build the store anew"
        )
    segments = tuple(_segment(item) for item in body["segments"])
    lists = {name: tuple(body[name]) for name in ("roots", "unfinished")}
    counters = {day: tuple(numbers) for day, numbers in body["counters"].items()}
    return Manifest(**{**body, **lists, "segments": segments, "counters": counters})


def _segment(body: dict[str, Any]) -> SegmentRecord:
    files = {name: FileRecord(**body[name]) for name in ("tokens", "order", "sources")}
    return SegmentRecord(**{**body, **files})


def _checksum(content: Any) -> str:
    data = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(data, digest_size=16).hexdigest()
