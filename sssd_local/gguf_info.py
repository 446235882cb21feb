"""What a GGUF file says about itself, without loading it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sssd_local.engine.ability import RECURRENT, RollBackKind, find_ability
from sssd_local.engine.memory import MAX_SNAPSHOTS
from sssd_local.gguf_cache import CacheShape, cache_shape, sliding_window
from sssd_local.gguf_check import check_model_file, parts
from sssd_local.gguf_file import TENSOR_TYPES, GGUFArray, Header, TensorInfo

_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a context of `ctx` tokens needs: weights, key-value cache and recurrent states.

    `small_kv_bytes` is the cache with swa_full off, where drafts are chains.
    """

    ctx: int
    kv_bytes: int
    small_kv_bytes: int
    state_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the header tells; sizes in bytes, `speculation` is tree, chain or none."""

    path: str
    name: str
    architecture: str
    parameters: int
    quantisation: str
    weight_bytes: int
    parts: int
    layers: int
    embedding: int
    vocabulary: int
    experts: int
    trained_ctx: int
    sliding_window: int
    chat_template: bool
    speculation: str
    speculation_note: str
    kv_type: str
    memory: tuple[Memory, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The same for people, one fact a line."""
        experts = f", {self.experts} experts" if self.experts else ""
        window = f", sliding window {self.sliding_window:,}" if self.sliding_window else ""
        note = f" ({self.speculation_note})" if self.speculation_note else ""
        facts = {
            "name": self.name or "-",
            "architecture": f"{self.architecture}, {self.layers} layers, width "
            f"{self.embedding:,}{experts}",
            "parameters": _short(self.parameters),
            "quantisation": f"{self.quantisation}, {_size(self.weight_bytes)}"
            + (f" in {self.parts} files" if self.parts > 1 else ""),
            "vocabulary": f"{self.vocabulary:,} tokens",
            "context": f"{self.trained_ctx:,} tokens{window}",
            "chat template": "yes" if self.chat_template else "no (a plain format stands in)",
            "speculation": self.speculation + note,
        }
        for name, fact in facts.items():
            yield f"{name:<14} {fact}"
        for item in self.memory:
            states = f", {_size(item.state_bytes)} states" if item.state_bytes else ""
            small = item.small_kv_bytes - item.kv_bytes
            without = f"; {_size(-small)} less without swa_full" if small else ""
            yield (
                f"{'memory':<14} {_size(item.total_bytes)} at {item.ctx:,} tokens "
                f"({_size(item.kv_bytes)} of it {self.kv_type} cache{states}{without})"
            )


def describe(path: Path, ctxs: Sequence[int] = (), kv_type: str = "f16") -> ModelInfo:
    """Reads what a model's header says. Raises ModelError for a file that cannot be used.

    `ctxs` are context lengths to tell the memory for; without any, some up to the trained one.
    """
    header = check_model_file(path)
    files = list(parts(header))
    tensors = [tensor for file in files for tensor in file.tensors]
    weight_bytes = sum(file.file_bytes - file.data_start for file in files)
    trained = header.number("context_length")
    lengths = ctxs or sorted({min(size, trained) for size in (4096, 32768, trained)})
    ability = find_ability(header.architecture, recurrent=header.architecture in RECURRENT)
    shape = cache_shape(header)
    copies = {RollBackKind.SNAPSHOT: 1 + MAX_SNAPSHOTS, RollBackKind.RESTORE: 2}
    state_bytes = shape.state_bytes * copies.get(ability.roll_back, 1)
    return ModelInfo(
        path=str(path),
        name=_text(header.metadata.get("general.name")),
        architecture=header.architecture,
        parameters=sum(tensor.num_values for tensor in tensors),
        quantisation=_quantisation(header, tensors),
        weight_bytes=weight_bytes,
        parts=len(files),
        layers=header.number("block_count"),
        embedding=header.number("embedding_length"),
        vocabulary=len(header.tokens),
        experts=header.number("expert_count"),
        trained_ctx=trained,
        sliding_window=sliding_window(header),
        chat_template=bool(_text(header.metadata.get("tokenizer.chat_template")).strip()),
        speculation=ability.speculation.value,
        speculation_note=ability.reason or _tree_note(header, shape),
        kv_type=kv_type,
        memory=tuple(_memory(shape, ctx, kv_type, weight_bytes, state_bytes) for ctx in lengths),
    )


def _tree_note(header: Header, shape: CacheShape) -> str:
    if shape.window:
        return "the cache of its sliding window is kept whole for them"
    if header.number("expert_count"):
        return "each token may need other experts, so wide drafts cost more"
    return ""


def _memory(
    shape: CacheShape, ctx: int, kv_type: str, weight_bytes: int, state_bytes: int
) -> Memory:
    kv_bytes = shape.num_bytes(ctx, kv_type, kv_type)
    small = shape.num_bytes(ctx, kv_type, kv_type, swa_full=False)
    return Memory(ctx, kv_bytes, small, state_bytes, weight_bytes + kv_bytes + state_bytes)


def _quantisation(header: Header, tensors: Sequence[TensorInfo]) -> str:
    named = header.metadata.get("general.file_type")
    if isinstance(named, int) and named in _FILE_TYPES:
        return _FILE_TYPES[named]
    weights: Counter[int] = Counter()
    for tensor in tensors:
        weights[tensor.kind] += tensor.num_values
    kind = weights.most_common(1)[0][0]
    return TENSOR_TYPES[kind][0] if kind in TENSOR_TYPES else f"type {kind}"


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, GGUFArray) else str(value)


def _short(count: int) -> str:
    for size, unit in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _size(count: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
