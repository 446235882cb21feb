"""Further tiny models: dense ones beside llama, and hybrids of attention and recurrent layers.

Same options and sizes as in models/tiny.py; tensors and keys as in llama.cpp's src/models/*.cpp.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from models.tensors import Tensor, matrix, normal, vector
from models.tiny import (
    HEAD_SIZE,
    N_EMBD,
    N_FF,
    N_HEAD_KV,
    N_LAYER,
    TinyOptions,
    attention,
    expert_ffn,
    gated_ffn,
    head_norms,
    transformer_settings,
    with_ends,
    write_model,
)

N_KV = N_HEAD_KV * HEAD_SIZE
# A gated delta net: heads of this many values, and the taps of its convolution.
STATE, STATE_HEADS, CONV = 16, 2, 4
INNER = STATE * STATE_HEADS
# A Mamba 2 of the same inner size: one group of keys for all its heads.
MAMBA_WIDTH = INNER + 2 * STATE


def write_tiny_qwen2(path: str | os.PathLike[str], **options: Any) -> Path:
    """A Qwen 2: a llama whose queries, keys and values have biases."""
    chosen = TinyOptions(**options)
    tensors = []
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        tensors += [
            *attention(block, chosen.weight_scale),
            Tensor(f"{block}.attn_q.bias", (N_EMBD,), normal(0.5)),
            Tensor(f"{block}.attn_k.bias", (N_KV,), normal(0.5)),
            Tensor(f"{block}.attn_v.bias", (N_KV,), normal(0.5)),
            *gated_ffn(block, chosen.weight_scale),
        ]
    return write_model(path, "qwen2", transformer_settings(), with_ends(tensors, chosen), chosen)


def write_tiny_qwen3(path: str | os.PathLike[str], **options: Any) -> Path:
    """A Qwen 3: queries and keys are normalised head by head."""
    chosen = TinyOptions(**options)
    tensors = []
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        tensors += [
            *attention(block, chosen.weight_scale),
            *head_norms(block),
            *gated_ffn(block, chosen.weight_scale),
        ]
    settings = transformer_settings() | {
        "attention.key_length": HEAD_SIZE,
        "attention.value_length": HEAD_SIZE,
    }
    return write_model(path, "qwen3", settings, with_ends(tensors, chosen), chosen)


def write_tiny_phi3(path: str | os.PathLike[str], **options: Any) -> Path:
    """A Phi 3: one matrix for queries, keys and values, and one for both halves of the FFN."""
    chosen = TinyOptions(**options)
    scale = chosen.weight_scale
    tensors = []
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        tensors += [
            vector(f"{block}.attn_norm.weight", N_EMBD, 1),
            matrix(f"{block}.attn_qkv.weight", N_EMBD + 2 * N_KV, N_EMBD, scale),
            matrix(f"{block}.attn_output.weight", N_EMBD, N_EMBD, scale),
            vector(f"{block}.ffn_norm.weight", N_EMBD, 1),
            matrix(f"{block}.ffn_up.weight", 2 * N_FF, N_EMBD, scale),
            matrix(f"{block}.ffn_down.weight", N_EMBD, N_FF, scale),
        ]
    return write_model(path, "phi3", transformer_settings(), with_ends(tensors, chosen), chosen)


def write_tiny_qwen35(path: str | os.PathLike[str], **options: Any) -> Path:
    """A hybrid Qwen 3.5: the first layer is a gated delta net, the second attention."""
    chosen = TinyOptions(**options)
    scale = chosen.weight_scale
    tensors = [
        *_delta_net("blk.0", scale),
        matrix("blk.0.ssm_beta.weight", STATE_HEADS, N_EMBD),
        matrix("blk.0.ssm_alpha.weight", STATE_HEADS, N_EMBD),
        *_gated_attention("blk.1", scale),
    ]
    for layer in range(N_LAYER):
        # The norm before the FFN has another name here.
        tensors += gated_ffn(f"blk.{layer}", scale)[1:]
    settings = _delta_net_settings() | {"rope.dimension_sections": [6, 5, 5, 0]}
    return write_model(path, "qwen35", settings, with_ends(tensors, chosen), chosen)


def write_tiny_qwen3next(path: str | os.PathLike[str], **options: Any) -> Path:
    """A hybrid Qwen 3 Next: as Qwen 3.5, with experts and an expert shared by all tokens."""
    chosen = TinyOptions(**options)
    scale, num_experts, width = chosen.weight_scale, 4, N_FF // 2
    tensors = [
        *_delta_net("blk.0", scale),
        matrix("blk.0.ssm_ba.weight", 2 * STATE_HEADS, N_EMBD),
        *_gated_attention("blk.1", scale),
    ]
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        tensors += [
            *expert_ffn(block, num_experts, scale)[1:],
            Tensor(f"{block}.ffn_gate_inp_shexp.weight", (N_EMBD,), normal(N_EMBD**-0.5)),
            matrix(f"{block}.ffn_gate_shexp.weight", width, N_EMBD, scale),
            matrix(f"{block}.ffn_up_shexp.weight", width, N_EMBD, scale),
            matrix(f"{block}.ffn_down_shexp.weight", N_EMBD, width, scale),
        ]
    settings = _delta_net_settings() | {
        "expert_count": num_experts,
        "expert_used_count": 2,
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": width,
    }
    return write_model(path, "qwen3next", settings, with_ends(tensors, chosen), chosen)


def write_tiny_nemotron_h(path: str | os.PathLike[str], **options: Any) -> Path:
    """A hybrid Nemotron-H: a layer of Mamba 2, one of attention and one feed-forward."""
    chosen = TinyOptions(**options)
    scale = chosen.weight_scale
    tensors = [
        *_mamba2("blk.0", scale),
        *attention("blk.1", scale),
        vector("blk.2.attn_norm.weight", N_EMBD, 1),
        matrix("blk.2.ffn_up.weight", N_FF, N_EMBD, scale),
        matrix("blk.2.ffn_down.weight", N_EMBD, N_FF, scale),
    ]
    settings = transformer_settings() | {
        "block_count": 3,
        "feed_forward_length": [0, 0, N_FF],
        "attention.head_count_kv": [0, N_HEAD_KV, 0],
        "attention.layer_norm_epsilon": 1e-5,
        "attention.key_length": HEAD_SIZE,
        "attention.value_length": HEAD_SIZE,
        **_state_settings(num_groups=1),
    }
    return write_model(path, "nemotron_h", settings, with_ends(tensors, chosen), chosen)


def _delta_net_settings() -> dict[str, Any]:
    return transformer_settings() | {
        "attention.key_length": HEAD_SIZE,
        "attention.value_length": HEAD_SIZE,
        "full_attention_interval": 2,
        **_state_settings(num_groups=STATE_HEADS),
    }


def _state_settings(num_groups: int) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": CONV,
        "ssm.inner_size": INNER,
        "ssm.state_size": STATE,
        "ssm.time_step_rank": STATE_HEADS,
        "ssm.group_count": num_groups,
    }


def _delta_net(block: str, scale: float) -> list[Tensor]:
    return [
        vector(f"{block}.attn_norm.weight", N_EMBD, 1),
        vector(f"{block}.post_attention_norm.weight", N_EMBD, 1),
        matrix(f"{block}.attn_qkv.weight", 3 * INNER, N_EMBD, scale),
        matrix(f"{block}.attn_gate.weight", INNER, N_EMBD, scale),
        Tensor(f"{block}.ssm_conv1d.weight", (3 * INNER, CONV), normal(0.5)),
        vector(f"{block}.ssm_dt.bias", STATE_HEADS, -2),
        vector(f"{block}.ssm_a", STATE_HEADS, -1),
        vector(f"{block}.ssm_norm.weight", STATE, 1),
        matrix(f"{block}.ssm_out.weight", N_EMBD, INNER, scale),
    ]


def _gated_attention(block: str, scale: float) -> list[Tensor]:
    """Attention whose query matrix also yields a gate for its output."""
    plain = [tensor for tensor in attention(block, scale) if "attn_q." not in tensor.name]
    return [
        *plain,
        matrix(f"{block}.attn_q.weight", 2 * N_EMBD, N_EMBD, scale),
        *head_norms(block),
        vector(f"{block}.post_attention_norm.weight", N_EMBD, 1),
    ]


def _mamba2(block: str, scale: float) -> list[Tensor]:
    return [
        vector(f"{block}.attn_norm.weight", N_EMBD, 1),
        matrix(f"{block}.ssm_in.weight", INNER + MAMBA_WIDTH + STATE_HEADS, N_EMBD, scale),
        Tensor(f"{block}.ssm_conv1d.weight", (MAMBA_WIDTH, CONV), normal(0.5)),
        vector(f"{block}.ssm_conv1d.bias", MAMBA_WIDTH, 0),
        vector(f"{block}.ssm_dt.bias", STATE_HEADS, -2),
        # One decay for each head.
        Tensor(f"{block}.ssm_a", (STATE_HEADS, 1), _head_decays),
        Tensor(f"{block}.ssm_d", (STATE_HEADS, 1), lambda _, shape: np.ones(shape, np.float32)),
        Tensor(f"{block}.ssm_norm.weight", (1, INNER), lambda _, shape: np.ones(shape, np.float32)),
        matrix(f"{block}.ssm_out.weight", N_EMBD, INNER, scale),
    ]


def _head_decays(_: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return -np.arange(1, shape[0] + 1, dtype=np.float32).reshape(shape)
