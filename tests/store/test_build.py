"""Building datastores from files with a real tokenizer, in one go and in pieces."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest

from sssd_local.config import ModelConfig
from sssd_local.engine.model import Model
from sssd_local.errors import ConfigError, ModelError
from sssd_local.store import ingest
from sssd_local.store.build import add_to_datastore, build_datastore, rebuild_datastore
from sssd_local.store.datastores import (
    datastore_folder,
    find_datastore,
    open_datastore,
    verify_datastore,
)
from sssd_local.store.errors import StoreError
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.ingest import DEFAULTS, BuildOptions, Report
from sssd_local.store.manifest import DEFAULT_SEGMENT_TOKENS
from sssd_local.store.sources import PIECE_CHARS, Place, Skipped
from sssd_local.store.store import Store, open_store
from tests.store.stores import lists, stored

TinyModel = Callable[..., Path]


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in (("a.txt", "the rain"), ("b.md", "on the hill"), ("c.py", "the plain")):
        (folder / name).write_text(text)
    return folder


def test_a_folder_becomes_a_datastore_that_drafts(model: Path, texts: Path) -> None:
    report = build_datastore("notes", model, [str(texts)])
    assert stored("notes", model) == ["the rain", "on the hill", "the plain"]
    assert (report.num_files, report.num_found, report.num_texts, report.skipped) == (3, 3, 3, [])
    manifest = find_datastore("notes")
    assert report.num_tokens == manifest.num_tokens
    assert (manifest.model, manifest.num_vocab) == (str(model), 320)
    assert (manifest.roots, manifest.unfinished) == ((str(texts),), ())
    assert manifest.segment_tokens == DEFAULT_SEGMENT_TOKENS
    assert verify_datastore("notes") == []
    vocabulary = Model(model, ModelConfig(), vocab_only=True)
    tokens = vocabulary.tokenize("the hill", add_special=False, parse_special=False).tolist()
    vocabulary.close()
    store = open_datastore("notes", tokenizer_fingerprint(model), 320)
    assert tokens[-1] in store.candidates(tokens[-2::-1]).tokens


def test_a_text_has_the_tokens_that_the_model_gives_it(model: Path, texts: Path) -> None:
    build_datastore("notes", model, [str(texts / "a.txt")])
    whole = Model(model, ModelConfig())
    expected = whole.tokenize("the rain", add_special=False, parse_special=False).tolist()
    whole.close()
    with open_store(datastore_folder("notes")) as store:
        assert lists(store) == [expected]


def test_a_vocabulary_alone_tells_only_its_tokens(model: Path) -> None:
    vocabulary = Model(model, ModelConfig(), vocab_only=True)
    assert vocabulary.facts.num_vocab == 320
    assert vocabulary.facts.eos == "</s>"
    vocabulary.close()


def test_binary_empty_and_duplicate_files_are_skipped_and_told(model: Path, texts: Path) -> None:
    (texts / "d.bin").write_bytes(b"\0\1")
    (texts / "e.txt").write_bytes(b"")
    (texts / "f.txt").write_text("the rain")
    (texts / "g.jsonl").write_text('{"text": "on"}\nbroken\n{"x": 1}\n')
    report = build_datastore("notes", model, [str(texts)])
    assert [(Path(item.name).name, item.reason) for item in report.skipped] == [
        ("d.bin", "binary, or not UTF-8"),
        ("e.txt", "empty"),
        ("f.txt", "stored already"),
        ("g.jsonl", "2 lines have no text"),
    ]
    assert (report.num_files, report.num_found) == (4, 7)


def test_files_without_text_make_no_datastore(model: Path, tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_bytes(b"")
    with pytest.raises(StoreError, match=r"there is no text to store \(empty\); check the paths"):
        build_datastore("notes", model, [str(tmp_path / "e.txt")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"no text to store \(no file was found\)"):
        build_datastore("notes", model, [str(tmp_path / "folder")])
    assert not datastore_folder("notes").exists()


def test_what_cannot_be_built_says_so(model: Path, texts: Path) -> None:
    with pytest.raises(ConfigError, match="give at least one file or folder"):
        build_datastore("notes", model, [])
    with pytest.raises(StoreError, match="no such file or folder"):
        build_datastore("notes", model, [str(texts / "none")])
    with pytest.raises(ModelError, match="there is no such file"):
        build_datastore("notes", texts / "none.gguf", [str(texts)])
    build_datastore("notes", model, [str(texts)])
    with pytest.raises(
        StoreError, match="a datastore notes already; use `sssd-local datastore add"
    ):
        build_datastore("notes", model, [str(texts)])
    assert len(stored("notes", model)) == 3
    assert verify_datastore("notes") == []
    with pytest.raises(StoreError, match="there is no datastore other"):
        add_to_datastore("other", [str(texts)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_tokens": 0}, "segment_tokens must be from 1 to 715827882, got 0"),
        ({"segment_tokens": 2**31}, "segment_tokens must be from 1 to 715827882"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildOptions(**options)  # type: ignore[arg-type]


def test_adding_takes_only_what_is_new(model: Path, texts: Path) -> None:
    build_datastore("notes", model, [str(texts / "a.txt")])
    report = add_to_datastore("notes", [str(texts)])
    assert [item.reason for item in report.skipped] == ["stored already"]
    assert sorted(stored("notes", model)) == ["on the hill", "the plain", "the rain"]
    assert find_datastore("notes").roots == (str(texts / "a.txt"), str(texts))
    again = add_to_datastore("notes", [str(texts)])
    assert (again.num_texts, len(again.skipped)) == (0, 3)
    assert len(find_datastore("notes").segments) == 1


def test_adding_with_another_model_of_the_same_tokenizer(
    model: Path, texts: Path, tiny_model: TinyModel
) -> None:
    build_datastore("notes", model, [str(texts / "a.txt")])
    twin = tiny_model(seed=1)
    add_to_datastore("notes", [str(texts / "b.md")], twin)
    assert find_datastore("notes").model == str(twin)
    with pytest.raises(StoreError, match="datastore rebuild notes"):
        add_to_datastore("notes", [str(texts / "c.py")], tiny_model(num_tokens=321))


def test_rebuilding_reads_the_sources_for_another_tokenizer(
    model: Path, texts: Path, tiny_model: TinyModel
) -> None:
    build_datastore("notes", model, [str(texts / "*.txt"), str(texts / "b.md")])
    (texts / "a.txt").write_text("the other")
    (texts / "z.txt").write_text("rain")
    other = tiny_model(num_tokens=321)
    rebuild_datastore("notes", other)
    assert stored("notes", other) == ["the other", "rain", "on the hill"]
    manifest = find_datastore("notes")
    assert (manifest.num_vocab, manifest.model) == (321, str(other))
    assert manifest.fingerprint == tokenizer_fingerprint(other)
    rebuild_datastore("notes")
    assert find_datastore("notes").model == str(other)
    assert verify_datastore("notes") == []


def test_rebuilding_without_a_source_must_be_asked_for(model: Path, texts: Path) -> None:
    piped = BuildOptions(stdin=lambda: b"piped text")
    build_datastore("notes", model, ["-", str(texts / "a.txt"), str(texts / "b.md")], piped)
    (texts / "b.md").unlink()
    with pytest.raises(StoreError, match=r"-, .*b\.md cannot be read again; use --skip-missing"):
        rebuild_datastore("notes")
    assert len(stored("notes", model)) == 3
    rebuild_datastore("notes", skip_missing=True)
    assert stored("notes", model) == ["the rain"]
    assert find_datastore("notes").roots == (str(texts / "a.txt"),)


def test_a_failed_rebuild_changes_nothing(model: Path, texts: Path) -> None:
    build_datastore("notes", model, [str(texts)])
    for path in texts.iterdir():
        path.write_bytes(b"\0")
    with pytest.raises(StoreError, match="there is no text to store"):
        rebuild_datastore("notes")
    assert len(stored("notes", model)) == 3


def test_a_damaged_datastore_can_be_rebuilt(model: Path, texts: Path) -> None:
    build_datastore("notes", model, [str(texts)])
    (datastore_folder("notes") / "000000.tokens.npy").unlink()
    rebuild_datastore("notes")
    assert verify_datastore("notes") == []
    assert len(stored("notes", model)) == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_keep_their_order_with_any_number_of_threads(
    model: Path, tmp_path: Path, threads: int
) -> None:
    path = tmp_path / "many.jsonl"
    expected = [f"text number {index}" for index in range(300)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in expected))
    build_datastore("notes", model, [str(path)], BuildOptions(threads=threads))
    assert stored("notes", model) == expected


def test_small_segments_hold_the_same(model: Path, tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index:02d}.txt").write_text(f"the rain {index} on the hill")
    build_datastore("notes", model, [str(tmp_path)], BuildOptions(segment_tokens=60))
    manifest = find_datastore("notes")
    assert len(manifest.segments) > 3
    assert stored("notes", model) == [f"the rain {n} on the hill" for n in range(40)]
    assert verify_datastore("notes") == []
    assert manifest.segment_tokens == 60


def test_progress_is_told(model: Path, texts: Path) -> None:
    told: list[tuple[int, int]] = []

    def note(report: Report) -> None:
        told.append((report.num_found, report.num_files))

    build_datastore("notes", model, [str(texts)], BuildOptions(progress=note))
    assert told[0] == (3, 1)
    assert told[-1] == (3, 3)


class Interrupt(BaseException):
    pass


def interrupted(name: str, model: Path, roots: list[str], after: int, size: int = 30) -> None:
    """A build that is cut off after some commits."""
    commits = 0
    commit = Store.commit

    def counted(store: Store) -> None:
        nonlocal commits
        commit(store)
        commits += 1
        if commits == after:
            raise Interrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "commit", counted)
        with pytest.raises(Interrupt):
            build_datastore(name, model, roots, BuildOptions(segment_tokens=size))


@pytest.fixture
def long_file(tmp_path: Path) -> tuple[Path, list[str]]:
    texts = [f"number {index}" for index in range(60)]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path, texts


@pytest.mark.parametrize("after", [1, 4])
def test_a_build_goes_on_where_it_was_cut_off(
    model: Path, texts: Path, long_file: tuple[Path, list[str]], after: int
) -> None:
    path, expected = long_file
    roots = [str(texts), str(path)]
    interrupted("notes", model, roots, after)
    begun = find_datastore("notes")
    assert begun.unfinished == tuple(roots)
    assert 0 < begun.num_texts < 63
    report = build_datastore("notes", model, roots)
    assert stored("notes", model) == ["the rain", "on the hill", "the plain", *expected]
    assert find_datastore("notes").unfinished == ()
    assert report.num_texts == 63 - begun.num_texts


def test_adding_goes_on_with_a_build_that_was_cut_off(
    model: Path, texts: Path, long_file: tuple[Path, list[str]]
) -> None:
    path, expected = long_file
    interrupted("notes", model, [str(path)], 2)
    add_to_datastore("notes", [str(texts / "a.txt")])
    assert stored("notes", model) == [*expected, "the rain"]


def test_a_build_cut_off_and_its_file_changed(
    model: Path, long_file: tuple[Path, list[str]]
) -> None:
    path, expected = long_file
    interrupted("notes", model, [str(path)], 2)
    taken = find_datastore("notes").num_texts
    path.write_text('{"text": "quite new"}')
    build_datastore("notes", model, [str(path)])
    assert stored("notes", model) == [*expected[:taken], "quite new"]


def test_a_build_is_not_continued_with_another_tokenizer(
    model: Path, long_file: tuple[Path, list[str]], tiny_model: TinyModel
) -> None:
    path, _ = long_file
    interrupted("notes", model, [str(path)], 1)
    with pytest.raises(StoreError, match="datastore rebuild notes"):
        build_datastore("notes", tiny_model(num_tokens=321), [str(path)])


def test_a_file_that_vanishes_is_told_and_the_rest_stored(
    model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Place.texts

    def vanishing(place: Place) -> Iterator[str | None]:
        if place.name.endswith("b.md"):
            yield "half"
            raise OSError(5, "Input/output error")
        yield from real(place)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "texts", vanishing)
        report = build_datastore("notes", model, [str(texts)])
    assert report.skipped == [Skipped(str(texts / "b.md"), "cannot be read: Input/output error")]
    add_to_datastore("notes", [str(texts)])
    assert stored("notes", model)[:3] == ["the rain", "half", "the plain"]


def test_what_the_vocabulary_cannot_spell_is_left_out(
    model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Model.tokenize

    def refusing(self: Model, text: str, **options: bool) -> np.ndarray:
        if "hill" in text:
            raise ModelError("no token for it")
        return real(self, text, **options)

    monkeypatch.setattr(Model, "tokenize", refusing)
    build_datastore("notes", model, [str(texts)])
    assert stored("notes", model) == ["the rain", "", "the plain"]


def test_long_files_are_cut_to_pieces(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    text = "the rain on the hill\n" * (3 * PIECE_CHARS // 21)
    path.write_text(text)
    report = build_datastore("notes", model, [str(path)])
    assert (report.num_files, report.num_texts) == (1, 3)
    assert "".join(stored("notes", model)) == text


def test_the_defaults() -> None:
    assert (DEFAULTS.segment_tokens, DEFAULTS.threads) == (DEFAULT_SEGMENT_TOKENS, None)
    assert (DEFAULTS.max_tokens, DEFAULTS.temperature, DEFAULTS.cluster) == (512, 0, None)
    DEFAULTS.progress(Report())
    assert replace(DEFAULTS, threads=2).threads == 2
    assert ingest.CHECKPOINT_TOKENS == 2**22


def test_stdin_is_read_when_it_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"piped rain")))
    build_datastore("notes", model, ["-"])
    assert stored("notes", model) == ["piped rain"]
    assert find_datastore("notes").roots == ("-",)
