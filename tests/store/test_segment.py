"""The files of a segment: exact contents, sizes checked before they are mapped."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from sssd_local.store import segment as module
from sssd_local.store.errors import DamagedStoreError
from sssd_local.store.segment import (
    FileRecord,
    SegmentRecord,
    damage,
    join,
    open_segment,
    read_sources,
    split,
    token_type,
    write_segment,
)
from tests.store.stores import NUM_VOCAB, arrays, source_of

TEXTS = [[1, 2, 3], [], [4], [49, 0]]


def written(folder: Path, number: int = 0) -> SegmentRecord:
    tokens = join(arrays(TEXTS), NUM_VOCAB)
    return write_segment(folder, number, tokens, [source_of(TEXTS)], NUM_VOCAB)


def test_texts_are_joined_with_separators_and_split_again() -> None:
    tokens = join(arrays(TEXTS), NUM_VOCAB)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [50, 1, 2, 3, 50, 50, 4, 50, 49, 0, 50]
    assert [text.tolist() for text in split(tokens, NUM_VOCAB)] == TEXTS
    assert join([], NUM_VOCAB).tolist() == [50]
    assert list(split(join([], NUM_VOCAB), NUM_VOCAB)) == []


@pytest.mark.parametrize(
    ("num_vocab", "dtype"), [(65_535, np.uint16), (65_536, np.uint32), (128_256, np.uint32)]
)
def test_ids_have_the_smallest_type_that_holds_the_separator(num_vocab: int, dtype: type) -> None:
    assert token_type(num_vocab) is dtype
    tokens = join(arrays([[num_vocab - 1, 32_768]]), num_vocab)
    assert tokens.tolist() == [num_vocab, num_vocab - 1, 32_768, num_vocab]


@pytest.mark.parametrize("token", [-1, NUM_VOCAB])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 50"):
        join(arrays([[1, token]]), NUM_VOCAB)


def test_a_segment_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = written(tmp_path, 7)
    assert {file.name for file in record.files} == {
        "000007.tokens.npy",
        "000007.order.npy",
        "000007.sources.json",
    }
    assert (record.num_tokens, record.num_places, record.num_texts) == (11, 3, 4)
    segment = open_segment(tmp_path, record, NUM_VOCAB)
    assert isinstance(segment.tokens, np.memmap)
    assert segment.tokens.tolist() == join(arrays(TEXTS), NUM_VOCAB).tolist()
    assert segment.order.tolist() == [1, 2, 8]
    assert read_sources(tmp_path, record) == [source_of(TEXTS)]
    for file in record.files:
        data = (tmp_path / file.name).read_bytes()
        assert len(data) == file.num_bytes
        assert hashlib.blake2b(data, digest_size=16).hexdigest() == file.checksum
        assert damage(tmp_path / file.name, file) == ""


def test_the_arrays_are_ordinary_npy_files(tmp_path: Path) -> None:
    record = written(tmp_path)
    for file in (record.tokens, record.order):
        array = np.load(tmp_path / file.name, allow_pickle=False)
        assert array.ndim == 1
        assert array.dtype.str in ("<u2", "<u4")


def test_large_arrays_are_written_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 8)
    record = written(tmp_path)
    assert open_segment(tmp_path, record, NUM_VOCAB).tokens.tolist()[-3:] == [49, 0, 50]
    assert damage(tmp_path / record.tokens.name, record.tokens) == ""


def test_a_segment_without_a_pair_of_tokens_has_an_empty_order(tmp_path: Path) -> None:
    record = write_segment(tmp_path, 0, join(arrays([[1]]), 5), [], 5)
    assert record.num_places == 0
    assert len(open_segment(tmp_path, record, 5).order) == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_are_for_the_user_only(tmp_path: Path) -> None:
    record = written(tmp_path)
    modes = {stat.S_IMODE((tmp_path / file.name).stat().st_mode) for file in record.files}
    assert modes == {0o600}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", bytes.swapcase]
)
def test_other_sizes_and_headers_are_not_mapped(tmp_path: Path, which: int, change: object) -> None:
    record = written(tmp_path)
    path = tmp_path / record.files[which].name
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DamagedStoreError, match=f"{path.name} is damaged"):
        open_segment(tmp_path, record, NUM_VOCAB)
    assert damage(path, record.files[which]) != ""


def test_damage_is_named(tmp_path: Path) -> None:
    record = written(tmp_path)
    path = tmp_path / record.sources.name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert damage(path, record.sources) == f"has {len(data) - 1} bytes, not {len(data)}"
    path.write_bytes(data[:-1] + b"x")
    assert damage(path, record.sources) == "has another checksum: its content was changed"
    with pytest.raises(DamagedStoreError, match="its checksum is another"):
        read_sources(tmp_path, record)
    path.unlink()
    assert damage(path, record.sources) == "is missing"
    path.mkdir()
    assert damage(path, record.sources).startswith("cannot be read")


@pytest.mark.parametrize("name", ["../x.tokens.npy", "/000001.tokens.npy", "lock", "1.tokens.npy"])
def test_only_files_of_segments_can_be_recorded(name: str) -> None:
    with pytest.raises(ValueError, match="is no file of a segment"):
        FileRecord(name, 1, "")


def test_impossible_sizes_are_refused(tmp_path: Path) -> None:
    files = dict(zip(("tokens", "order", "sources"), written(tmp_path).files, strict=True))
    with pytest.raises(ValueError, match="no more sorted places than tokens"):
        SegmentRecord(num_tokens=3, num_places=4, num_texts=1, **files)
