"""What a context of a model takes in memory, from the header of its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sssd_local.engine.ability import RECURRENT
from sssd_local.gguf_file import GGUFArray, Header

KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
STATE_BYTES = 4
# llama.cpp pads caches to so many cells, and a window holds a batch more than it needs.
CELLS = 256
BATCH_TOKENS = 512
# Every so many layers one sees all, where the file does not say (llama.cpp, src/models; those with
# True begin with it), and the window where the file does not say.
_PATTERNS: dict[str, tuple[int, bool, int]] = {
    "gemma2": (2, False, 4096), "gemma3": (6, False, 0), "gemma3n": (5, False, 0),
    "gpt-oss": (2, False, 0), "cohere2": (4, False, 0), "cohere2moe": (4, True, 0),
    "exaone4": (4, False, 0), "exaone-moe": (4, False, 128), "olmo2": (4, False, 0),
    "plamo3": (8, False, 0), "llama4": (4, False, 8192), "afmoe": (4, False, 0),
    "mellum": (4, False, 0), "muse-glimmer": (4, False, 0), "smallthinker": (4, True, 0),
    "laguna": (4, True, 0),
}  # fmt: skip
_BY_INTERVAL = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp", "minimax-01"})
_ALL_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Values a context holds: K and V a token, and those of a recurrent state.

    `window_keys` and `window_values` are a token's in the layers with a sliding window of `window`
    tokens, `keys` and `values` in the other ones; a state's values are float32.
    """

    keys: int
    values: int
    window_keys: int = 0
    window_values: int = 0
    window: int = 0
    state_values: int = 0

    @property
    def per_token(self) -> int:
        """K and V values that a token adds, all layers together."""
        return self.keys + self.values + self.window_keys + self.window_values

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent state after a token."""
        return self.state_values * STATE_BYTES

    def num_bytes(self, ctx: int, kv_type: str, kv_type_v: str, *, swa_full: bool = True) -> int:
        """Bytes of the key-value cache of `ctx` tokens; without `swa_full` windows stay small."""
        cells = _padded(ctx)
        window = cells if swa_full else min(cells, _padded(self.window + BATCH_TOKENS))
        keys = cells * self.keys + window * self.window_keys
        values = cells * self.values + window * self.window_values
        return round(keys * KV_BYTES[kv_type] + values * KV_BYTES[kv_type_v])


def cache_shape(header: Header) -> CacheShape:
    """Reads the shape of a model's cache; what the header does not tell counts as large."""
    keys, values = [0, 0], [0, 0]
    num_recurrent = 0
    for kv_heads, recurrent, windowed in _layers(header):
        num_recurrent += recurrent
        key, value = _head_sizes(header, windowed)
        keys[windowed] += kv_heads * key
        values[windowed] += kv_heads * value
    return CacheShape(
        keys[False],
        values[False],
        keys[True],
        values[True],
        sliding_window(header) if keys[True] else 0,
        num_recurrent * _state_values(header),
    )


def sliding_window(header: Header) -> int:
    """Tokens that the layers with a sliding window see; 0 without such layers."""
    default = _PATTERNS.get(header.architecture, (1, False, 0))[2]
    window = header.number("attention.sliding_window", default)
    # Some files tell a window that llama.cpp does not use for their architecture.
    known = header.architecture in _PATTERNS
    return window if known or _pattern(header) is not None else 0


def _layers(header: Header) -> Iterator[tuple[int, bool, bool]]:
    """Of each layer: K-V heads with a cache, whether it has a state, whether it has a window."""
    count = header.number("block_count")
    own = count - header.number("attention.shared_kv_layers")
    heads = _each(header.numbers("attention.head_count"), count)
    kv_heads = _each(header.numbers("attention.head_count_kv") or tuple(heads), count)
    feed_forward = _each(header.numbers("feed_forward_length"), count)
    windowed = _windowed(header, count)
    for layer in range(count):
        recurrent = _is_recurrent(header, layer, kv_heads[layer], feed_forward[layer])
        both = header.architecture == "falcon-h1"
        cached = kv_heads[layer] if layer < own and (both or not recurrent) else 0
        yield cached, recurrent, windowed[layer] and not recurrent


def _each(numbers: tuple[int, ...], count: int) -> list[int]:
    values = list(numbers) or [0]
    return (values * count if len(values) == 1 else values + [values[-1]] * count)[:count]


def _is_recurrent(header: Header, layer: int, kv_heads: int, feed_forward: int) -> bool:
    name = header.architecture
    if name in _ALL_RECURRENT or name == "falcon-h1":
        return True
    if name in _BY_INTERVAL:
        told = header.get("attention.recurrent_layers")
        if isinstance(told, GGUFArray) and told.values and layer < len(told.values):
            return bool(told.values[layer])
        return (layer + 1) % max(header.number("full_attention_interval", 4), 1) != 0
    if name.startswith("nemotron_h") and feed_forward:
        return False
    return name in RECURRENT and kv_heads == 0


def _pattern(header: Header) -> tuple[Any, ...] | None:
    told = header.get("attention.sliding_window_pattern")
    return told.values if isinstance(told, GGUFArray) else None


def _windowed(header: Header, count: int) -> list[bool]:
    told = _pattern(header)
    if told is not None:
        return [bool(value) for value in told[:count]] + [False] * max(0, count - len(told))
    every, dense_first, _ = _PATTERNS.get(header.architecture, (1, False, 0))
    every = header.number("attention.sliding_window_pattern", every)
    if not sliding_window(header):
        return [False] * count
    full = 0 if dense_first else every - 1
    return [every == 0 or layer % every != full for layer in range(count)]


def _head_sizes(header: Header, windowed: bool) -> tuple[int, int]:
    heads = max(header.numbers("attention.head_count"), default=0)
    width = header.number("embedding_length") // max(heads, 1)
    key = header.number("attention.key_length", width)
    value = header.number("attention.value_length", width)
    if windowed:
        key = header.number("attention.key_length_swa", key)
        value = header.number("attention.value_length_swa", value)
    return key, value


def _state_values(header: Header) -> int:
    """Values of a layer's state, the convolution's and the recurrence's (llama-hparams.cpp)."""
    embedding, heads = header.number("embedding_length"), header.number("attention.head_count")
    head_size = header.number("wkv.head_size")
    if head_size:
        shifts = header.number("token_shift_count", 2)
        return embedding * (shifts + head_size)
    taps = header.number("shortconv.l_cache")
    if taps:
        return embedding * (taps - 1)
    taps, delta = header.number("ssm.conv_kernel"), header.number("kda.head_dim")
    if delta:
        return heads * delta * (3 * (taps - 1 if taps else 3) + delta)
    if header.architecture == "minimax-01":
        return heads * header.number("attention.key_length") ** 2
    inner, state = header.number("ssm.inner_size"), header.number("ssm.state_size")
    channels = inner + 2 * header.number("ssm.group_count") * state
    return max(taps - 1, 0) * channels + state * inner


def _padded(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS
