"""Writes a trained checkpoint as GGUF: llama architecture, the tokenizer and the chat template.

python -m models.export FOLDER/checkpoint.pt sssd_local/data/tiny.gguf --quant Q8_0
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models import tokenizer
from models.tensors import QUANTS, Tensor, write_gguf

# llama.cpp's token types: 1 normal, 3 control.
_NORMAL, _CONTROL = 1, 3
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}
DESCRIPTION = (
    "A very small chat model that demonstrates sssd-local without a download. Trained by "
    "models/train.py on text of the project's own generator; it knows next to nothing."
)


def export(
    shape: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    quant: str = "Q8_0",
) -> Path:
    """Writes a model file of float32 weights by their GGUF names, matrices as [rows, columns].

    The output matrix is the embedding, as llama.cpp takes it where `output.weight` is missing.
    Raises ConfigError for a quant that the rows cannot have.
    """
    tensors = [
        Tensor(name, values.shape, _filled(values), quantise=values.ndim == 2)
        for name, values in weights.items()
    ]
    metadata = {**_general(quant), **_architecture(shape), **tokenizer_metadata()}
    return write_gguf(path, "llama", metadata, tensors, quant=quant)


def _filled(values: np.ndarray) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    return lambda _, __: np.ascontiguousarray(values, dtype=np.float32)


def _general(quant: str) -> dict[str, Any]:
    return {
        "general.name": "tiny",
        "general.author": "sssd-local contributors",
        "general.license": "MIT",
        "general.description": DESCRIPTION,
        "general.languages": ["en"],
        "general.tags": ["text-generation", "demonstration"],
        "general.file_type": _FILE_TYPES[quant],
        "general.quantization_version": 2,
    }


def _architecture(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "llama.context_length": shape["ctx_length"],
        "llama.vocab_size": shape["num_tokens"],
        "llama.embedding_length": shape["n_embd"],
        "llama.block_count": shape["n_layer"],
        "llama.feed_forward_length": shape["n_ff"],
        "llama.attention.head_count": shape["n_head"],
        "llama.attention.head_count_kv": shape["n_head"],
        "llama.attention.layer_norm_rms_epsilon": shape["norm_epsilon"],
        "llama.rope.dimension_count": shape["n_embd"] // shape["n_head"],
        "llama.rope.freq_base": shape["rope_base"],
    }


def tokenizer_metadata() -> dict[str, Any]:
    """The committed tokenizer as llama.cpp reads it: `gpt2` kind, END closes a turn."""
    saved = tokenizer.read_file()
    pieces = [*saved["pieces"], *tokenizer.SPECIAL]
    end = pieces.index(tokenizer.END)
    kinds = [_CONTROL if piece in tokenizer.SPECIAL else _NORMAL for piece in pieces]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": tokenizer.PRE,
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [f"{first} {second}" for first, second in saved["merges"]],
        # llama.cpp assumes id 11 where there is none; it is never added.
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.eot_token_id": end,
        "tokenizer.ggml.padding_token_id": end,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": tokenizer.CHAT_TEMPLATE,
    }


def main() -> None:
    """Exports the averaged weights of a checkpoint of models.train."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quant", choices=list(QUANTS), default="Q8_0")
    chosen = parser.parse_args()
    import torch

    state = torch.load(chosen.checkpoint, map_location="cpu", weights_only=True)
    weights = {name: value.numpy() for name, value in state["average"].items()}
    path = export(state["shape"], weights, chosen.model, quant=chosen.quant)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, after {state['tokens']:,} tokens")


if __name__ == "__main__":
    main()
