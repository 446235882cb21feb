"""A loaded model as the probe sees it: filled contexts, verify batches, thread counts."""

from __future__ import annotations

import ctypes
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.tree import Int32Array
from sssd_local.engine.ability import RollBackKind
from sssd_local.engine.backend import C
from sssd_local.engine.context import Context
from sssd_local.engine.kv import leaf_masks, sequence_sets
from sssd_local.errors import ModelError

UInt8Array = NDArray[np.uint8]

MAX_STATE_BYTES = 1 << 30
# Evaluating this many tokens for real costs no more than the probe itself.
MAX_EVALUATED = 256
RESTORES = 3
# magic, sequence, streams, cells; then per cell position, number of sequences, sequence.
_HEAD = struct.Struct("<IiII")
_CELL = struct.Struct("<iIi")


@dataclass(frozen=True, slots=True)
class CellLayout:
    """The bytes of a sequence's state with one cell, taken apart (llama.cpp, llama-kv-cache.cpp).

    `tensors`: for each K and V its header and the bytes of one cell.
    """

    head: bytes
    cell: bytes
    middle: bytes
    tensors: tuple[tuple[bytes, int], ...]

    def state(self, num_cells: int) -> UInt8Array:
        """The state of a sequence of `num_cells` cells of zeros at positions 0, 1, ..."""
        magic, sequence, streams, _ = _HEAD.unpack(self.head)
        _, sequences, owner = _CELL.unpack(self.cell)
        cells = np.zeros((num_cells, 3), np.int32)
        cells[:, 0] = np.arange(num_cells)
        cells[:, 1], cells[:, 2] = sequences, owner
        start = _HEAD.pack(magic, sequence, streams, num_cells) + cells.tobytes() + self.middle
        size = len(start) + sum(len(head) + num_cells * per for head, per in self.tensors)
        state = np.zeros(size, np.uint8)
        state[: len(start)] = np.frombuffer(start, np.uint8)
        place = len(start)
        for head, per_cell in self.tensors:
            state[place : place + len(head)] = np.frombuffer(head, np.uint8)
            place += len(head) + num_cells * per_cell
        return state


def read_layout(state: bytes) -> CellLayout | None:
    """Takes the state of one cell apart; None if it is laid out otherwise.

    So are those of models with two caches or with a recurrent state.
    """
    try:
        return _read_layout(state)
    except struct.error:
        return None


def _read_layout(state: bytes) -> CellLayout | None:
    if _HEAD.unpack_from(state)[2:] != (1, 1):
        return None
    place = _HEAD.size + _CELL.size
    if _CELL.unpack_from(state, _HEAD.size)[:2] != (0, 1):
        return None
    is_transposed, num_layers = struct.unpack_from("<II", state, place)
    middle = state[place : place + 8]
    place += 8
    tensors: list[tuple[bytes, int]] = []
    for number in range(2 * num_layers):
        is_value = number >= num_layers
        if is_value and is_transposed:
            _, element, rows = struct.unpack_from("<iII", state, place)
            per_cell = element * rows
        else:
            _, per_cell = struct.unpack_from("<iQ", state, place)
        tensors.append((state[place : place + 12], per_cell))
        place += 12 + per_cell
    if place != len(state):
        return None
    return CellLayout(
        state[: _HEAD.size],
        state[_HEAD.size : _HEAD.size + _CELL.size],
        middle,
        tuple(tensors),
    )


