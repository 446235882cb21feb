"""Finding files, passing over what is no text, and cutting texts to pieces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sssd_local.store import sources as module
from sssd_local.store.errors import StoreError
from sssd_local.store.sources import (
    PIECE_CHARS,
    Place,
    Skipped,
    examine,
    find_files,
    stdin_place,
)


def names(folder: Path, *roots: str) -> list[str]:
    found = find_files([str(folder / root) for root in roots])
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.md",
        "a.txt",
        "src/x.py",
        "src/deep/y.py",
        "src/__pycache__/x.pyc",
        "src/.git/config",
        ".env",
        "node_modules/z.js",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_folders_files_and_globs_in_a_steady_order_each_once(tree: Path) -> None:
    assert names(tree, ".") == ["a.txt", "b.md", "src/x.py", "src/deep/y.py"]
    assert names(tree, "b.md", "a.txt", "b.md") == ["b.md", "a.txt"]
    assert names(tree, "src/**/*.py", ".") == ["src/deep/y.py", "src/x.py", "a.txt", "b.md"]
    assert names(tree, "*.md") == ["b.md"]


def test_hidden_files_are_taken_when_they_are_named(tree: Path) -> None:
    assert names(tree, ".env", "src/.git") == [".env", "src/.git/config"]


@pytest.mark.parametrize("root", ["none.txt", "*.rst", "src/none"])
def test_a_path_that_leads_nowhere_is_an_error(tree: Path, root: str) -> None:
    with pytest.raises(StoreError, match="there is no such file or folder; check the path"):
        names(tree, root)


def test_a_name_with_the_letters_of_a_glob_is_a_name_first(tree: Path) -> None:
    (tree / "[a].txt").write_text("x")
    assert names(tree, "[a].txt") == ["[a].txt"]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "src" / "loop").symlink_to(tree)
    assert "src/loop/a.txt" not in names(tree, ".")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"a\0b", "binary, or not UTF-8"),
        (b"\xff\xfea\0", "binary, or not UTF-8"),
        (b"caf\xe9", "binary, or not UTF-8"),
        (b"ends in half a letter \xc3", "binary, or not UTF-8"),
    ],
)
def test_what_is_no_text_is_skipped(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert examine(path) == Skipped(str(path), reason)
    assert stdin_place(data, 0.0) == Skipped("-", reason)


def test_letters_across_blocks_are_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 3)
    path = tmp_path / "file"
    path.write_text("aäöü€🙂", "utf-8")
    assert isinstance(examine(path), Place)


def test_what_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    missing = examine(tmp_path / "none")
    assert isinstance(missing, Skipped)
    assert missing.reason.startswith("cannot be read: No such file")
    assert examine(tmp_path) == Skipped(str(tmp_path), "not a file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert examine(tmp_path / "pipe") == Skipped(str(tmp_path / "pipe"), "not a file")


def texts_of(path: Path) -> list[str | None]:
    place = examine(path)
    assert isinstance(place, Place)
    assert list(place.texts()) == list(place.texts())
    return list(place.texts())


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_a_text_is_read_whole(tmp_path: Path) -> None:
    assert texts_of(written(tmp_path / "a.py", "\ufeffx = 1\r\ny = 2\n")) == ["x = 1\ny = 2\n"]


def test_contents_have_equal_digests_wherever_they_are(tmp_path: Path) -> None:
    one, two = examine(written(tmp_path / "a", "x")), examine(written(tmp_path / "b", "x"))
    other = examine(written(tmp_path / "c", "y"))
    assert isinstance(one, Place)
    assert isinstance(two, Place)
    assert isinstance(other, Place)
    assert one.digest == two.digest != other.digest
    assert one.time == (tmp_path / "a").stat().st_mtime


def test_long_texts_are_cut_at_the_end_of_a_line(tmp_path: Path) -> None:
    line = "x" * 99 + "\n"
    text = line * (2 * PIECE_CHARS // 100)
    pieces = texts_of(written(tmp_path / "a.txt", text))
    assert "".join(map(str, pieces)) == text
    assert len(pieces) == 2
    assert all(str(piece).endswith("\n") for piece in pieces)
    endless = texts_of(written(tmp_path / "b.txt", "x" * 3 * PIECE_CHARS))
    assert [len(str(piece)) for piece in endless] == [2 * PIECE_CHARS, PIECE_CHARS]


def test_json_lines(tmp_path: Path) -> None:
    long = "word " * PIECE_CHARS
    lines = [{"text": "a"}, {"nothing": 1}, {"text": long}]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    found = texts_of(path)
    assert found[:2] == ["a", None]
    assert "".join(map(str, found[2:])) == long
    assert len(found) > 4


def test_json_lines_without_texts_are_text(tmp_path: Path) -> None:
    assert texts_of(written(tmp_path / "a.ndjson", '{"x": 1}\n')) == ['{"x": 1}\n']


def test_json_documents(tmp_path: Path) -> None:
    shared = [{"conversations": [{"from": "gpt", "value": "Yo"}]}]
    assert texts_of(written(tmp_path / "a.json", json.dumps(shared))) == ["Yo"]
    assert texts_of(written(tmp_path / "b.json", '{"name": "pkg"}')) == ['{"name": "pkg"}']
    assert texts_of(written(tmp_path / "c.json", "{broken")) == ["{broken"]


def test_a_document_too_large_to_hold_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 5)
    assert texts_of(written(tmp_path / "a.json", '{"text": "x"}')) == ['{"text": "x"}']


def test_json_in_other_files_is_text(tmp_path: Path) -> None:
    assert texts_of(written(tmp_path / "a.txt", '{"text": "x"}')) == ['{"text": "x"}']


def test_stdin_tells_lines_of_json_by_their_look() -> None:
    place = stdin_place(b'{"text": "a"}\n{"text": "b"}\n', 7.0)
    assert isinstance(place, Place)
    assert (place.name, place.time) == ("-", 7.0)
    assert list(place.texts()) == ["a", "b"]
    plain = stdin_place(b"plain text", 7.0)
    assert isinstance(plain, Place)
    assert list(plain.texts()) == ["plain text"]


def test_a_file_changed_after_it_was_examined_is_still_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "fine")
    place = examine(path)
    assert isinstance(place, Place)
    path.write_bytes(b"br\xffken")
    assert list(place.texts()) == ["br\ufffdken"]
