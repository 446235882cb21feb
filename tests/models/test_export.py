"""Exported files: what llama.cpp computes from them is what PyTorch computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from models import tokenizer
from models.export import DESCRIPTION, export
from sssd_local.chat.template import ChatTemplate
from sssd_local.config import ModelConfig
from sssd_local.engine.context import Context
from sssd_local.engine.model import Model
from sssd_local.errors import ConfigError

SHAPE: dict[str, Any] = {
    "num_tokens": tokenizer.NUM_TOKENS,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "n_ff": 96,
    "ctx_length": 256,
    "rope_base": 10_000.0,
    "norm_epsilon": 1e-5,
}


def random_weights(shape: dict[str, Any] = SHAPE) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    size, hidden = shape["n_embd"], shape["n_ff"]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape["num_tokens"], size)}
    for layer in range(shape["n_layer"]):
        block = f"blk.{layer}"
        shapes |= {f"{block}.{name}_norm.weight": (size,) for name in ("attn", "ffn")}
        shapes |= {
            f"{block}.attn_{name}.weight": (size, size) for name in ("q", "k", "v", "output")
        }
        shapes |= {f"{block}.ffn_{name}.weight": (hidden, size) for name in ("gate", "up")}
        shapes[f"{block}.ffn_down.weight"] = (size, hidden)
    shapes["output_norm.weight"] = (size,)
    return {
        name: random.normal(len(dims) == 1, dims[-1] ** -0.5, dims).astype(np.float32)
        for name, dims in shapes.items()
    }


def test_metadata_names_licence_author_and_template(tmp_path: Path) -> None:
    path = export(SHAPE, random_weights(), tmp_path / "m.gguf")
    fields = gguf.GGUFReader(path).fields
    expected = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "general.license": "MIT",
        "general.author": "sssd-local contributors",
        "general.description": DESCRIPTION,
        "general.file_type": 7,
        "llama.context_length": 256,
        "llama.block_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 32,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.eos_token_id": 4095,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: fields[name].contents() for name in expected} == expected


def test_the_template_writes_turns_as_they_were_trained() -> None:
    template = ChatTemplate(tokenizer.CHAT_TEMPLATE, bos="", eos=tokenizer.END)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    assert template.render(messages) == (
        "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hello!<|end|>"
        "<|user|>Bye<|end|><|assistant|>"
    )


@pytest.mark.parametrize("quant", ["Q8_0", "F16", "F32"])
def test_matrices_have_the_type_asked_for_and_vectors_are_f32(tmp_path: Path, quant: str) -> None:
    path = export(SHAPE, random_weights(), tmp_path / "m.gguf", quant=quant)
    for tensor in gguf.GGUFReader(path).tensors:
        expected = "F32" if len(tensor.shape) == 1 else quant
        assert tensor.tensor_type.name == expected
    assert "output.weight" not in {tensor.name for tensor in gguf.GGUFReader(path).tensors}


def test_rows_that_are_not_whole_blocks_are_refused(tmp_path: Path) -> None:
    weights = random_weights() | {"blk.0.ffn_down.weight": np.zeros((64, 100), np.float32)}
    with pytest.raises(ConfigError, match=r"blk\.0\.ffn_down\.weight has rows of 100 values"):
        export(SHAPE, weights, tmp_path / "m.gguf")


def test_llama_cpp_computes_what_training_computes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    pytest.importorskip("tokenizers", reason="needs the [train] extra")
    from models.network import Shape, forward, rotations

    weights = random_weights()
    path = export(SHAPE, weights, tmp_path / "m.gguf", quant="F32")
    tokens = np.random.default_rng(1).integers(0, 4000, 200).astype(np.int32)
    config = ModelConfig(ctx=256, kv_type="f32")
    model = Model(path, config)
    context = Context(model, config, 1, 1)
    context.decode_prompt(tokens, 0, logits=True)
    got = context.logits[-1].copy()
    context.close()
    model.close()
    shape = Shape(**SHAPE)
    tensors = {name: torch.from_numpy(values) for name, values in weights.items()}
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    states = forward(shape, tensors, ids, rotations(shape, "cpu"))
    expected = (states[0, -1] @ tensors["token_embd.weight"].T).numpy()
    assert got == pytest.approx(expected, abs=2e-3)
