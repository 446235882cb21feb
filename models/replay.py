"""A model of any size whose greedy answer is a given text, at the real cost of its size.

The model is a GPT-2, because that architecture has learned absolute positions. Every token has a
random ±1 code, its row of `output.weight`. The token embeddings are zero and row p of
`position_embd.weight` is a large multiple of the code of the token that must follow position p, so
that whatever the random layers between add, the final norm hands that code to the output matrix
and its token wins. `position_embd.weight` stays float32; rewriting it is all another text needs.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import gguf
import llama_cpp
import numpy as np
from gguf.gguf_writer import GGUFValue

from models.tensors import Tensor, constant, gpt2_tensors, write_gguf
from sssd_local.config import unknown_name
from sssd_local.errors import ConfigError, ContextFullError, ModelError

CODES = "output.weight"
POSITIONS = "position_embd.weight"
# The layers together add about 1 per dimension and layer to the residual stream.
POSITION_SCALE = 100.0
# Files in a cache have room for a multiple of this, so that one serves many runs.
CTX_STEP = 4096
# Types that llama.cpp's quantiser can write, that it repacks or that users have.
QUANTS = ("F16", "Q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS")


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a replay model; heads share keys as in the models it stands for."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int

    @property
    def n_kv(self) -> int:
        """The width of the keys, and of the values."""
        return self.n_embd // self.n_head * self.n_head_kv


SHAPES = {
    "tiny": Shape(n_embd=256, n_layer=2, n_head=4, n_head_kv=2, n_ff=512),
    "150m": Shape(n_embd=768, n_layer=20, n_head=12, n_head_kv=4, n_ff=3072),
    "1b": Shape(n_embd=2048, n_layer=22, n_head=32, n_head_kv=8, n_ff=8192),
    "3b": Shape(n_embd=3072, n_layer=30, n_head=24, n_head_kv=8, n_ff=12288),
}


def write_replay_model(
    path: str | os.PathLike[str],
    vocab_gguf: str | os.PathLike[str],
    shape: str,
    quant: str,
    n_ctx: int,
    *,
    num_threads: int = 2,
) -> Path:
    """Writes a replay model with the tokenizer of another GGUF and room for `n_ctx` tokens.

    The body is quantised by llama.cpp itself. Raises ConfigError for an unknown shape or quant and
    ModelError when the vocabulary cannot be used or the quantiser fails.
    """
    for kind, name, known in (("shape", shape, list(SHAPES)), ("quant", quant, list(QUANTS))):
        if name not in known:
            raise ConfigError(f"{unknown_name(kind, name, known)}; known are {', '.join(known)}")
    tokenizer = _tokenizer_of(vocab_gguf)
    num_tokens = len(tokenizer["tokenizer.ggml.tokens"].value)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    plain = target.with_name(f"{target.name}.f16.part")
    quantised = target.with_name(f"{target.name}.part")
    try:
        metadata = _settings(SHAPES[shape], num_tokens, n_ctx) | tokenizer
        tensors = _replay_tensors(SHAPES[shape], num_tokens, n_ctx)
        write_gguf(plain, "gpt2", metadata, tensors, quant="F16")
        if quant == "F16":
            plain.replace(target)
        else:
            _quantise(plain, quantised, quant, num_threads)
            quantised.replace(target)
    finally:
        plain.unlink(missing_ok=True)
        quantised.unlink(missing_ok=True)
    return target


def cached_replay_model(
    cache: str | os.PathLike[str],
    vocab_gguf: str | os.PathLike[str],
    shape: str,
    quant: str,
    n_ctx: int,
    *,
    num_threads: int = 2,
) -> Path:
    """The replay model in a cache folder, written on first use; its context may be longer.

    The vocabulary's content is part of the name, so a changed one is not mixed up.
    """
    with open(vocab_gguf, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    n_ctx = -(-n_ctx // CTX_STEP) * CTX_STEP
    path = Path(cache) / f"replay-{shape}-{quant}-{n_ctx}-{digest}.gguf"
    if path.exists():
        return path
    return write_replay_model(path, vocab_gguf, shape, quant, n_ctx, num_threads=num_threads)


class ReplayFile:
    """A replay model's file, opened once to set many texts; use it as a context manager.

    Writing goes through a shared mapping, so a process that has mapped the file (llama.cpp's
    default) sees the new text at once where the operating system keeps mappings coherent.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        reader = gguf.GGUFReader(self.path, "r+")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        if reader.fields["general.architecture"].contents() != "gpt2" or POSITIONS not in tensors:
            raise ModelError(f"{self.path} is no replay model; write one with write_replay_model")
        self._reader: Any = reader
        self._codes: Any = tensors[CODES]
        self._positions: np.ndarray = tensors[POSITIONS].data
        self.eos = int(reader.fields["tokenizer.ggml.eos_token_id"].contents())
        self.num_tokens = len(self._codes.data)
        self.n_ctx = len(self._positions)

    def set_text(self, tokens: Sequence[int] | np.ndarray, start_position: int) -> None:
        """Makes `tokens` the greedy answer whose first token stands at `start_position`.

        So the prompt must have exactly `start_position` tokens, of whatever value. EOS follows
        the text. The file keeps its time stamp, so that what was measured for it still holds.
        Raises ContextFullError when the text does not fit and ConfigError for bad ids.
        """
        text = np.asarray(tokens, dtype=np.int64)
        if start_position < 1:
            raise ConfigError(f"start_position must be at least 1, got {start_position}")
        if start_position + len(text) > self.n_ctx:
            raise ContextFullError(
                f"a text of {len(text)} tokens from position {start_position} on does not fit "
                f"into the {self.n_ctx} positions of {self.path}; write it with a larger n_ctx"
            )
        if len(text) and not 0 <= text.min() <= text.max() < self.num_tokens:
            raise ConfigError(f"token ids must be from 0 to {self.num_tokens - 1}")
        times = self.path.stat()
        first = start_position - 1
        self._positions[first : first + len(text)] = self._code(text)
        self._positions[first + len(text) :] = self._code(np.array([self.eos]))
        self._reader.data.flush()
        os.utime(self.path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _code(self, tokens: np.ndarray) -> np.ndarray:
        """Rows for position_embd, read back from the quantised output matrix."""
        rows = gguf.quants.dequantize(self._codes.data[tokens], self._codes.tensor_type)
        codes: np.ndarray = np.sign(rows) * np.float32(POSITION_SCALE)
        return codes

    def close(self) -> None:
        """Gives the file up; the mapping goes when nothing refers to it any more."""
        self._reader = self._codes = None
        self._positions = np.empty((0, 0), dtype=np.float32)

    def __enter__(self) -> ReplayFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def set_text(
    path: str | os.PathLike[str], tokens: Sequence[int] | np.ndarray, start_position: int
) -> None:
    """Rewrites the answer in a replay model's file; see `ReplayFile.set_text`."""
    with ReplayFile(path) as file:
        file.set_text(tokens, start_position)


def _tokenizer_of(vocab_gguf: str | os.PathLike[str]) -> dict[str, GGUFValue]:
    try:
        fields = gguf.GGUFReader(vocab_gguf).fields
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the vocabulary {os.fspath(vocab_gguf)}: {error}") from error
    copied = {
        name: GGUFValue(field.contents(), field.types[0], field.types[-1])
        for name, field in fields.items()
        if name.startswith("tokenizer.")
    }
    for needed in ("tokenizer.ggml.tokens", "tokenizer.ggml.eos_token_id"):
        if needed not in copied:
            raise ModelError(
                f"{os.fspath(vocab_gguf)} has no {needed}; choose a GGUF with a tokenizer"
            )
    return copied


def _settings(shape: Shape, num_tokens: int, n_ctx: int) -> dict[str, Any]:
    return {
        "general.name": "replay",
        "gpt2.context_length": n_ctx,
        "gpt2.vocab_size": num_tokens,
        "gpt2.embedding_length": shape.n_embd,
        "gpt2.block_count": shape.n_layer,
        "gpt2.feed_forward_length": shape.n_ff,
        "gpt2.attention.head_count": shape.n_head,
        "gpt2.attention.head_count_kv": shape.n_head_kv,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }


def _replay_tensors(shape: Shape, num_tokens: int, n_ctx: int) -> list[Tensor]:
    fills = {"token_embd.weight": constant(0), POSITIONS: constant(0), CODES: _random_codes}
    tensors = gpt2_tensors(
        num_tokens=num_tokens,
        ctx_length=n_ctx,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_ff=shape.n_ff,
        n_kv=shape.n_kv,
    )
    return [replace(tensor, fill=fills.get(tensor.name, tensor.fill)) for tensor in tensors]


def _random_codes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.unpackbits(rng.integers(0, 256, (shape[0], shape[1] // 8), dtype=np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def _quantise(source: Path, target: Path, quant: str, num_threads: int) -> None:
    """Runs llama.cpp's quantiser, which by its own rules leaves position_embd alone."""
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant}")
    params.nthread = num_threads
    code = llama_cpp.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(params)
    )
    if code != 0:
        raise ModelError(f"llama.cpp could not quantise {source} to {quant} (code {code})")
