"""Small memories for tests: turns, where they are kept, and the bytes on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sssd_local.draft.tree import Int32Array
from sssd_local.stats import Stats, Tally
from sssd_local.store.memory_chats import KeptChats
from sssd_local.store.memory_turn import Turn, Worth
from tests.store.stores import NUM_VOCAB, new_manifest

FRESH = new_manifest()
# Named as a tokenizer is.
FOLDER = "0123456789abcdef" * 2


def ids(tokens: Sequence[int]) -> Int32Array:
    return np.array(tokens, np.int32)


def turn(
    tokens: Sequence[int],
    chat: str = "a",
    time: float = 1.5,
    worth: Worth | None = None,
    more: Sequence[Sequence[int]] = (),
) -> Turn:
    """`more` are further texts, after lines that are not kept."""
    texts = [ids(text) for text in (tokens, *more)]
    return Turn(chat, time, texts, worth or Worth(1, len(tokens), 0, 0.0))


def stats(tokens: int = 3, **by_source: int) -> Stats:
    tally = Tally(5, tokens=tokens, by_source=by_source or {"model": tokens}, step_seconds=0.2)
    return tally.finish(reused_tokens=0, prompt_seconds=0.1, plain=0.1)


def texts(kept: KeptChats) -> list[tuple[str, list[int]]]:
    """Chat and tokens of each text."""
    if not kept.exists:
        return []
    return [(source.name, text.tolist()) for source, found in kept.turns() for text in found]


def all_bytes(folder: Path) -> bytes:
    """Every byte of every file below a folder, with the names."""
    paths = sorted(folder.rglob("*"))
    return b"".join(
        path.name.encode() + (path.read_bytes() if path.is_file() else b"") for path in paths
    )


def says(folder: Path, tokens: Sequence[int], num_vocab: int = NUM_VOCAB) -> bool:
    """Whether the bytes on disk have some tokens in a row, at either size."""
    data = all_bytes(folder)
    small = np.array(tokens, np.uint16).tobytes() if num_vocab < 1 << 16 else b""
    return bool(small and small in data) or np.array(tokens, np.uint32).tobytes() in data
