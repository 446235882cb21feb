"""What a GGUF header must promise before llama.cpp sees the file.

llama.cpp answers most damage with an error, but ends the process where an assertion of its own
fails. Each rule here stands for one of those, or for a file that cannot answer at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sssd_local.errors import ModelError
from sssd_local.gguf_file import TENSOR_TYPES, Header, TensorInfo, read_header

# llama-hparams.h.
MAX_LAYERS, MAX_EXPERTS = 512, 1024
MAX_SIZE = 2**24
EMBEDDING_ARCHITECTURES = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2",
     "jina-bert-v3", "eurobert", "gemma-embedding", "t5encoder", "llama-embed"}
)  # fmt: skip
OTHER_ARCHITECTURES = {
    "clip": "the image part of a model (mmproj)",
    "wavtokenizer-dec": "a speech decoder",
    "t5": "an encoder-decoder model",
    "eagle3": "a draft head",
    "dflash": "a draft head",
    "gemma4-assistant": "a draft head",
    "dream": "a diffusion model",
    "llada": "a diffusion model",
    "llada-moe": "a diffusion model",
    "rnd1": "a diffusion model",
}
HYBRID = frozenset({"granitehybrid", "jamba", "nemotron_h", "nemotron_h_moe", "plamo2"})
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
# The start token that llama.cpp assumes for BPE vocabularies, and those without (llama-vocab.cpp).
GPT2_START = 11
_NO_START = frozenset({"chatglm-bpe", "glm4", "glm5"})
_SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
# Bytes that occur in UTF-8.
_TEXT_BYTES = (*range(0xC0), *range(0xC2, 0xF5))
# Tensor types (ggml.h): F32, F16, BF16; I8 to I64 and F64.
_FLOATS = frozenset({0, 1, 30})
_INTEGERS = frozenset({24, 25, 26, 27, 28})
_SPACE = "▁".encode()


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The characters a vocabulary can spell where llama.cpp would abort on any other."""

    texts: frozenset[bytes]
    missing_bytes: frozenset[int]

    def unknown(self, text: str) -> str | None:
        """The first character of `text` that no token spells."""
        if not self.missing_bytes:
            return None
        for character in dict.fromkeys(f" {text}"):
            data = character.encode("utf-8", "surrogatepass")
            if character == " ":
                data = _SPACE
            if data not in self.texts and not self.missing_bytes.isdisjoint(data):
                return character
        return None


def check_model_file(path: Path) -> Header:
    """Reads and checks the header of a model file (and of its other parts).

    Raises ModelError, in one line, for a file that llama.cpp cannot load or would abort on.
    """
    header = read_header(path)
    tensors = {tensor.name: tensor for part in parts(header) for tensor in part.tensors}
    for problem in _problems(header, tensors):
        raise ModelError(f"{path} {problem}")
    return header


def alphabet(header: Header) -> Alphabet:
    """What of a text the vocabulary can spell (llama-vocab.cpp: byte_to_token)."""
    texts = frozenset(header.tokens)
    missing: frozenset[int] = frozenset()
    if header.metadata.get("tokenizer.ggml.model") == "llama":
        missing = frozenset(
            byte
            for byte in _TEXT_BYTES
            if b"<0x%02X>" % byte not in texts and bytes([byte]) not in texts
        )
    return Alphabet(texts if missing else frozenset(), missing)


