"""The ledger of what the KV cache holds, and the sequence ids that keep tree branches apart.

llama.cpp lets a query see the cells that carry its own first sequence id (llama-kv-cache.cpp). One
id per leaf, and on each node the ids of all leaves below it, make a batch a tree without a mask.
Between two steps every id holds the same committed prefix.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sssd_local.draft.tree import DraftTree, Int32Array
from sssd_local.engine.context import BATCH_TOKENS, NUM_SEQUENCES, SequenceSets
from sssd_local.engine.rollback import RollBack
from sssd_local.errors import BackendError

_ALL = (1 << NUM_SEQUENCES) - 1


class Memory(Protocol):
    """The cache operations the ledger needs (engine.context.Context has them)."""

    num_sequences: int
    ctx: int

    def remove(self, sequence: int, start: int) -> bool: ...
    def evaluate_again(self, tokens: Int32Array, position: int) -> None: ...
    def copy(self, source: int, target: int, start: int, end: int) -> None: ...
    def last_position(self, sequence: int) -> int: ...


def _id_table() -> SequenceSets:
    ids = np.zeros((_ALL + 1, NUM_SEQUENCES), np.int32)
    counts = np.zeros(_ALL + 1, np.int32)
    for mask in range(_ALL + 1):
        members = [bit for bit in range(NUM_SEQUENCES) if mask >> bit & 1]
        ids[mask, : len(members)] = members
        counts[mask] = len(members)
    return SequenceSets(ids, counts)


_TABLE = _id_table()


def leaf_masks(parents: Sequence[int]) -> list[int] | None:
    """For each node the set of sequence ids it carries, as bits; None for a chain (all ids).

    Ids that no leaf needs ride on one leaf. Raises BackendError for more leaves than ids.
    """
    if all(parent == node - 1 for node, parent in enumerate(parents)):
        return None
    num_leaves = len(parents) - len(set(parents) - {-1})
    if num_leaves > NUM_SEQUENCES:
        raise BackendError(f"a draft has {num_leaves} leaves, at most {NUM_SEQUENCES} are possible")
    masks = [0] * len(parents)
    free = (1 << (num_leaves - 1)) - 1
    spare = _ALL & ~free
    for node in range(len(parents) - 1, -1, -1):
        if not masks[node]:
            masks[node] = spare or free & -free
            free, spare = (free, 0) if spare else (free & (free - 1), 0)
        if parents[node] >= 0:
            masks[parents[node]] |= masks[node]
    return masks


def sequence_sets(masks: list[int]) -> SequenceSets:
    """The batch rows' ids for a root (which carries all) followed by the nodes."""
    rows = np.array([_ALL, *masks])
    return SequenceSets(_TABLE.ids[rows], _TABLE.counts[rows])


class Ledger:
    """Which token ids the cache holds, the same under every sequence id.

    Operations change cells at or after `length` only and `length` last, so that `restore()` makes
    cache and ledger agree again wherever an exception struck. `extra_seconds` is what saving the
    state before a step and evaluating tokens again after it took.
    """

    def __init__(self, memory: Memory, roll_back: RollBack) -> None:
        self._memory = memory
        self._roll_back = roll_back
        self._tokens = np.zeros(memory.ctx, np.int32)
        self.length = 0
        self.extra_seconds = 0.0

    @property
    def tokens(self) -> Int32Array:
        """The committed token ids, int32 [length], a view."""
        return self._tokens[: self.length]

    @property
    def room(self) -> int:
        """How many more tokens the context takes."""
        return self._memory.ctx - self.length

    def reuse(self, tokens: Int32Array) -> int:
        """Keeps the longest prefix shared with `tokens`, all but the last; returns its length."""
        limit = min(self.length, len(tokens) - 1)
        differs = np.flatnonzero(self._tokens[:limit] != tokens[:limit])
        self.roll_back(int(differs[0]) if len(differs) else limit)
        return self.length

    def begin(self, num_tokens: int, *, drafted: bool = False) -> None:
        """Comes before a batch of `num_tokens` tokens; `drafted` ones are among them or not."""
        start = time.perf_counter()
        self._roll_back.begin(self.length, num_tokens, drafted=drafted)
        self.extra_seconds = time.perf_counter() - start if drafted else 0.0

    def keep_here(self) -> None:
        """Asks to be able to come back to this length much later."""
        self._roll_back.keep(self.length)

    def commit_prompt(self, tokens: Int32Array) -> None:
        """Takes in a piece of prompt that was evaluated on sequence 0."""
        end = self.length + len(tokens)
        for sequence in range(1, self._memory.num_sequences):
            self._memory.copy(0, sequence, self.length, end)
        self._tokens[self.length : end] = tokens
        self.length = end

    def commit_step(
        self, root: int, tree: DraftTree, masks: list[int] | None, path: Sequence[int]
    ) -> None:
        """Keeps the root and the accepted `path` (node indices) of a verify batch, not the rest."""
        start = self.length + 1
        end = start + len(path)
        self._tokens[self.length] = root
        if path:
            self._tokens[start:end] = tree.tokens[list(path)]
        if masks is not None and path:
            self._share_path([masks[node] for node in path], start)
        if len(tree) > len(path):
            self._cut_step(end)
        self.length = end

    def _cut_step(self, end: int) -> None:
        """Drops rejected nodes; what goes with them is evaluated again."""
        start = time.perf_counter()
        left = self._roll_back.cut(end)
        if left == end:
            return
        for position in range(left, end, BATCH_TOKENS):
            piece = self._tokens[position : min(position + BATCH_TOKENS, end)]
            self._roll_back.begin(position, len(piece), drafted=False)
            self._memory.evaluate_again(piece, position)
        self.extra_seconds += time.perf_counter() - start

    def _share_path(self, masks: list[int], start: int) -> None:
        """Gives the accepted cells to the ids of losing branches, from where each left the path."""
        end = start + len(masks)
        winner = (masks[-1] & -masks[-1]).bit_length() - 1
        for sequence in range(NUM_SEQUENCES):
            if masks[-1] >> sequence & 1:
                continue
            shared = sum(mask >> sequence & 1 for mask in masks)
            self._memory.remove(sequence, start + shared)
            self._memory.copy(winner, sequence, start + shared, end)

    def roll_back(self, length: int) -> None:
        """Forgets the tokens from `length` on, and more where the cache cannot do just that."""
        if length < self.length:
            self.length = length
            self.restore()

    def restore(self) -> None:
        """Drops whatever an unfinished step left behind."""
        self.length = self._roll_back.cut(self.length)

    def clear(self) -> None:
        """Forgets everything."""
        self.length = 0
        self._roll_back.clear()

    def check(self) -> str:
        """How cache and ledger disagree, or ""; carries out what rolling back put off."""
        if self.length:
            self._roll_back.begin(self.length, 0, drafted=False)
        for sequence in range(self._memory.num_sequences):
            last = self._memory.last_position(sequence)
            if last != self.length - 1:
                return f"sequence {sequence} ends at {last}, the ledger at {self.length - 1}"
        return ""