class ContextRig:
    """Runs verify batches on a context that is the probe's alone meanwhile; empty it afterwards."""

    def __init__(
        self, context: Context, make_context: Callable[[bool], Context] | None = None
    ) -> None:
        """`make_context(flash_attention)` makes another one; the rig closes the one before."""
        self._context = context
        self._make_context = make_context
        self._threads: tuple[int, int] | None = None
        self._length = 0
        self._layout: CellLayout | None = None
        self._has_layout = False

    def set_threads(self, threads: int, threads_batch: int) -> None:
        """Threads of one-token steps and of wider ones from now on."""
        self._threads = (threads, threads_batch)
        self._context.set_threads(threads, threads_batch)

    @property
    def context(self) -> Context:
        """The context the rig runs on at present."""
        return self._context

    def set_flash_attention(self, on: bool) -> bool:
        """Makes the context anew, empty, with or without flash attention; False if it cannot.

        Raises ModelError when not even the one before can be made again.
        """
        if on == self._context.has_flash_attention:
            return True
        if self._make_context is None:
            return False
        # Two at a time might not fit.
        self._context.close()
        try:
            self._context = self._make_context(on)
        except ModelError:
            self._context = self._make_context(not on)
        self._length, self._layout, self._has_layout = 0, None, False
        if self._threads is not None:
            self._context.set_threads(*self._threads)
        return on == self._context.has_flash_attention

    def fill(self, context_length: int) -> bool:
        """Empties the cache and puts a state of so many tokens into it; False if it cannot.

        The state is all zeros and loaded in a fraction of the time of evaluating text; where the
        layout is not the known one, only short contexts are filled, by evaluating them.
        """
        context = self._context
        context.clear()
        self._length = 0
        if context_length == 0:
            return True
        if context.plan.ability.roll_back is not RollBackKind.REMOVE:
            # A state that steps change for good would have to be filled anew for each.
            return False
        if context.model.facts.recurrent:
            # A state cannot be brought back to a length as often as a probe asks for it.
            return False
        if not self._load(context_length):
            context.clear()
            if context_length > MAX_EVALUATED:
                return False
            context.decode_prompt(np.zeros(context_length, np.int32), 0, logits=False)
        for sequence in range(1, context.num_sequences):
            context.copy(0, sequence, -1, -1)
        self._length = context_length
        return True

    def _load(self, num_cells: int) -> bool:
        if not self._has_layout:
            self._layout, self._has_layout = self._find_layout(), True
        layout = self._layout
        if layout is None:
            return False
        if num_cells * sum(per_cell for _, per_cell in layout.tensors) > MAX_STATE_BYTES:
            return False
        self._context.clear()
        state = layout.state(num_cells)
        return self._set(state) and self._context.last_position(0) == num_cells - 1

    def _find_layout(self) -> CellLayout | None:
        """The layout of this context's states, if a state put together again is the same."""
        self._context.decode_prompt(np.zeros(1, np.int32), 0, logits=False)
        handle = self._context.handle
        size = C.llama_state_seq_get_size(handle, 0)
        buffer = (ctypes.c_uint8 * size)()
        if C.llama_state_seq_get_data(handle, buffer, size, 0) != size:
            return None
        layout = read_layout(bytes(buffer))
        if layout is None or len(layout.state(1)) != size:
            return None
        self._context.clear()
        return layout if self._set(np.frombuffer(buffer, np.uint8)) else None

    def _set(self, state: UInt8Array) -> bool:
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        size = len(state)
        return bool(C.llama_state_seq_set_data(self._context.handle, pointer, size, 0) == size)

    def decode(self, width: int) -> None:
        """Evaluates a chain of `width` tokens after the filled context, and rolls it back."""
        self._context.decode_rows(np.zeros(width, np.int32), self._positions(width), None)
        self._roll_back()

    def decode_tree(self, width: int) -> None:
        """The same for a tree whose leaves are as many as there are sequences."""
        leaves = min(self._context.num_sequences, width - 1)
        stem = width - 1 - leaves
        parents = [*range(-1, stem - 1), *[stem - 1] * leaves]
        masks = leaf_masks(parents)
        positions = np.minimum(self._positions(width), self._length + stem + 1)
        tokens = np.arange(width, dtype=np.int32) % self._context.num_vocab
        self._context.decode_rows(
            tokens, positions, None if masks is None else sequence_sets(masks)
        )
        self._roll_back()

    def restore_seconds(self) -> tuple[float, float]:
        """Seconds of saving a recurrent state before a draft and of loading it after a wrong one.

        Zeros where the cache rolls back otherwise.
        """
        context = self._context
        if context.plan.ability.roll_back is not RollBackKind.RESTORE:
            return 0.0, 0.0
        times: list[tuple[float, float]] = []
        for _ in range(RESTORES):
            self.fill(0)
            context.decode_one(0, 0)
            start = time.perf_counter()
            state = context.save_state(on_device=True)
            saved = time.perf_counter()
            context.load_state(state, on_device=True)
            times.append((saved - start, time.perf_counter() - saved))
        self.fill(0)
        saves, loads = zip(*times, strict=True)
        return statistics.median(saves), statistics.median(loads)

    def _roll_back(self) -> None:
        if self._length:
            self._context.remove(-1, self._length)
        else:
            self._context.clear()

    def _positions(self, width: int) -> Int32Array:
        return np.arange(self._length, self._length + width, dtype=np.int32)
