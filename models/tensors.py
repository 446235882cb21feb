"""A model file as a list of named tensors with a rule that fills each, written one at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.gguf_writer import GGUFValue

from sssd_local.errors import ConfigError

Fill = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

QUANTS: dict[str, Any] = {
    name: gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_0")
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `shape` is rows first as in numpy, `fill` makes its float32 values."""

    name: str
    shape: tuple[int, ...]
    fill: Fill
    quantise: bool = False


def normal(std: float) -> Fill:
    """Gaussian values with mean 0."""

    def fill(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)

    return fill


def constant(value: float) -> Fill:
    """The same value everywhere."""
    return lambda _, shape: np.full(shape, value, dtype=np.float32)


def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> Tensor:
    """A random weight matrix [rows, columns] that maps unit-variance input to variance scale²."""
    return Tensor(name, (rows, columns), normal(scale / math.sqrt(columns)), quantise=True)


def vector(name: str, size: int, value: float) -> Tensor:
    """A constant vector: the weight (1) or bias (0) of a norm, or a bias."""
    return Tensor(name, (size,), constant(value))


def gpt2_tensors(
    *,
    num_tokens: int,
    ctx_length: int,
    n_embd: int,
    n_layer: int,
    n_ff: int,
    n_kv: int,
    scale: float = 1.0,
    logit_spread: float = 1.0,
) -> list[Tensor]:
    """The tensors of a GPT-2 model with its own output matrix (llama.cpp: models/gpt2.cpp).

    `n_kv` is the width of the keys, less than `n_embd` where heads share them; `logit_spread` is
    the standard deviation of the logits.
    """
    tensors = [
        Tensor("token_embd.weight", (num_tokens, n_embd), normal(1.0), quantise=True),
        Tensor("position_embd.weight", (ctx_length, n_embd), normal(1.0)),
    ]
    for layer in range(n_layer):
        block = f"blk.{layer}"
        tensors += [
            vector(f"{block}.attn_norm.weight", n_embd, 1),
            vector(f"{block}.attn_norm.bias", n_embd, 0),
            matrix(f"{block}.attn_qkv.weight", n_embd + 2 * n_kv, n_embd, scale),
            vector(f"{block}.attn_qkv.bias", n_embd + 2 * n_kv, 0),
            matrix(f"{block}.attn_output.weight", n_embd, n_embd, scale),
            vector(f"{block}.attn_output.bias", n_embd, 0),
            vector(f"{block}.ffn_norm.weight", n_embd, 1),
            vector(f"{block}.ffn_norm.bias", n_embd, 0),
            matrix(f"{block}.ffn_up.weight", n_ff, n_embd, scale),
            vector(f"{block}.ffn_up.bias", n_ff, 0),
            matrix(f"{block}.ffn_down.weight", n_embd, n_ff, scale),
            vector(f"{block}.ffn_down.bias", n_embd, 0),
        ]
    return [
        *tensors,
        vector("output_norm.weight", n_embd, 1),
        vector("output_norm.bias", n_embd, 0),
        matrix("output.weight", num_tokens, n_embd, logit_spread),
    ]


def as_value(value: Any) -> GGUFValue:
    """Gives a Python value the GGUF type llama.cpp expects (uint32, float32, bool, text, array)."""
    if isinstance(value, GGUFValue):
        return value
    if isinstance(value, list):
        return GGUFValue(value, gguf.GGUFValueType.ARRAY)
    kinds = gguf.GGUFValueType
    by_type = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}
    return GGUFValue(value, by_type[type(value)])


def write_gguf(
    path: str | os.PathLike[str],
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor],
    *,
    quant: str = "F32",
    seed: int = 0,
) -> Path:
    """Writes a GGUF file and returns its path; only one tensor is in memory at a time.

    `quant` (F32, F16, Q8_0, Q4_0) is the type of the tensors that may be quantised; the others
    are float32. Raises ConfigError for another type or a row that is not whole blocks.
    """
    writer = gguf.GGUFWriter(os.fspath(path), architecture)
    for key, value in metadata.items():
        typed = as_value(value)
        writer.add_key_value(key, typed.value, typed.type, sub_type=typed.sub_type)
    kinds = [_tensor_type(tensor, quant) for tensor in tensors]
    for tensor, kind in zip(tensors, kinds, strict=True):
        num_bytes = math.prod(gguf.quant_shape_to_byte_shape(tensor.shape, kind))
        writer.add_tensor_info(tensor.name, tensor.shape, np.float32, num_bytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        rng = np.random.default_rng(seed)
        for tensor, kind in zip(tensors, kinds, strict=True):
            writer.write_tensor_data(gguf.quants.quantize(tensor.fill(rng, tensor.shape), kind))
    finally:
        writer.close()
    return Path(path)


def _tensor_type(tensor: Tensor, quant: str) -> Any:
    if quant not in QUANTS:
        raise ConfigError(f"quant must be one of {', '.join(QUANTS)}, got {quant!r}")
    kind = QUANTS[quant if tensor.quantise else "F32"]
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % block_size:
        raise ConfigError(
            f"{tensor.name} has rows of {tensor.shape[-1]} values, "
            f"which {kind.name} cannot hold in blocks of {block_size}"
        )
    return kind
