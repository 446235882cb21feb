"""Kept chats as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sssd_local.llm import LLM
from sssd_local.store.errors import StoreError
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.memory_chats import KeptChats
from sssd_local.store.memory_export import export_lines
from tests.store.memories import turn
from tests.store.stores import new_manifest

TinyModel = Callable[..., Path]


@pytest.fixture
def kept(tmp_path: Path, tiny_model: TinyModel) -> KeptChats:
    """Two chats, the second turn of one beginning with the end of the first."""
    path = tiny_model()
    with LLM(path, ctx=64, speculation="off") as llm:
        first = llm.tokenize("the rain on the plain", add_special=False)
        second = [*first[-8:], *llm.tokenize(" and the hill", add_special=False)]
        fresh = new_manifest(num_vocab=len(llm._model._header.tokens))
    fresh = type(fresh)(
        fingerprint=tokenizer_fingerprint(path), num_vocab=fresh.num_vocab, model=str(path)
    )
    found = KeptChats(tmp_path / fresh.fingerprint)
    turns = [turn(first, "a", 0.0), turn(first, "b", 1.0), turn(second, "a", 2.0)]
    found.add(fresh, turns)
    return found


def lines(kept: KeptChats, model: Path | None = None) -> list[dict[str, str]]:
    return [json.loads(line) for line in export_lines(kept.folder.parent, model)]


def test_a_line_a_turn(kept: KeptChats) -> None:
    text = "the rain on the plain"
    assert lines(kept) == [
        {"chat": "a", "time": "1970-01-01T00:00:00+00:00", "text": text},
        {"chat": "b", "time": "1970-01-01T00:00:01+00:00", "text": text},
        {"chat": "a", "time": "1970-01-01T00:00:02+00:00", "text": " and the hill"},
    ]
    assert lines(KeptChats(kept.folder / "none")) == []


def test_texts_of_one_turn_repeat_nothing_of_each_other(kept: KeptChats) -> None:
    (_, (first,)), *_ = kept.turns()
    line = first[:8].tolist()
    kept.add(kept.manifest(), [turn(line, "c", 3.0, more=[line, line])])
    text = lines(kept)[-1]["text"].split("\n")
    assert len(text) == 3
    assert text == text[:1] * 3
    assert text[0]


def test_another_file_may_have_the_words(kept: KeptChats, tiny_model: TinyModel) -> None:
    from dataclasses import replace

    from sssd_local.store.manifest import write_manifest

    manifest = kept.manifest()
    write_manifest(kept.folder, replace(manifest, model="/gone.gguf"))
    with pytest.raises(StoreError, match=r"/gone\.gguf need a model .* name one with --model"):
        lines(kept)
    assert len(lines(kept, Path(manifest.model))) == 3
    with pytest.raises(StoreError, match="name one with --model"):
        lines(kept, tiny_model(num_tokens=321))
