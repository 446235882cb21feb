"""What a context takes is read off the header as llama.cpp reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sssd_local.engine.ability import RECURRENT
from sssd_local.gguf_cache import CacheShape, cache_shape, sliding_window
from sssd_local.gguf_file import GGUFArray, Header


def header(architecture: str, **values: Any) -> Header:
    """A header of 4 layers, width 64, with 2 heads on 1; lists become arrays."""
    chosen: dict[str, Any] = {
        "block_count": 4,
        "embedding_length": 64,
        "attention__head_count": 2,
        "attention__head_count_kv": 1,
        **values,
    }
    metadata: dict[str, Any] = {"general.architecture": architecture}
    for key, value in chosen.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        is_list = isinstance(value, list)
        metadata[name] = GGUFArray(4, len(value), tuple(value)) if is_list else value
    return Header(Path("m.gguf"), 3, metadata, {}, (), 0, 0)


def shape(architecture: str, **values: Any) -> CacheShape:
    return cache_shape(header(architecture, **values))


def test_dense_models() -> None:
    # 4 layers × 1 key-value head × 32
    assert shape("llama") == CacheShape(128, 128)
    assert shape("llama", attention__key_length=48, attention__value_length=16).keys == 192
    assert shape("llama", attention__head_count_kv=[2, 1, 0, 1]) == CacheShape(128, 128)
    assert shape("llama").per_token == 256
    assert shape("llama").state_bytes == 0


WINDOW = {"attention__sliding_window": 16}


@pytest.mark.parametrize(
    ("found", "keys", "window_keys", "window"),
    [
        (shape("gemma3", **WINDOW), 0, 128, 16),
        (shape("gemma3", **WINDOW, block_count=6), 32, 160, 16),
        (shape("gemma3"), 128, 0, 0),
        (shape("gemma2"), 64, 64, 4096),
        (shape("gpt-oss", **WINDOW), 64, 64, 16),
        (shape("cohere2moe", **WINDOW, block_count=5), 64, 96, 16),
        (shape("gemma3", **WINDOW, attention__sliding_window_pattern=2), 64, 64, 16),
        (shape("gemma4", **WINDOW, attention__sliding_window_pattern=[1, 1, 0, 1]), 32, 96, 16),
        (shape("gemma4", **WINDOW, attention__sliding_window_pattern=[True]), 96, 32, 16),
        # llama.cpp reads no window for these.
        (shape("phi3", **WINDOW), 128, 0, 0),
        (shape("llama", **WINDOW), 128, 0, 0),
        # The last two layers use the cache of earlier ones.
        (shape("gemma3n", **WINDOW, attention__shared_kv_layers=2), 0, 64, 16),
    ],
)
def test_sliding_windows(found: CacheShape, keys: int, window_keys: int, window: int) -> None:
    assert (found.keys, found.window_keys, found.window) == (keys, window_keys, window)
    assert (found.values, found.window_values) == (keys, window_keys)


def test_heads_of_another_size_in_windows() -> None:
    pattern = {"attention__sliding_window_pattern": [1, 0, 0, 0]}
    found = shape("gemma4", **WINDOW, **pattern, attention__key_length_swa=8)
    assert (found.keys, found.window_keys, found.window_values) == (96, 8, 32)


def test_a_window_without_layers_is_none() -> None:
    assert sliding_window(header("gemma3", **WINDOW)) == 16
    found = shape("gemma4", **WINDOW, attention__sliding_window_pattern=[0, 0, 0, 0])
    assert found.window == 0


SSM = {
    "ssm__conv_kernel": 4,
    "ssm__inner_size": 32,
    "ssm__state_size": 16,
    "ssm__group_count": 2,
}
# 3 taps of 32 + 2·2·16 channels, and a state of 16 × 32.
SSM_STATE = 3 * 96 + 512


@pytest.mark.parametrize(
    ("found", "keys", "state_values"),
    [
        (shape("mamba2", **SSM), 0, 4 * SSM_STATE),
        (shape("falcon-h1", **SSM), 128, 4 * SSM_STATE),
        (shape("jamba", **SSM, attention__head_count_kv=[0, 1, 0, 0]), 32, 3 * SSM_STATE),
        (shape("qwen35", **SSM), 32, 3 * SSM_STATE),
        (shape("qwen35", **SSM, full_attention_interval=2), 64, 2 * SSM_STATE),
        (shape("qwen3next", **SSM, attention__recurrent_layers=[1, 0, 0, 0]), 96, SSM_STATE),
        (
            shape(
                "nemotron_h",
                **SSM,
                attention__head_count_kv=[0, 1, 0, 0],
                feed_forward_length=[0, 0, 128, 0],
            ),
            32,
            2 * SSM_STATE,
        ),
        (shape("lfm2", shortconv__l_cache=3, attention__head_count_kv=[0, 0, 1, 0]), 32, 3 * 128),
        (shape("rwkv7", wkv__head_size=8, token_shift_count=2), 0, 4 * 64 * 10),
        (
            shape("kimi-linear", kda__head_dim=8, ssm__conv_kernel=4,
                  attention__head_count_kv=[0, 1, 1, 1]),
            96,
            2 * 8 * (3 * 3 + 8),
        ),
        (shape("minimax-01", attention__key_length=8), 8, 3 * 2 * 64),
    ],
)  # fmt: skip
def test_recurrent_states(found: CacheShape, keys: int, state_values: int) -> None:
    assert (found.keys, found.state_values) == (keys, state_values)
    assert found.state_bytes == 4 * state_values


def test_bytes_count_whole_blocks_of_cells() -> None:
    made = CacheShape(10, 20, 30, 40, window=100)
    assert made.num_bytes(1, "f16", "f16") == 256 * 100 * 2
    assert made.num_bytes(2048, "f32", "f16") == 2048 * (40 * 4 + 60 * 2)
    assert made.num_bytes(2048, "q8_0", "f16") == 2048 * (40 * 34 / 32 + 60 * 2)
    # The window of 100 and a batch of 512 take 768 cells.
    small = made.num_bytes(2048, "f16", "f16", swa_full=False)
    assert small == 2048 * 30 * 2 + 768 * 70 * 2
    assert made.num_bytes(256, "f16", "f16", swa_full=False) == 256 * 100 * 2


def test_odd_headers_are_read_all_the_same() -> None:
    for name in sorted(RECURRENT | {"gemma3", "llama", "unknown"}):
        empty = Header(Path("m.gguf"), 3, {"general.architecture": name}, {}, (), 0, 0)
        assert cache_shape(empty) == CacheShape(0, 0)
        assert shape(name, attention__head_count=[], attention__head_count_kv=[]).keys == 0
