"""Writing to a store: what is committed is what readers see, in few segments and few files."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sssd_local.draft.datastore import Datastore
from sssd_local.store import store as module
from sssd_local.store.errors import DamagedStoreError, StoreError
from sssd_local.store.manifest import Manifest, read_manifest, write_manifest
from sssd_local.store.store import Store, create_store, open_store, read_segments
from tests.store.stores import (
    NUM_VOCAB,
    append,
    arrays,
    files_of,
    followers,
    lists,
    new_manifest,
    source_of,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


def filled(folder: Path, *texts: list[list[int]], **options: object) -> None:
    """A store with one commit for each list of texts."""
    with create_store(folder, new_manifest(**options)) as store:
        for index, some in enumerate(texts):
            append(store, some, f"{index}.txt")
            store.commit()


def seen(folder: Path) -> list[int]:
    """The sizes of the segments that a reader sees."""
    return [len(segment.tokens) for segment in read_segments(folder)[1]]


def test_nothing_is_visible_before_the_commit(folder: Path) -> None:
    with create_store(folder, new_manifest()) as store:
        append(store, [[1, 2]])
        assert lists(store) == [[1, 2]]
        with pytest.raises(FileNotFoundError):
            read_segments(folder)
        store.commit()
        append(store, [[3, 4]])
        assert seen(folder) == [4]
    with open_store(folder) as store:
        assert lists(store) == [[1, 2]]
        assert files_of(folder) == {file.name for file in store.manifest.segments[0].files}


def test_a_store_that_is_there_is_not_created_again(folder: Path) -> None:
    filled(folder, [[1, 2]])
    with create_store(folder, new_manifest(num_vocab=7)) as store:
        assert store.manifest.num_vocab == NUM_VOCAB
        assert lists(store) == [[1, 2]]


def test_sources_are_kept_in_order(folder: Path) -> None:
    with create_store(folder, new_manifest()) as store:
        texts = [[1, 2], [3], [4, 5]]
        sources = [source_of(texts[:2], "a"), source_of(texts[2:], "b", done=False)]
        store.append(arrays(texts), sources)
        append(store, [[6, 7]], "c")
        assert list(store.sources()) == [*sources, source_of([[6, 7]], "c")]
        store.merge()
        assert list(store.sources()) == [*sources, source_of([[6, 7]], "c")]
        assert lists(store) == [*texts, [6, 7]]
        assert len(store.manifest.segments) == 1


def test_sources_and_texts_must_fit(folder: Path) -> None:
    with (
        create_store(folder, new_manifest()) as store,
        pytest.raises(ValueError, match="1 texts come from 2 sources' texts"),
    ):
        store.append(arrays([[1, 2]]), [source_of([[1, 2], [3]])])


def test_merging_leaves_much_larger_segments_alone(folder: Path) -> None:
    with create_store(folder, new_manifest()) as store:
        append(store, [[1] * 200])
        append(store, [[2] * 30])
        append(store, [[3] * 10])
        store.merge()
        # 12 + 32 = 43 with one separator less, and 202 ≤ 8 × 43.
        assert [record.num_tokens for record in store.manifest.segments] == [244]
        append(store, [[4] * 10])
        store.merge()
        assert [record.num_tokens for record in store.manifest.segments] == [244, 12]


def test_segments_stay_below_their_size(folder: Path) -> None:
    with create_store(folder, new_manifest(segment_tokens=100)) as store:
        for _ in range(30):
            append(store, [[1] * 18])
        store.merge()
        sizes = [record.num_tokens for record in store.manifest.segments]
        assert max(sizes) <= 100
        assert len(sizes) == 6
        assert len(lists(store)) == 30
        append(store, [[2] * 300])
        assert [text for text in lists(store) if len(text) == 300] == [[2] * 300]


def test_keeping_only_some_sources_deletes_the_bytes_of_the_others(folder: Path) -> None:
    with create_store(folder, new_manifest()) as store:
        texts = [[1, 2], [7, 8, 9], [7, 7]]
        store.append(arrays(texts), [source_of(texts[:1], "a"), source_of(texts[1:], "b")])
        append(store, [[5, 6]], "c")
        append(store, [[7, 8, 9]], "b")
        store.commit()
        store.keep(lambda source: source.name != "b")
        assert seen(folder) == [11, 4, 5]
        store.commit()
        assert lists(store) == [[1, 2], [5, 6]]
        assert seen(folder) == [4, 4]
    needle = np.array([7, 8, 9], "<u2").tobytes()
    assert [path for path in folder.iterdir() if needle in path.read_bytes()] == []


def test_files_of_no_manifest_are_swept(folder: Path) -> None:
    filled(folder, [[1, 2]])
    before = files_of(folder)
    for name in ("000009.tokens.npy", "000010.sources.json", ".manifest.json.ab12.tmp"):
        (folder / name).write_bytes(b"left")
    (folder / "notes.txt").write_bytes(b"mine")
    with open_store(folder) as store:
        assert lists(store) == [[1, 2]]
    assert files_of(folder) == before | {"notes.txt"}


def test_a_file_that_cannot_be_deleted_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(folder, [[1, 2]])
    (folder / "000009.tokens.npy").write_bytes(b"left")

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with open_store(folder) as store:
        assert lists(store) == [[1, 2]]


def test_damage_is_not_merged_into_a_new_segment(folder: Path) -> None:
    filled(folder, [[1, 2]], [[3, 4]])
    path = folder / "000000.tokens.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with open_store(folder) as store, pytest.raises(DamagedStoreError, match="another checksum"):
        store.merge()


def test_a_second_writer_is_refused(folder: Path) -> None:
    with (
        create_store(folder, new_manifest()),
        pytest.raises(StoreError, match="is being written"),
        create_store(folder, new_manifest()),
    ):
        pass


def failing(number: int, text: str) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, text)

    return fail


def add_and_commit(store: Store, texts: list[list[int]]) -> None:
    append(store, texts)
    store.commit()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_failed_write_keeps_what_was_committed(
    folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(folder, [[1, 2]])
    with open_store(folder) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(errno.ENOSPC, "No space left on device"))
            with pytest.raises(StoreError, match="cannot be written: No space left on device"):
                add_and_commit(store, [[3, 4]])
        assert seen(folder) == [4]
    with open_store(folder) as store:
        assert lists(store) == [[1, 2]]
        assert len(files_of(folder)) == 3


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(
            StoreError, match=r"cannot be written: .*Check the space and the permissions"
        ),
        create_store(tmp_path / "file" / "store", new_manifest()),
    ):
        pass


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_everything_is_for_the_user_only(folder: Path) -> None:
    filled(folder, [[1, 2]])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_reader_starts_over_when_a_writer_merges_under_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(folder, [[1, 2]], [[3, 4]])
    old = read_manifest(folder)
    with open_store(folder) as store:
        store.merge()
        store.commit()
    answers = [old]

    def read(where: Path) -> Manifest:
        return answers.pop() if answers else read_manifest(where)

    monkeypatch.setattr(module, "read_manifest", read)
    assert seen(folder) == [7]


def test_a_missing_file_is_damage(folder: Path) -> None:
    filled(folder, [[1, 2]])
    (folder / "000000.order.npy").unlink()
    with pytest.raises(DamagedStoreError, match=r"000000\.order\.npy is missing"):
        read_segments(folder)


def test_a_reader_goes_on_when_its_files_are_deleted(folder: Path) -> None:
    filled(folder, [[1, 2, 3]])
    manifest, segments = read_segments(folder)
    if os.name == "posix":
        for path in folder.iterdir():
            path.unlink()
    store = Datastore(segments, manifest.num_vocab)
    assert store.candidates([2, 1]).tokens == [3]


def test_readers_share_the_files_pages(folder: Path) -> None:
    filled(folder, [[1, 2, 3]])
    for segment in read_segments(folder)[1]:
        assert isinstance(segment.tokens, np.memmap)
        assert isinstance(segment.order, np.memmap)
        assert segment.tokens.mode == segment.order.mode == "r"


TEXTS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=4)


class StoreMachine(RuleBasedStateMachine):
    """A store is a list of (source, texts) whose committed state outlives it."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name) / "store"
        self.now: list[tuple[str, list[list[int]]]] = []
        self.committed: list[tuple[str, list[list[int]]]] | None = None
        self._open()

    def _open(self) -> None:
        self.context = create_store(self.folder, new_manifest(num_vocab=6, segment_tokens=40))
        self.store: Store = self.context.__enter__()

    @rule(texts=TEXTS, name=st.sampled_from("abc"))
    def add(self, texts: list[list[int]], name: str) -> None:
        append(self.store, texts, name)
        self.now.append((name, texts))

    @rule()
    def merge(self) -> None:
        self.store.merge()

    @rule(name=st.sampled_from("abc"))
    def forget(self, name: str) -> None:
        self.store.keep(lambda source: source.name != name)
        self.now = [item for item in self.now if item[0] != name]

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.committed = list(self.now)

    @rule()
    def reopen(self) -> None:
        self.context.__exit__(None, None, None)
        self.now = list(self.committed or [])
        self._open()

    @precondition(lambda self: self.committed is not None)
    @rule(context=st.lists(st.integers(0, 5), min_size=1, max_size=4))
    def look_up(self, context: list[int]) -> None:
        manifest, segments = read_segments(self.folder)
        texts = [text for _, some in self.committed or [] for text in some]
        expected = followers(texts, context)
        found = Datastore(segments, manifest.num_vocab).candidates(context[::-1])
        assert found.match_length == max(expected, default=0)
        counts = dict(zip(found.tokens, found.counts, strict=True))
        assert counts == expected.get(found.match_length, {})

    @invariant()
    def holds_what_the_list_holds(self) -> None:
        assert lists(self.store) == [text for _, texts in self.now for text in texts]
        names = [source.name for source in self.store.sources()]
        assert names == [name for name, _ in self.now]
        assert self.store.manifest.num_texts == len(lists(self.store))

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)
        self.place.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


def test_a_manifest_of_a_newer_version_is_not_touched(folder: Path) -> None:
    filled(folder, [[1, 2]])
    with open_store(folder) as store:
        manifest = store.manifest
    write_manifest(folder, replace(manifest, model="/new.gguf"))
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(DamagedStoreError), open_store(folder):
        pass
    assert len(files_of(folder)) == 3
