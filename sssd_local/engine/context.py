"""A KV cache and the batches evaluated into it.

Sizes are checked before each call where llama.cpp would abort the process: more tokens than the
batch holds, positions past the context, ids outside the vocabulary.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sssd_local.config import MAX_WIDTH, FlashAttention, ModelConfig
from sssd_local.draft.tree import Float32Array, Int32Array
from sssd_local.engine.ability import Speculation
from sssd_local.engine.backend import C, caught_in_callbacks, log
from sssd_local.engine.memory import available_bytes, plan_context
from sssd_local.engine.model import Model
from sssd_local.errors import BackendError, Cancelled, ModelError

NUM_SEQUENCES = 8
BATCH_TOKENS = 512

_GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_FLASH = {"auto": -1, "off": 0, "on": 1}
# The states of recurrent layers and sliding windows only; kept where they are computed.
_PARTIAL_ONLY, _ON_DEVICE = 1, 2


class SequenceSets(NamedTuple):
    """Which sequence ids each batch row carries: int32 ids [rows, NUM_SEQUENCES], counts [rows]."""

    ids: Int32Array
    counts: Int32Array


def flash_attention_of(config: ModelConfig) -> FlashAttention:
    """On, off, or auto: measured on a CPU, llama.cpp's choice on a GPU.

    A quantised V cannot do without.
    """
    return "on" if config.value_type == "q8_0" else config.flash_attention


class Context:
    """A KV cache and the batches evaluated into it.

    `num_sequences` ids share one committed prefix so that tree branches can be told apart
    (llama-kv-cache.cpp: a query sees the cells that carry its own first id). `ctx` is the limit the
    user asked for; llama.cpp pads its own. Raises ModelError when the context does not fit.
    """

    def __init__(self, model: Model, config: ModelConfig, threads: int, threads_batch: int) -> None:
        self.model = model
        self.num_vocab = model.facts.num_vocab
        self.plan = plan_context(model.facts, config, available_bytes())
        # Auto is off on a CPU: its cost grows row by row below 64 rows, unless measured otherwise.
        flash_attention = flash_attention_of(config)
        if flash_attention == "auto" and not model.uses_gpu:
            flash_attention = "off"
        self.flash_attention = flash_attention
        branches = self.plan.ability.speculation is Speculation.TREE
        self.num_sequences = NUM_SEQUENCES if branches else 1
        self.ctx = self.plan.ctx
        self._handle = self._create(config, threads, threads_batch)
        model.adapters.apply(self._handle)
        self._memory = C.llama_get_memory(self._handle)
        self._num_rows = 0
        self.decode_seconds = 0.0
        self._pointer: Any = None
        self._view = np.zeros((0, self.num_vocab), np.float32)
        self._view_address = 0
        self._allocate_batch()

    def _create(self, config: ModelConfig, threads: int, threads_batch: int) -> Any:
        params = C.llama_context_default_params()
        params.n_ctx = self.ctx
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_seq_max = self.num_sequences
        params.n_outputs_max = max(MAX_WIDTH, self.num_sequences)
        params.n_threads, params.n_threads_batch = threads, threads_batch
        params.type_k = _GGML_TYPES[config.kv_type]
        params.type_v = _GGML_TYPES[config.value_type]
        params.flash_attn_type = _FLASH[self.flash_attention]
        params.n_rs_seq = self.plan.num_snapshots
        params.swa_full = not self.plan.kept_window
        params.kv_unified = params.offload_kqv = params.no_perf = True
        handle = C.llama_init_from_model(self.model.handle, params)
        if not handle:
            raise ModelError(
                f"a context of {self.ctx} tokens cannot be created{log.reason()}; "
                "try a smaller --ctx or another --kv-type"
            )
        return handle

    @property
    def has_flash_attention(self) -> bool:
        """True where it was switched on; False, too, where that is up to llama.cpp."""
        return self.flash_attention == "on"

    def _allocate_batch(self) -> None:
        rows = BATCH_TOKENS
        self._tokens = np.zeros(rows, np.int32)
        self._positions = np.zeros(rows, np.int32)
        self._wanted = np.zeros(rows, np.int8)
        self._counts = np.zeros(rows, np.int32)
        # A memoryview's items cost a third of an array's.
        views = (self._tokens, self._positions, self._counts, self._wanted)
        self._scalars = tuple(memoryview(view.data) for view in views)
        self._all_ids = np.arange(self.num_sequences, dtype=np.int32)
        self._ids = np.tile(self._all_ids, (rows, 1))
        stride = self._ids.strides[0]
        self._id_rows = self._ids.ctypes.data + stride * np.arange(rows, dtype=np.uint64)
        self._batch = C.llama_batch()
        int32 = ctypes.POINTER(ctypes.c_int32)
        self._batch.token = self._tokens.ctypes.data_as(int32)
        self._batch.pos = self._positions.ctypes.data_as(int32)
        self._batch.n_seq_id = self._counts.ctypes.data_as(int32)
        self._batch.seq_id = self._id_rows.ctypes.data_as(ctypes.POINTER(int32))
        self._batch.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def decode_prompt(
        self,
        tokens: Int32Array,
        position: int,
        *,
        logits: bool,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """Evaluates a piece of prompt (≤ BATCH_TOKENS) on sequence 0, with or without last logits.

        `should_stop` is asked between operations on a CPU; Cancelled is raised when it says so, and
        what it raises itself comes out of here.
        """
        rows = len(tokens)
        self._fill(tokens, position + np.arange(rows, dtype=np.int32))
        self._counts[:rows] = 1
        self._wanted[:rows] = 0
        self._wanted[rows - 1] = logits
        if should_stop is None:
            self._run(rows, 1 if logits else 0)
            return
        interruption: list[BaseException] = []

        def abort(_: object) -> bool:
            try:
                return bool(interruption) or should_stop()
            except BaseException as error:  # noqa: BLE001 - ctypes would print and lose it
                interruption.append(error)
                return True

        callback = C.ggml_abort_callback(abort)
        C.llama_set_abort_callback(self._handle, callback, None)
        try:
            with caught_in_callbacks(interruption):
                self._run(rows, 1 if logits else 0)
        except (BackendError, Cancelled):
            if not interruption:
                raise
        finally:
            C.llama_set_abort_callback(self._handle, C.ggml_abort_callback(0), None)
        if interruption:
            raise interruption[0]

    def decode_rows(
        self, tokens: Int32Array, positions: Int32Array, sequences: SequenceSets | None
    ) -> None:
        """Evaluates a verify batch, logits for all rows; without `sequences` all ids ride along."""
        rows = len(tokens)
        self._fill(tokens, positions)
        self._wanted[:rows] = 1
        if sequences is None:
            self._counts[:rows] = self.num_sequences
            self._run(rows, rows)
            return
        try:
            self._ids[:rows], self._counts[:rows] = sequences
            self._run(rows, rows)
        finally:
            self._ids[:rows] = self._all_ids

    def decode_one(self, token: int, position: int) -> None:
        """Evaluates one token on all ids, the step of plain decoding."""
        if self._handle is None:
            raise BackendError("the model is closed")
        if not (0 <= token < self.num_vocab and 0 <= position < self.ctx):
            raise BackendError(f"token {token} at position {position} is out of range")
        tokens, positions, counts, wanted = self._scalars
        tokens[0], positions[0], counts[0], wanted[0] = token, position, self.num_sequences, 1
        self._run(1, 1)

    def _fill(self, tokens: Int32Array, positions: Int32Array) -> None:
        rows = len(tokens)
        if self._handle is None:
            raise BackendError("the model is closed")
        if not 0 < rows <= BATCH_TOKENS:
            raise BackendError(f"a batch has 1 to {BATCH_TOKENS} tokens, not {rows}")
        if int(positions[0]) < 0 or int(positions.max()) >= self.ctx:
            raise BackendError(f"position {int(positions.max())} is past the context ({self.ctx})")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.num_vocab:
            raise BackendError(f"token ids must be from 0 to {self.num_vocab - 1}")
        self._tokens[:rows] = tokens
        self._positions[:rows] = positions

    def _run(self, rows: int, num_logits: int) -> None:
        self._num_rows = 0
        self._batch.n_tokens = rows
        start = time.perf_counter()
        result = C.llama_decode(self._handle, self._batch)
        # Waits for the device too; where nothing is wanted the pointer is not used.
        self._pointer = C.llama_get_logits(self._handle)
        self.decode_seconds = time.perf_counter() - start
        if result == 2:
            raise Cancelled("the evaluation was stopped")
        if result != 0:
            raise BackendError(f"llama.cpp could not evaluate a batch: code {result}{log.reason()}")
        self._num_rows = num_logits

    @property
    def logits(self) -> Float32Array:
        """Logits of the last batch: a view, float32 [rows with logits, vocabulary]."""
        if not self._num_rows:
            raise BackendError("the last batch has no logits")
        address = ctypes.addressof(self._pointer.contents)
        if address != self._view_address or len(self._view) != self._num_rows:
            self._view = np.ctypeslib.as_array(self._pointer, (self._num_rows, self.num_vocab))
            self._view_address = address
        return self._view

    @property
    def handle(self) -> Any:
        """llama.cpp's context pointer."""
        if self._handle is None:
            raise BackendError("the model is closed")
        return self._handle

    def set_threads(self, threads: int, threads_batch: int) -> None:
        """Threads for one-token steps and for wider batches."""
        C.llama_set_n_threads(self._handle, threads, threads_batch)

    def clear(self) -> None:
        """Empties the cache."""
        C.llama_memory_clear(self._memory, False)

    def remove(self, sequence: int, start: int) -> bool:
        """Removes a sequence's cells from position `start` on (-1: of all); False if it cannot."""
        # Recurrent states do not know "all".
        known = 0 if self.num_sequences == 1 else sequence
        return bool(C.llama_memory_seq_rm(self._memory, known, start, -1))

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Lets `target` share the cells of `source` at positions start ≤ p < end."""
        C.llama_memory_seq_cp(self._memory, source, target, start, end)

    def first_position(self, sequence: int) -> int:
        """The first position a sequence still holds in all layers, -1 when it is empty."""
        return int(C.llama_memory_seq_pos_min(self._memory, sequence))

    def last_position(self, sequence: int) -> int:
        """The last position a sequence holds, -1 when it is empty."""
        return int(C.llama_memory_seq_pos_max(self._memory, sequence))

    def save_state(self, *, on_device: bool) -> bytes:
        """The state of recurrent layers (and windows) of sequence 0; the rest is not in it.

        With `on_device` the numbers stay where they are computed, and saving again replaces them.
        """
        flags = _PARTIAL_ONLY | (_ON_DEVICE if on_device else 0)
        size = C.llama_state_seq_get_size_ext(self.handle, 0, flags)
        state = (ctypes.c_uint8 * size)()
        if size == 0 or C.llama_state_seq_get_data_ext(self.handle, state, size, 0, flags) != size:
            raise BackendError(f"the model's state could not be saved{log.reason()}")
        return bytes(state)

    def load_state(self, state: bytes, *, on_device: bool) -> None:
        """Puts a saved state back; what sequence 0 has had since then is forgotten there."""
        flags = _PARTIAL_ONLY | (_ON_DEVICE if on_device else 0)
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if C.llama_state_seq_set_data_ext(self.handle, data, len(state), 0, flags) != len(state):
            raise BackendError(f"the model's state could not be restored{log.reason()}")

    def evaluate_again(self, tokens: Int32Array, position: int) -> None:
        """Evaluates tokens on sequence 0 whose logits are known; those of the last batch stay."""
        rows, seconds = self._num_rows, self.decode_seconds
        self.decode_prompt(tokens, position, logits=False)
        self._num_rows, self.decode_seconds = rows, seconds

    def close(self) -> None:
        """Frees the cache; doing it twice is harmless."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            C.llama_free(handle)
