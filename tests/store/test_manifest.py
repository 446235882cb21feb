"""The manifest: what it holds comes back, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sssd_local.store import manifest as module
from sssd_local.store.errors import DamagedStoreError, StoreError
from sssd_local.store.manifest import (
    DEFAULT_SEGMENT_TOKENS,
    NAME,
    Manifest,
    read_manifest,
    write_manifest,
)
from sssd_local.store.segment import FileRecord, SegmentRecord
from tests.store.stores import new_manifest


def a_manifest() -> Manifest:
    files = {
        kind: FileRecord(f"000003.{kind}.{ending}", 40, "00ff")
        for kind, ending in (("tokens", "npy"), ("order", "npy"), ("sources", "json"))
    }
    record = SegmentRecord(num_tokens=11, num_places=4, num_texts=4, **files)
    return new_manifest(
        segments=(record, record),
        next_number=4,
        roots=("/träger/*.md", "-"),
        unfinished=("-",),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, a_manifest())
    assert read_manifest(tmp_path) == a_manifest()
    assert new_manifest().segment_tokens == DEFAULT_SEGMENT_TOKENS == 2**27


def test_sizes_are_sums() -> None:
    manifest = a_manifest()
    assert (manifest.num_tokens, manifest.num_texts, manifest.num_bytes) == (12, 8, 240)


@pytest.mark.parametrize(
    "change", [{"num_vocab": 0}, {"num_vocab": 2**31}, {"segment_tokens": 0}, {"next_number": -1}]
)
def test_impossible_values_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a vocabulary, and segments"):
        replace(new_manifest(), **change)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": "sssd-local store"}',
        b'{"format": "sssd-local store", "version": 1, "store": {}, "checksum": 5}',
    ],
)
def test_what_is_no_manifest_is_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"manifest\.json is damaged: "):
        read_manifest(tmp_path)


def test_no_manifest_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path)


def edited(folder: Path, sign: bool, **changes: object) -> None:
    content = json.loads((folder / NAME).read_bytes())
    del content["checksum"]
    content.update({key: value for key, value in changes.items() if key in content})
    content["store"].update({key: value for key, value in changes.items() if key not in content})
    content["checksum"] = module._checksum(content) if sign else "0"
    (folder / NAME).write_text(json.dumps(content))


def test_a_change_without_its_checksum_is_damage(tmp_path: Path) -> None:
    write_manifest(tmp_path, a_manifest())
    edited(tmp_path, sign=False, model="/other.gguf")
    with pytest.raises(DamagedStoreError, match="its checksum is another"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("changes", [{"num_vocab": "many"}, {"segments": 3}, {"colour": "red"}])
def test_signed_nonsense_is_damage_too(tmp_path: Path, changes: dict[str, object]) -> None:
    write_manifest(tmp_path, a_manifest())
    edited(tmp_path, sign=True, **changes)
    with pytest.raises(DamagedStoreError, match="is damaged"):
        read_manifest(tmp_path)


def test_a_newer_version_says_so(tmp_path: Path) -> None:
    write_manifest(tmp_path, a_manifest())
    edited(tmp_path, sign=True, version=2)
    with pytest.raises(StoreError, match="format version 2, this program knows 1") as caught:
        read_manifest(tmp_path)
    assert not isinstance(caught.value, DamagedStoreError)


def test_a_huge_manifest_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    (tmp_path / NAME).write_bytes(b" " * 11)
    with pytest.raises(DamagedStoreError, match="it is too large"):
        read_manifest(tmp_path)
