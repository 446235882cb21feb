"""A model's weights and vocabulary."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sssd_local.config import ModelConfig
from sssd_local.draft.tree import Int32Array
from sssd_local.engine.backend import C, caught_in_callbacks, log
from sssd_local.engine.lora import Adapters
from sssd_local.errors import BackendError, ModelError
from sssd_local.gguf_cache import CacheShape, cache_shape
from sssd_local.gguf_check import alphabet, check_model_file
from sssd_local.gguf_file import Header

# The architectures of llama.cpp whose graphs read position_embd (llama.cpp, src/models).
LEARNED_POSITIONS = frozenset({"gpt2", "mpt", "starcoder"})

# LLAMA_SPLIT_MODE_NONE of llama.h.
_SPLIT_NONE = 0

logger = logging.getLogger("sssd_local")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a loaded model says about itself."""

    architecture: str
    description: str
    num_vocab: int
    num_parameters: int
    size_bytes: int
    trained_ctx: int
    sliding_window: int
    cache: CacheShape
    recurrent: bool
    learned_positions: bool
    add_bos: bool
    bos: str
    eos: str
    chat_template: str | None


class Model:
    """A GGUF's weights and vocabulary in memory.

    `progress(fraction)` is called while loading; an exception it raises (Ctrl-C too) ends the load
    and comes out of the constructor. Raises ModelError with llama.cpp's reason.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: ModelConfig,
        progress: Callable[[float], None] | None = None,
        *,
        vocab_only: bool = False,
        header: Header | None = None,
    ) -> None:
        """`vocab_only` loads no weights: enough to tokenise, not to answer.

        `header` is the file's, already checked, where somebody has read it.
        """
        self.path = Path(path)
        self._vocab_only = vocab_only
        self._handle: Any = None
        self._header = header or check_model_file(self.path)
        self._alphabet = alphabet(self._header)
        log.start(config.verbose)
        self.gpu = bool(C.llama_supports_gpu_offload())
        self.gpu_layers = self._gpu_layers(config.gpu_layers)
        self._handle = self._load(config, progress)
        self._vocab = C.llama_model_get_vocab(self._handle)
        self.facts = self._read_facts()
        self.adapters = self._load_adapters(config.lora)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def _gpu_layers(self, wanted: int | None) -> int:
        if not self.gpu:
            if wanted:
                logger.warning("this llama.cpp build has no GPU support; --gpu-layers is ignored")
            return 0
        return -1 if wanted is None else wanted

    def _load_adapters(self, paths: tuple[tuple[str, float], ...]) -> Adapters:
        try:
            return Adapters(self._handle, self.facts.architecture, paths)
        except BaseException:
            self.close()
            raise

    def _load(self, config: ModelConfig, progress: Callable[[float], None] | None) -> Any:
        interruption: list[BaseException] = []

        def report(fraction: float, _: object) -> bool:
            try:
                if progress is not None:
                    progress(fraction)
            except BaseException as error:  # noqa: BLE001 - ctypes would print and lose it
                interruption.append(error)
            return not interruption

        callback = C.llama_progress_callback(report)
        params = C.llama_model_default_params()
        params.n_gpu_layers = self.gpu_layers
        params.vocab_only = self._vocab_only
        self._choose_gpus(params, config)
        params.progress_callback = callback
        with caught_in_callbacks(interruption):
            handle = C.llama_model_load_from_file(os.fsencode(self.path), params)
        if interruption:
            if handle:
                C.llama_model_free(handle)
            raise interruption[0]
        if not handle:
            raise ModelError(f"{self.path} cannot be loaded{log.reason()}; the file may be damaged")
        return handle

    def _choose_gpus(self, params: Any, config: ModelConfig) -> None:
        if config.main_gpu is None and not config.tensor_split:
            return
        if not self.gpu:
            logger.warning("this llama.cpp build has no GPU support; the choice of GPUs is ignored")
            return
        if config.main_gpu is not None:
            params.main_gpu = config.main_gpu
            # Alone it names the one GPU to use (llama.h).
            if not config.tensor_split:
                params.split_mode = _SPLIT_NONE
        if config.tensor_split:
            num_devices = C.llama_max_devices()
            if len(config.tensor_split) > num_devices:
                raise ModelError(
                    f"tensor_split has {len(config.tensor_split)} shares, "
                    f"this llama.cpp build knows at most {num_devices} GPUs"
                )
            # The array must live until the model is loaded.
            self._shares = (ctypes.c_float * num_devices)(*config.tensor_split)
            params.tensor_split = self._shares

    def _read_facts(self) -> ModelFacts:
        architecture = self._metadata("general.architecture") or "unknown"
        if not C.llama_model_has_decoder(self._handle) or C.llama_model_has_encoder(self._handle):
            raise ModelError(f"{self.path} is a {architecture} model, which does not write text")
        recurrent = bool(
            C.llama_model_is_recurrent(self._handle) or C.llama_model_is_hybrid(self._handle)
        )
        template = C.llama_model_chat_template(self._handle, None)
        text = ctypes.create_string_buffer(256)
        C.llama_model_desc(self._handle, text, 256)
        return ModelFacts(
            architecture=architecture,
            description=text.value.decode("utf-8", "replace"),
            num_vocab=C.llama_vocab_n_tokens(self._vocab),
            num_parameters=C.llama_model_n_params(self._handle),
            size_bytes=C.llama_model_size(self._handle),
            trained_ctx=C.llama_model_n_ctx_train(self._handle),
            sliding_window=C.llama_model_n_swa(self._handle),
            cache=cache_shape(self._header),
            recurrent=recurrent,
            learned_positions=architecture in LEARNED_POSITIONS,
            add_bos=bool(C.llama_vocab_get_add_bos(self._vocab)),
            bos=self._special_text(C.llama_vocab_bos(self._vocab)),
            eos=self._special_text(C.llama_vocab_eos(self._vocab)),
            chat_template=template.decode("utf-8", "replace") if template else None,
        )

    def _metadata(self, key: str) -> str | None:
        text = ctypes.create_string_buffer(1024)
        size = C.llama_model_meta_val_str(self._handle, key.encode(), text, len(text))
        return text.value.decode("utf-8", "replace") if size >= 0 else None

    def _special_text(self, token: int) -> str:
        return self._read_piece(token, True).decode("utf-8", "replace") if token >= 0 else ""

    def is_eog(self, token: int) -> bool:
        """True for tokens that end an answer, and for NO_TOKEN."""
        found = self._ends.get(token)
        if found is None:
            found = self._ends[token] = token < 0 or bool(C.llama_vocab_is_eog(self._vocab, token))
        return found

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Int32Array:
        """Token ids of a text, int32 [n]; `add_special` adds BOS where the model wants it."""
        self._check_open()
        unknown = self._alphabet.unknown(text)
        if unknown is not None:
            raise ModelError(f"the vocabulary of {self.path} has no token for {unknown!r}")
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        while True:
            ids = np.empty(room, np.int32)
            pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            count = C.llama_tokenize(
                self._vocab, data, len(data), pointer, room, add_special, parse_special
            )
            if count >= 0:
                return ids[:count].copy()
            if -count <= room:
                raise BackendError("the text is too long to be tokenised")
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; control tokens stand for none."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._read_piece(token, False)
        return found

    def _read_piece(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            text = ctypes.create_string_buffer(room)
            size = C.llama_token_to_piece(self._vocab, token, text, room, 0, special)
            if size >= 0:
                return text.raw[:size]
            room = -size

    def _check_open(self) -> None:
        if self._handle is None:
            raise BackendError("the model is closed")

    @property
    def uses_gpu(self) -> bool:
        """True when layers of it are on a GPU."""
        return self.gpu and self.gpu_layers != 0

    @property
    def handle(self) -> Any:
        """llama.cpp's model pointer."""
        self._check_open()
        return self._handle

    @property
    def vocab(self) -> Any:
        """llama.cpp's vocabulary pointer."""
        self._check_open()
        return self._vocab

    def close(self) -> None:
        """Frees the weights; doing it twice is harmless."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            C.llama_model_free(handle)
