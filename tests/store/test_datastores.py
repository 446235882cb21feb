"""Datastores by name."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from sssd_local.draft.tree import TokenSource
from sssd_local.errors import ConfigError
from sssd_local.store.datastores import (
    check_tokenizer,
    datastore_folder,
    datastore_names,
    datastores_folder,
    find_datastore,
    open_datastore,
    remove_datastore,
    store_problems,
    verify_datastore,
)
from sssd_local.store.errors import DamagedStoreError, StoreError
from sssd_local.store.lock import WriterLock
from sssd_local.store.store import create_store
from tests.store.stores import NUM_VOCAB, append, new_manifest


def make(name: str) -> Path:
    folder = datastore_folder(name)
    with create_store(folder, new_manifest()) as store:
        append(store, [[1, 2, 3]])
        store.commit()
    return folder


def test_they_are_in_the_app_folder(home: Path) -> None:
    assert datastores_folder() == home / "app" / "datastores"
    assert datastore_folder("my-notes_2.0") == home / "app" / "datastores" / "my-notes_2.0"
    assert not datastores_folder().exists()


@pytest.mark.parametrize("name", ["", ".x", "..", "a/b", "a\\b", "a b", "x" * 65, "ä", "-x", "a\n"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a datastore; use up to 64 letters"):
        datastore_folder(name)


def test_names_are_those_of_whole_stores() -> None:
    assert datastore_names() == []
    make("b")
    make("a")
    datastore_folder("begun").mkdir()
    (datastores_folder() / ".c").mkdir()
    assert datastore_names() == ["a", "b"]


def test_a_wrong_name_gets_a_hint() -> None:
    with pytest.raises(StoreError, match=r"no datastore code \(there are none\); make it with"):
        find_datastore("code")
    make("code")
    with pytest.raises(StoreError, match=r"no datastore cod \(did you mean code\?\)"):
        find_datastore("cod")
    with pytest.raises(StoreError, match=r"no datastore x \(there are code\)"):
        open_datastore("x", "abc", NUM_VOCAB)


def test_an_open_datastore_answers() -> None:
    make("code")
    store = open_datastore("code", "abc", NUM_VOCAB)
    assert store.candidates([2, 1]).tokens == [3]
    assert (store.name, store.kind) == ("code", TokenSource.DATASTORE)
    memory = open_datastore("code", "abc", NUM_VOCAB, TokenSource.MEMORY)
    assert memory.kind is TokenSource.MEMORY


@pytest.mark.parametrize(("fingerprint", "num_vocab"), [("other", NUM_VOCAB), ("abc", 51)])
def test_another_tokenizer_is_refused_with_what_to_do(fingerprint: str, num_vocab: int) -> None:
    make("code")
    message = (
        r"for the tokenizer of /m\.gguf.*run `sssd-local datastore rebuild code --model MODEL`"
    )
    with pytest.raises(StoreError, match=message):
        open_datastore("code", fingerprint, num_vocab)
    check_tokenizer("code", find_datastore("code"), "abc", NUM_VOCAB)


def test_what_cannot_be_read_is_left_aside(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("code")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("sssd_local.store.store.open_segment", refuse)
    assert open_datastore("code", "abc", NUM_VOCAB).num_tokens == 0
    assert "left aside: " in caplog.text
    assert "cannot be read: Permission denied" in caplog.text


def test_verify_names_every_damaged_file() -> None:
    folder = make("code")
    assert verify_datastore("code") == []
    (folder / "000000.order.npy").write_bytes(b"x")
    (folder / "000000.sources.json").unlink()
    first, second = verify_datastore("code")
    assert "000000.order.npy has 1 bytes, not " in first
    assert second.endswith("000000.sources.json is missing")
    (folder / "manifest.json").write_bytes(b"x")
    (only,) = verify_datastore("code")
    assert "manifest.json is damaged" in only
    with pytest.raises(DamagedStoreError):
        find_datastore("code")


def test_segments_that_were_merged_meanwhile_are_no_damage() -> None:
    folder = make("code")
    now = find_datastore("code")
    file = replace(now.segments[0].tokens, name="000009.tokens.npy")
    before = replace(now, segments=(replace(now.segments[0], tokens=file),))
    read = iter([before, now])
    assert store_problems(folder, lambda: next(read)) == []
    # Damage that is there at a second look is damage.
    (problem,) = store_problems(folder, lambda: before)
    assert problem.endswith("000009.tokens.npy is missing")


def test_a_removed_datastore_is_gone() -> None:
    make("code")
    remove_datastore("code")
    assert list(datastores_folder().iterdir()) == []
    with pytest.raises(StoreError, match="there is no datastore code"):
        remove_datastore("code")


def test_a_damaged_or_half_removed_datastore_can_be_removed() -> None:
    folder = make("code")
    (folder / "manifest.json").write_bytes(b"x")
    remove_datastore("code")
    folder.mkdir()
    (folder / "000000.tokens.npy").write_bytes(b"x")
    (folder / "put here by somebody").mkdir()
    assert datastore_names() == []
    remove_datastore("code")
    assert list(datastores_folder().iterdir()) == []


def test_a_datastore_being_written_is_not_removed() -> None:
    folder = make("code")
    with WriterLock(folder), pytest.raises(StoreError, match="is being written"):
        remove_datastore("code")
    assert datastore_names() == ["code"]
