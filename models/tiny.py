"""Random-weight models of less than 1 MB, one per kind of architecture, for offline tests.

Every writer takes a path and the fields of `TinyOptions`, and returns the path. Hyperparameters and
tensor names are those llama.cpp reads (llama-arch.cpp, models/*.cpp).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from models.tensors import (
    QUANTS,
    Tensor,
    gpt2_tensors,
    matrix,
    normal,
    vector,
    write_gguf,
)
from sssd_local.errors import ConfigError

N_EMBD = 64
N_LAYER = 2
# Heads of 32 values, so that a q8_0 cache has whole blocks.
N_HEAD = 2
N_HEAD_KV = 1
HEAD_SIZE = N_EMBD // N_HEAD
N_FF = 128
LOGIT_SPREAD = 4.0

UNKNOWN, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3
FIRST_PIECE = FIRST_BYTE + 256
LETTERS = "etaoinshrdlucmfwypvbgkqjxz"
ENGLISH = "he in th an er re on nd ▁t ▁a ▁s ▁w ▁the ▁and ing ▁to ▁of ▁th at en is it or ou ed es"
MAX_TOKENS = FIRST_PIECE + 1 + len(LETTERS) + len(LETTERS) ** 2

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyOptions:
    """What may differ between tiny models; raises ConfigError for impossible values.

    At `weight_scale` 1 greedy answers vary but come back to things said before, so drafts are
    accepted now and then; at 3 they are chaotic.
    """

    seed: int = 0
    quant: str = "F32"
    num_tokens: int = 320
    ctx_length: int = 512
    weight_scale: float = 1.0
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.quant not in QUANTS:
            raise ConfigError(f"quant must be one of {', '.join(QUANTS)}, got {self.quant!r}")
        if not FIRST_PIECE <= self.num_tokens <= MAX_TOKENS:
            raise ConfigError(
                f"num_tokens must be from {FIRST_PIECE} (the byte tokens) to {MAX_TOKENS}, "
                f"got {self.num_tokens}"
            )


def write_tiny_llama(path: str | os.PathLike[str], **options: Any) -> Path:
    """A dense llama whose query heads share a key-value head."""
    chosen = TinyOptions(**options)
    tensors = [
        tensor
        for layer in range(N_LAYER)
        for tensor in (
            *attention(f"blk.{layer}", chosen.weight_scale),
            *gated_ffn(f"blk.{layer}", chosen.weight_scale),
        )
    ]
    return write_model(path, "llama", transformer_settings(), with_ends(tensors, chosen), chosen)


def write_tiny_moe(
    path: str | os.PathLike[str], *, num_experts: int = 4, num_used: int = 2, **options: Any
) -> Path:
    """A llama with a mixture of experts in every layer (Mixtral)."""
    chosen = TinyOptions(**options)
    tensors = [
        tensor
        for layer in range(N_LAYER)
        for tensor in (
            *attention(f"blk.{layer}", chosen.weight_scale),
            *expert_ffn(f"blk.{layer}", num_experts, chosen.weight_scale),
        )
    ]
    settings = transformer_settings() | {
        "feed_forward_length": N_FF // 2,
        "expert_count": num_experts,
        "expert_used_count": num_used,
    }
    return write_model(path, "llama", settings, with_ends(tensors, chosen), chosen)


def write_tiny_gemma(path: str | os.PathLike[str], *, window: int = 32, **options: Any) -> Path:
    """A Gemma 3: the first layer sees a sliding window of `window` tokens, the second all."""
    chosen = TinyOptions(**options)
    tensors = [
        tensor
        for layer in range(N_LAYER)
        for tensor in (
            *attention(f"blk.{layer}", chosen.weight_scale),
            *head_norms(f"blk.{layer}"),
            vector(f"blk.{layer}.post_attention_norm.weight", N_EMBD, 1),
            *gated_ffn(f"blk.{layer}", chosen.weight_scale),
            vector(f"blk.{layer}.post_ffw_norm.weight", N_EMBD, 1),
        )
    ]
    settings = transformer_settings() | {
        "attention.key_length": HEAD_SIZE,
        "attention.value_length": HEAD_SIZE,
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": 2,
    }
    return write_model(path, "gemma3", settings, with_ends(tensors, chosen), chosen)


def write_tiny_mamba(path: str | os.PathLike[str], **options: Any) -> Path:
    """A Mamba: recurrent, without a key-value cache."""
    chosen = TinyOptions(**options)
    tensors = [
        tensor
        for layer in range(N_LAYER)
        for tensor in _mamba_block(f"blk.{layer}", chosen.weight_scale)
    ]
    settings = {
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * N_EMBD,
        "ssm.state_size": 16,
        "ssm.time_step_rank": 4,
    }
    return write_model(path, "mamba", settings, with_ends(tensors, chosen), chosen)


def write_tiny_lfm2(path: str | os.PathLike[str], **options: Any) -> Path:
    """A hybrid LFM2: the first layer is a short convolution, the second attention."""
    chosen = TinyOptions(**options)
    scale = chosen.weight_scale
    tensors = [
        *_short_convolution("blk.0", scale),
        *gated_ffn("blk.0", scale),
        *attention("blk.1", scale),
        *head_norms("blk.1"),
        *gated_ffn("blk.1", scale),
    ]
    settings = transformer_settings() | {
        "attention.head_count_kv": [0, N_HEAD_KV],
        "shortconv.l_cache": 3,
    }
    whole = with_ends(tensors, chosen, final_norm="token_embd_norm")
    return write_model(path, "lfm2", settings, whole, chosen)


def write_tiny_gpt2(path: str | os.PathLike[str], **options: Any) -> Path:
    """A GPT-2: learned absolute positions, so its context cannot exceed `ctx_length`."""
    chosen = TinyOptions(**options)
    tensors = gpt2_tensors(
        num_tokens=chosen.num_tokens,
        ctx_length=chosen.ctx_length,
        n_embd=N_EMBD,
        n_layer=N_LAYER,
        n_ff=N_FF,
        n_kv=N_EMBD,
        scale=chosen.weight_scale,
        logit_spread=LOGIT_SPREAD,
    )
    settings = {
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.layer_norm_epsilon": 1e-5,
    }
    return write_model(path, "gpt2", settings, tensors, chosen)


def tokenizer_metadata(num_tokens: int) -> dict[str, Any]:
    """A SentencePiece vocabulary that encodes any text: byte tokens, letters, bits of English.

    No space is put before a text, so tokenising and detokenising gives the text back.
    """
    letters = ["▁", *LETTERS]
    pairs = map("".join, product(LETTERS, repeat=2))
    every_piece = dict.fromkeys([*letters, *ENGLISH.split(), *pairs])
    pieces = list(islice(every_piece, num_tokens - FIRST_PIECE))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * FIRST_PIECE + [-float(i) for i in range(len(pieces))],
        # llama.cpp's token types: 1 normal, 2 unknown, 3 control, 6 byte.
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.unknown_token_id": UNKNOWN,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }


def write_model(
    path: str | os.PathLike[str],
    architecture: str,
    settings: Mapping[str, Any],
    tensors: Sequence[Tensor],
    options: TinyOptions,
) -> Path:
    metadata = {
        # Not the architecture's: llama.cpp expects more of a vocabulary where the name is "phi3".
        "general.name": "tiny model",
        f"{architecture}.context_length": options.ctx_length,
        f"{architecture}.vocab_size": options.num_tokens,
        **{f"{architecture}.{key}": value for key, value in settings.items()},
        **tokenizer_metadata(options.num_tokens),
    }
    if options.chat_template is not None:
        metadata["tokenizer.chat_template"] = options.chat_template
    return write_gguf(path, architecture, metadata, tensors, quant=options.quant, seed=options.seed)


def transformer_settings() -> dict[str, Any]:
    return {
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HEAD_SIZE,
        "rope.freq_base": 10000.0,
    }


def with_ends(
    tensors: Sequence[Tensor], options: TinyOptions, final_norm: str = "output_norm"
) -> list[Tensor]:
    return [
        Tensor("token_embd.weight", (options.num_tokens, N_EMBD), normal(1.0), quantise=True),
        *tensors,
        vector(f"{final_norm}.weight", N_EMBD, 1),
        matrix("output.weight", options.num_tokens, N_EMBD, LOGIT_SPREAD),
    ]


def attention(block: str, scale: float) -> list[Tensor]:
    return [
        vector(f"{block}.attn_norm.weight", N_EMBD, 1),
        matrix(f"{block}.attn_q.weight", N_EMBD, N_EMBD, scale),
        matrix(f"{block}.attn_k.weight", N_HEAD_KV * HEAD_SIZE, N_EMBD, scale),
        matrix(f"{block}.attn_v.weight", N_HEAD_KV * HEAD_SIZE, N_EMBD, scale),
        matrix(f"{block}.attn_output.weight", N_EMBD, N_EMBD, scale),
    ]


def head_norms(block: str) -> list[Tensor]:
    return [
        vector(f"{block}.attn_q_norm.weight", HEAD_SIZE, 1),
        vector(f"{block}.attn_k_norm.weight", HEAD_SIZE, 1),
    ]


def gated_ffn(block: str, scale: float) -> list[Tensor]:
    return [
        vector(f"{block}.ffn_norm.weight", N_EMBD, 1),
        matrix(f"{block}.ffn_gate.weight", N_FF, N_EMBD, scale),
        matrix(f"{block}.ffn_up.weight", N_FF, N_EMBD, scale),
        matrix(f"{block}.ffn_down.weight", N_EMBD, N_FF, scale),
    ]


def expert_ffn(block: str, num_experts: int, scale: float) -> list[Tensor]:
    width = N_FF // 2

    def experts(name: str, rows: int, columns: int) -> Tensor:
        one = matrix(f"{block}.{name}.weight", rows, columns, scale)
        return Tensor(one.name, (num_experts, rows, columns), one.fill, quantise=True)

    return [
        vector(f"{block}.ffn_norm.weight", N_EMBD, 1),
        Tensor(f"{block}.ffn_gate_inp.weight", (num_experts, N_EMBD), normal(N_EMBD**-0.5)),
        experts("ffn_gate_exps", width, N_EMBD),
        experts("ffn_up_exps", width, N_EMBD),
        experts("ffn_down_exps", N_EMBD, width),
    ]


def _mamba_block(block: str, scale: float) -> list[Tensor]:
    inner, state, rank = 2 * N_EMBD, 16, 4
    return [
        vector(f"{block}.attn_norm.weight", N_EMBD, 1),
        matrix(f"{block}.ssm_in.weight", 2 * inner, N_EMBD, scale),
        Tensor(f"{block}.ssm_conv1d.weight", (inner, 4), normal(0.5)),
        vector(f"{block}.ssm_conv1d.bias", inner, 0),
        matrix(f"{block}.ssm_x.weight", rank + 2 * state, inner),
        Tensor(f"{block}.ssm_dt.weight", (inner, rank), normal(rank**-0.5)),
        vector(f"{block}.ssm_dt.bias", inner, -2),
        # Negative, so that the state decays.
        Tensor(f"{block}.ssm_a", (inner, state), _decays),
        vector(f"{block}.ssm_d", inner, 1),
        matrix(f"{block}.ssm_out.weight", N_EMBD, inner, scale),
    ]


def _decays(_: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(-np.arange(1, shape[1] + 1, dtype=np.float32), shape).copy()


def _short_convolution(block: str, scale: float) -> list[Tensor]:
    return [
        vector(f"{block}.attn_norm.weight", N_EMBD, 1),
        Tensor(f"{block}.shortconv.conv.weight", (N_EMBD, 3), normal(0.5)),
        matrix(f"{block}.shortconv.in_proj.weight", 3 * N_EMBD, N_EMBD, scale),
        matrix(f"{block}.shortconv.out_proj.weight", N_EMBD, N_EMBD, scale),
    ]
