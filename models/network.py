"""A small llama in PyTorch, as a function of weights that have their GGUF names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom

from models.tokenizer import NUM_TOKENS

Weights = dict[str, Any]
ATTENTION_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """The model's size: a llama with all heads their own keys and tied embeddings."""

    num_tokens: int = NUM_TOKENS
    n_embd: int = 256
    n_layer: int = 8
    n_head: int = 4
    n_ff: int = 576
    ctx_length: int = 1024
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        """The width of one head."""
        return self.n_embd // self.n_head


def new_weights(shape: Shape, seed: int) -> Weights:
    """Random weights, float32."""
    generator = torch.Generator().manual_seed(seed)
    size, hidden = shape.n_embd, shape.n_ff
    residual = 0.5 / math.sqrt(shape.n_layer)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> Any:
        return torch.randn(rows, columns, generator=generator) * (scale / math.sqrt(columns))

    weights = {"token_embd.weight": torch.randn(shape.num_tokens, size, generator=generator) * 0.02}
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        weights |= {
            f"{block}.attn_norm.weight": torch.ones(size),
            f"{block}.attn_q.weight": matrix(size, size),
            f"{block}.attn_k.weight": matrix(size, size),
            f"{block}.attn_v.weight": matrix(size, size),
            f"{block}.attn_output.weight": matrix(size, size, residual),
            f"{block}.ffn_norm.weight": torch.ones(size),
            f"{block}.ffn_gate.weight": matrix(hidden, size),
            f"{block}.ffn_up.weight": matrix(hidden, size),
            f"{block}.ffn_down.weight": matrix(size, hidden, residual),
        }
    return weights | {"output_norm.weight": torch.ones(size)}


def rotations(shape: Shape, device: Any) -> tuple[Any, Any]:
    """Cosines and sines [ctx, head size / 2] of llama's rotary positions."""
    exponents = torch.arange(0, shape.head_size, 2, device=device) / shape.head_size
    angles = torch.outer(torch.arange(shape.ctx_length, device=device), shape.rope_base**-exponents)
    return angles.cos(), angles.sin()


def forward(shape: Shape, weights: Weights, tokens: Any, rotation: tuple[Any, Any]) -> Any:
    """Hidden states [batch, length, n_embd] of token ids [batch, length], before the output."""
    batch, length = tokens.shape
    states = F.embedding(tokens, weights["token_embd.weight"])
    cos, sin = (part[:length] for part in rotation)

    def norm(values: Any, name: str) -> Any:
        return F.rms_norm(values, (shape.n_embd,), weights[f"{name}.weight"], shape.norm_epsilon)

    def heads(values: Any) -> Any:
        return values.view(batch, length, shape.n_head, shape.head_size).transpose(1, 2)

    def rotate(values: Any) -> Any:
        # Neighbouring values are a pair, as llama.cpp's llama architecture has it.
        even, odd = values[..., 0::2], values[..., 1::2]
        pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return pairs.flatten(-2).to(values.dtype)

    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        x = norm(states, f"{block}.attn_norm")
        query, key, value = (
            heads(F.linear(x, weights[f"{block}.attn_{name}.weight"])) for name in "qkv"
        )
        mixed = attention(rotate(query), rotate(key), value)
        mixed = mixed.transpose(1, 2).reshape(batch, length, shape.n_embd)
        states = states + F.linear(mixed, weights[f"{block}.attn_output.weight"])
        x = norm(states, f"{block}.ffn_norm")
        gate = F.silu(F.linear(x, weights[f"{block}.ffn_gate.weight"]))
        up = F.linear(x, weights[f"{block}.ffn_up.weight"])
        states = states + F.linear(gate * up, weights[f"{block}.ffn_down.weight"])
    return norm(states, "output_norm")


def attention(query: Any, key: Any, value: Any) -> Any:
    """Causal attention over [batch, heads, length, head size]."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    # On CPUs block by block is twice as fast as torch's own, forward and backward together.
    mixed, length = [], query.shape[2]
    mask = torch.full((length, length), -torch.inf, dtype=query.dtype).triu(1)
    query = query * query.shape[-1] ** -0.5
    with torch.autocast("cpu", enabled=False):
        for start in range(0, length, ATTENTION_BLOCK):
            end = min(start + ATTENTION_BLOCK, length)
            scores = query[:, :, start:end] @ key[:, :, :end].mT + mask[start:end, :end]
            mixed.append(scores.softmax(-1) @ value[:, :, :end])
    return torch.cat(mixed, 2)
