"""Kept chats as text again, a JSON line for each turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from sssd_local.config import ModelConfig
from sssd_local.draft.datastore import TokenArray
from sssd_local.engine.model import Model
from sssd_local.errors import ModelError
from sssd_local.store.errors import StoreError
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.memory_chats import KeptChats, kept_chats, patiently
from sssd_local.store.memory_turn import OVERLAP
from sssd_local.store.segment import SourceRecord


def export_lines(root: Path, model: Path | None = None) -> Iterator[str]:
    """{"chat", "time", "text"} of every turn, oldest first, each with its newline.

    `model` stands in for a GGUF file that is gone, where it has the same tokenizer. Raises
    StoreError, and ModelError where no file can turn tokens into text.
    """
    for kept in kept_chats(root):
        if kept.exists:
            turns = patiently(kept.turns)
            vocabulary = _vocabulary(kept, model)
            try:
                for source, texts in _without_overlap(turns):
                    # Lines that are never kept were between them.
                    data = b"\n".join(
                        b"".join(map(vocabulary.piece, text.tolist())) for text in texts
                    )
                    text = data.decode(errors="replace")
                    yield json.dumps(_record(source, text), ensure_ascii=False) + "\n"
            finally:
                vocabulary.close()


def _record(source: SourceRecord, text: str) -> dict[str, str]:
    when = datetime.fromtimestamp(source.time, UTC).isoformat(timespec="seconds")
    return {"chat": source.name, "time": when, "text": text}


def _vocabulary(kept: KeptChats, model: Path | None) -> Model:
    manifest = kept.manifest()
    for path in [Path(manifest.model)] if model is None else [model, Path(manifest.model)]:
        try:
            if tokenizer_fingerprint(path) == manifest.fingerprint:
                return Model(path, ModelConfig(), vocab_only=True)
        except ModelError:
            # Gone, or another file by now.
            continue
    raise StoreError(
        f"the chats with {manifest.model} need a model with its tokenizer to become text; "
        "name one with --model"
    )


def _without_overlap(
    turns: list[tuple[SourceRecord, list[TokenArray]]],
) -> Iterator[tuple[SourceRecord, list[TokenArray]]]:
    """The turns without what each repeats of the one before in its chat."""
    ends: dict[str, list[int]] = {}
    for source, (first, *others) in turns:
        repeats = first[:OVERLAP].tolist() == ends.get(source.name)
        texts = [first[OVERLAP:] if repeats else first, *others]
        ends[source.name] = [first, *others][-1][-OVERLAP:].tolist()
        yield source, texts