def parts(header: Header) -> Iterator[Header]:
    """The header itself and those of the other files of a split model."""
    yield header
    count = header.metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        return
    match = _SPLIT_NAME.fullmatch(header.path.name)
    if match is None or int(match[3]) != count:
        raise ModelError(
            f"{header.path} is one of {count} parts, but its name does not say which; "
            f"parts are named like model-00001-of-{count:05d}.gguf"
        )
    names = [f"{match[1]}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]
    if int(match[2]) != 1 or header.metadata.get("split.no", 0) != 0:
        raise ModelError(f"{header.path} is a later part of a split model; give {names[0]}")
    for index, name in enumerate(names[1:], 1):
        path = header.path.with_name(name)
        if not path.exists():
            raise ModelError(f"{header.path} is one of {count} parts, and {name} is missing")
        part = read_header(path)
        if part.metadata.get("split.no") != index or part.kinds.get("split.no") != 2:
            raise ModelError(f"{path} is not part {index + 1} of {header.path}")
        yield part


def _problems(header: Header, tensors: dict[str, TensorInfo]) -> Iterator[str]:
    yield from _wrong_kind_of_file(header, tensors)
    yield from map(_damaged, _bad_sizes(header))
    yield from map(_damaged, _bad_experts(header))
    yield from map(_damaged, _bad_graph(header, tensors))
    yield from map(_damaged, _bad_vocabulary(header))


def _damaged(what: str) -> str:
    return f"is damaged: {what}; download or copy it again"


def _wrong_kind_of_file(header: Header, tensors: dict[str, TensorInfo]) -> Iterator[str]:
    name = header.architecture
    if header.metadata.get("general.type") in ("adapter", "imatrix", "mmproj"):
        yield f"holds no model but {header.metadata['general.type']} data; give the model's file"
    if not name:
        yield _damaged("it does not name its architecture")
    if name in EMBEDDING_ARCHITECTURES:
        yield f"is a {name} model for embeddings, which does not write text"
    if name in OTHER_ARCHITECTURES:
        yield f"is {OTHER_ARCHITECTURES[name]}, which does not write text token by token"
    if header.number("pooling_type") > 0 or header.get("attention.causal") is False:
        yield f"is a {name} model for embeddings, which does not write text"
    if not tensors:
        yield "holds a vocabulary but no weights; give the model's file"


def _bad_sizes(header: Header) -> Iterator[str]:
    for key, low, high in (
        ("block_count", 1, MAX_LAYERS),
        ("embedding_length", 1, MAX_SIZE),
        ("context_length", 1, 2**31 - 1),
    ):
        if not low <= header.number(key) <= high:
            yield f"{header.architecture}.{key} is {header.get(key)!r}"
    for key in (
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "feed_forward_length",
        "rope.dimension_count",
    ):
        worst = max(header.numbers(key), default=0)
        if not 0 <= worst <= MAX_SIZE:
            yield f"{header.architecture}.{key} is {worst}"
    scaling = header.get("rope.scaling.type", "linear")
    if scaling not in _ROPE_SCALINGS:
        yield f"{header.architecture}.rope.scaling.type is {scaling!r}"


def _bad_experts(header: Header) -> Iterator[str]:
    count = header.number("expert_count")
    used = max(header.numbers("expert_used_count"), default=0)
    groups = header.number("expert_group_count")
    groups_used = header.number("expert_group_used_count")
    if not 0 <= count <= MAX_EXPERTS or used > count or (count > 0 and used < 1):
        yield f"it uses {used} of {count} experts"
    if (groups and groups >= count) or (
        groups > 1 and (count % groups or not 0 < groups_used < groups)
    ):
        yield f"it uses {groups_used} of {groups} groups of {count} experts"
    if header.number("nextn_predict_layers") > header.number("block_count"):
        yield "it predicts more layers than it has"


def _bad_graph(header: Header, tensors: dict[str, TensorInfo]) -> Iterator[str]:
    """What passes llama.cpp's loader and fails an assertion when the model is evaluated."""
    for key, value in header.metadata.items():
        if key.endswith(("_epsilon", "_eps")) and not (
            isinstance(value, float) and 0 <= value < math.inf
        ):
            yield f"{key} is {value!r}"
    rotated, width = header.number("rope.dimension_count", 2), _head_width(header)
    # Without attention, or with a hybrid's, nothing may be rotated at all.
    none_is_fine = width == 0 or header.architecture in HYBRID
    if rotated % 2 or 0 < width < rotated or (rotated == 0 and not none_is_fine):
        yield f"{header.architecture}.rope.dimension_count is {rotated}"
    pattern = header.numbers("attention.sliding_window_pattern")
    if header.number("attention.sliding_window") > 0 and pattern == (1,):
        yield "no layer uses its sliding window"
    for name, tensor in tensors.items():
        plain = "norm" in name or name.endswith(".bias")
        if tensor.kind in _INTEGERS and "tid2eid" not in name:
            yield f"tensor {name!r} holds whole numbers"
        if plain and tensor.kind in TENSOR_TYPES and tensor.kind not in _FLOATS:
            yield f"tensor {name!r} is quantised"


def _head_width(header: Header) -> int:
    """Values of a head's key; 0 when the header does not say."""
    heads = max(header.numbers("attention.head_count"), default=0)
    width = header.number("embedding_length") // heads if heads > 0 else 0
    return header.number("attention.key_length", width)


def _bad_vocabulary(header: Header) -> Iterator[str]:
    model = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model in ("no_vocab", "none"):
        yield "it has no vocabulary"
    pre = header.metadata.get("tokenizer.ggml.pre")
    texts = header.tokens
    if not texts:
        yield "it has no vocabulary"
    if len(set(texts)) != len(texts) - max(texts.count(b"") - 1, 0):
        yield "two tokens of its vocabulary have the same text"
    # llama.cpp has no default for these, and asserts that there is one when it adds it.
    adds = header.metadata.get("tokenizer.ggml.add_bos_token") is True or model == "gemma4"
    start = header.metadata.get("tokenizer.ggml.bos_token_id", -1)
    no_default = model == "gemma4" or len(texts) <= GPT2_START or pre in _NO_START
    if adds and no_default and not (isinstance(start, int) and 0 <= start < len(texts)):
        yield "it puts a token before every text and does not say which"
