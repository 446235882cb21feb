"""A model's own answers in a datastore: greedy, each once, and kept when it is cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sssd_local.errors import ContextFullError
from sssd_local.llm import LLM
from sssd_local.store import build as module
from sssd_local.store.answers import Answering
from sssd_local.store.build import add_to_datastore, build_datastore, rebuild_datastore
from sssd_local.store.datastores import datastore_folder, datastore_names, find_datastore
from sssd_local.store.errors import StoreError
from sssd_local.store.ingest import BuildOptions, Report
from sssd_local.store.prompts import Prompt
from sssd_local.store.sources import Skipped
from sssd_local.store.store import create_store, open_store
from tests.store.stores import lists, new_manifest

TinyModel = Callable[..., Path]
SHORT = BuildOptions(max_tokens=6, threads=1)


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("rain\nhill\nplain\n")
    return path


def stored(name: str) -> list[list[int]]:
    with open_store(datastore_folder(name)) as store:
        return lists(store)


def test_the_answers_are_what_the_model_says(model: Path, prompts: Path) -> None:
    report = build_datastore("own", model, [], SHORT, prompts=[prompts])
    with LLM(model) as llm:
        expected = [
            list(
                llm.chat([{"role": "user", "content": text}], temperature=0, max_tokens=6).token_ids
            )
            for text in ("rain", "hill", "plain")
        ]
    assert stored("own") == expected
    manifest = find_datastore("own")
    assert (manifest.roots, manifest.unfinished) == ((f"prompts:{prompts}",), ())
    assert (report.num_prompts, report.num_answers, report.num_texts) == (3, 3, 3)
    assert report.num_tokens == manifest.num_tokens == sum(map(len, expected))


def test_files_and_answers_go_together(model: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("the rain")
    root = str(tmp_path / "a.md")
    told: list[tuple[int, int]] = []
    options = BuildOptions(
        max_tokens=2, progress=lambda report: told.append((report.num_files, report.num_answers))
    )
    report = build_datastore("own", model, [root], options, prompts=[prompts])
    assert (report.num_files, report.num_answers, report.num_texts) == (1, 3, 4)
    assert told[-1] == (1, 3)
    assert told.index((1, 0)) < told.index((1, 1)) < told.index((1, 2))
    assert find_datastore("own").roots == (root, f"prompts:{prompts}")
    assert len(find_datastore("own").segments) == 1


def test_a_prompt_is_answered_once(
    model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_datastore("own", model, [], SHORT, prompts=[prompts])
    before = stored("own")
    # No model is loaded where nothing is to be answered.
    with monkeypatch.context() as patch:
        patch.setattr(module, "_answers", None)
        report = add_to_datastore("own", [], options=SHORT, prompts=[prompts])
    assert (report.num_prompts, report.num_answers, report.num_texts) == (3, 3, 0)
    prompts.write_text("hill\nwind\n")
    report = add_to_datastore("own", [], options=SHORT, prompts=[prompts])
    assert (report.num_prompts, report.num_answers, report.num_texts) == (2, 2, 1)
    assert stored("own")[:3] == before


class Interrupt(BaseException):
    pass


def test_answers_are_kept_when_it_is_cut_off(
    model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(report: Report) -> None:
        if report.num_answers == 2:
            raise Interrupt

    cut = BuildOptions(max_tokens=6, threads=1, progress=stop)
    with pytest.raises(Interrupt):
        build_datastore("own", model, [], cut, prompts=[prompts])
    begun = find_datastore("own")
    assert (begun.num_texts, begun.unfinished) == (2, (f"prompts:{prompts}",))
    report = add_to_datastore("own", ["-"], options=BuildOptions(max_tokens=6, stdin=lambda: b"x"))
    assert (report.num_prompts, report.num_answers) == (3, 3)
    whole = stored("own")
    with pytest.raises(StoreError, match="there is a datastore own already"):
        build_datastore("own", model, [], SHORT, prompts=[prompts])
    build_datastore("other", model, [], SHORT, prompts=[prompts])
    assert sorted(whole[:2] + whole[3:]) == sorted(stored("other"))


def test_rebuilding_answers_again(model: Path, prompts: Path, tiny_model: TinyModel) -> None:
    build_datastore("own", model, [], SHORT, prompts=[prompts])
    other = tiny_model(num_tokens=321)
    report = rebuild_datastore("own", other, options=SHORT)
    assert report.num_answers == 3
    assert find_datastore("own").num_vocab == 321
    prompts.unlink()
    with pytest.raises(StoreError, match=r"prompts:.*prompts\.txt cannot be read again"):
        rebuild_datastore("own")


def test_a_failed_rebuild_keeps_the_answers(
    model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_datastore("own", model, [], SHORT, prompts=[prompts])
    before = find_datastore("own")

    def stop(report: Report) -> None:
        if report.num_answers == 1:
            raise Interrupt

    with pytest.raises(Interrupt):
        rebuild_datastore("own", options=BuildOptions(max_tokens=2, progress=stop))
    assert find_datastore("own") == before


def test_prompts_that_do_not_fit_are_passed_over(tmp_path: Path, prompts: Path) -> None:
    def answer(prompt: Prompt) -> Sequence[int]:
        if prompt.messages[0]["content"] == "hill":
            raise ContextFullError("it is too long")
        return [1, 2]

    with create_store(tmp_path / "store", new_manifest()) as store:
        report = Report()
        answering = Answering(store, report)
        answering.run(answering.wanted([f"prompts:{prompts}"]), answer)
        assert lists(store) == [[1, 2], [1, 2]]
    reason = "a prompt was not answered: it is too long"
    assert report.skipped == [Skipped(f"prompts:{prompts}", reason)]
    assert (report.num_prompts, report.num_answers) == (3, 2)


def test_no_answer_makes_no_datastore(
    model: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise ContextFullError("it is too long")

    monkeypatch.setattr(LLM, "chat", full)
    with pytest.raises(StoreError, match=r"no text to store \(a prompt was not answered"):
        build_datastore("own", model, [], SHORT, prompts=[prompts])
    assert datastore_names() == []
    assert not datastore_folder("own").exists()
