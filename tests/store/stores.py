"""Small stores for tests, and a plain list to compare them with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sssd_local.config import ModelConfig
from sssd_local.draft.datastore import MAX_MATCH, Segment
from sssd_local.engine.model import Model
from sssd_local.store.datastores import datastore_folder
from sssd_local.store.manifest import Manifest
from sssd_local.store.order import context_order
from sssd_local.store.segment import SourceRecord, join
from sssd_local.store.store import Store, open_store

NUM_VOCAB = 50
Texts = Sequence[Sequence[int]]


def new_manifest(num_vocab: int = NUM_VOCAB, **options: object) -> Manifest:
    return Manifest(fingerprint="abc", num_vocab=num_vocab, model="/m.gguf", **options)  # type: ignore[arg-type]


def source_of(texts: Texts, name: str = "a.txt", **options: object) -> SourceRecord:
    return SourceRecord(
        name=name,
        digest=name,
        time=1.5,
        num_texts=len(texts),
        num_tokens=sum(map(len, texts)),
        **options,  # type: ignore[arg-type]
    )


def arrays(texts: Texts) -> list[np.ndarray]:
    return [np.array(text, np.int32) for text in texts]


def segment_of(texts: Texts, num_vocab: int = NUM_VOCAB) -> Segment:
    tokens = join(arrays(texts), num_vocab)
    return Segment(tokens, context_order(tokens, num_vocab))


def append(store: Store, texts: Texts, name: str = "a.txt") -> None:
    store.append(arrays(texts), [source_of(texts, name)])


def lists(store: Store) -> list[list[int]]:
    return [text.tolist() for text in store.texts()]


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock", "manifest.json"}


def followers(texts: Texts, context: Sequence[int]) -> dict[int, Counter[int]]:
    """For each length of the context's end, what follows it in the texts."""
    found: dict[int, Counter[int]] = {}
    for length in range(1, min(len(context), MAX_MATCH) + 1):
        end = list(context[-length:])
        counts = Counter(
            text[at + length]
            for text in texts
            for at in range(len(text) - length)
            if list(text[at : at + length]) == end
        )
        if counts:
            found[length] = counts
    return found


def stored(name: str, model: Path) -> list[str]:
    """The texts of a datastore, turned back into characters."""
    vocabulary = Model(model, ModelConfig(), vocab_only=True)
    with open_store(datastore_folder(name)) as store:
        found = [
            b"".join(map(vocabulary.piece, text)).decode().removeprefix(" ")
            for text in lists(store)
        ]
    vocabulary.close()
    return found
