"""The header of a GGUF file, read within bounds: nothing it claims is believed before it fits."""

from __future__ import annotations

import math
import mmap
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sssd_local.errors import ModelError

MAGIC = b"GGUF"
# ggml.h and gguf.cpp.
MAX_DIMS = 4
MAX_NAME = 63
DEFAULT_ALIGNMENT = 32
# Numbers of longer arrays (scores, token types) are counted, not kept.
MAX_KEPT_NUMBERS = 4096
TOKENS_KEY = "tokenizer.ggml.tokens"

STRING, ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip

# Name, values in a block and bytes of a block of each tensor type (ggml.c).
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GGUFArray:
    """An array of metadata; `values` holds short arrays of numbers and the vocabulary."""

    kind: int
    count: int
    values: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` as in the file, innermost dimension first."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int | None:
        """Bytes in the file; None for a type that this reader does not know."""
        if self.kind not in TENSOR_TYPES:
            return None
        _, block, size = TENSOR_TYPES[self.kind]
        return self.num_values // block * size


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says before its weights."""

    path: Path
    version: int
    metadata: dict[str, Any]
    kinds: dict[str, int] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    data_start: int
    file_bytes: int

    @property
    def architecture(self) -> str:
        name = self.metadata.get("general.architecture")
        return name if isinstance(name, str) else ""

    def get(self, key: str, default: Any = None) -> Any:
        """A value of this architecture, as in get("block_count")."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def numbers(self, key: str) -> tuple[int, ...]:
        """The whole numbers of a key that has one or one a layer; () when it has none."""
        value = self.get(key)
        values = value.values or () if isinstance(value, GGUFArray) else (value,)
        return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))

    def number(self, key: str, default: int = 0) -> int:
        """The first of `numbers`."""
        return next(iter(self.numbers(key)), default)

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The vocabulary's texts."""
        found = self.metadata.get(TOKENS_KEY)
        if not isinstance(found, GGUFArray) or found.kind != STRING:
            return ()
        return found.values or ()


class _DamageError(Exception):
    pass


def check_magic(path: Path) -> None:
    """Raises ModelError for what is not a GGUF file at all."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelError(f"{path} is a folder; give the path of a GGUF file in it")
        if not stat.S_ISREG(mode):
            # Opening a named pipe would wait for ever.
            raise ModelError(f"{path} is not a file; give the path of a GGUF model")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file; give the path of a GGUF model") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{str(path)!r} cannot be read: {reason}") from error
    if magic != MAGIC:
        what = "is empty" if not magic else "is not a GGUF file"
        raise ModelError(f"{path} {what}; models for llama.cpp end in .gguf")


def read_header(path: Path) -> Header:
    """Reads the header of a GGUF file without its weights. Raises ModelError for a damaged one.

    Layout: ggml/docs/gguf.md. Time and memory are bounded by the header's own size.
    """
    check_magic(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header(path)
    except _DamageError as error:
        raise ModelError(
            f"{path} is damaged or incomplete: {error}; download or copy it again"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error}") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 4

    def header(self, path: Path) -> Header:
        version = self._number("I", "its version")
        if version & 0xFFFF == 0:
            raise _DamageError("its byte order is not this machine's")
        if version not in (2, 3):
            raise _DamageError(f"GGUF version {version} is not supported (2 and 3 are)")
        num_tensors = self._count("its number of tensors", 24)
        num_keys = self._count("its number of keys", 13)
        metadata, kinds = self._metadata(num_keys)
        tensors = tuple(self._tensors(num_tensors))
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            kinds.get("general.alignment", 4) != 4
            or not 0 < alignment <= 2**20
            or alignment & (alignment - 1)
        ):
            raise _DamageError(f"general.alignment is {alignment}")
        start = -(-self._at // alignment) * alignment
        self._check_data(tensors, start, alignment)
        return Header(path, version, metadata, kinds, tensors, start, self._size)

    def _metadata(self, num_keys: int) -> tuple[dict[str, Any], dict[str, int]]:
        metadata: dict[str, Any] = {}
        kinds: dict[str, int] = {}
        for index in range(num_keys):
            key = self._text(f"the name of key {index}").decode("utf-8", "replace")
            if not key or key in metadata:
                raise _DamageError(f"key {index} has no name or that of another")
            kinds[key] = kind = self._number("I", f"the type of {key!r}")
            metadata[key] = self._value(key, kind)
        return metadata, kinds

    def _value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self._text(f"the text of {key!r}").decode("utf-8", "replace")
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind], f"the value of {key!r}")
        if kind != ARRAY:
            raise _DamageError(f"{key!r} has the unknown type {kind}")
        inner = self._number("I", f"the type of {key!r}")
        if inner == STRING:
            count = self._count(f"the length of {key!r}", 8)
            return GGUFArray(inner, count, self._texts(key, count))
        if inner not in _NUMBERS:
            raise _DamageError(f"{key!r} is an array of the unsupported type {inner}")
        letter = _NUMBERS[inner]
        width = struct.calcsize(letter)
        count = self._count(f"the length of {key!r}", width)
        values = None
        if count <= MAX_KEPT_NUMBERS:
            values = struct.unpack_from(f"<{count}{letter}", self._data, self._at)
        self._at += count * width
        return GGUFArray(inner, count, values)

    def _texts(self, key: str, count: int) -> tuple[bytes, ...] | None:
        """Passes over `count` texts; keeps the vocabulary's."""
        data, size, position = self._data, self._size, self._at
        unpack: Callable[..., tuple[Any, ...]] = struct.Struct("<Q").unpack_from
        keep = key == TOKENS_KEY
        texts: list[bytes] = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                if position > size:
                    raise _DamageError(f"a text of {key!r} ends after the file")
                if keep:
                    texts.append(data[start:position])
        except struct.error:
            raise _DamageError(f"{key!r} ends after the file") from None
        self._at = position
        return tuple(texts) if keep else None

    def _tensors(self, num_tensors: int) -> list[TensorInfo]:
        found: dict[str, TensorInfo] = {}
        for index in range(num_tensors):
            name = self._text(f"the name of tensor {index}").decode("utf-8", "replace")
            if name in found or len(name.encode()) > MAX_NAME:
                raise _DamageError(f"tensor {index} has an impossible name")
            num_dims = self._number("I", f"the shape of {name!r}")
            if num_dims > MAX_DIMS:
                raise _DamageError(f"tensor {name!r} has {num_dims} dimensions")
            shape = tuple(self._number("q", f"the shape of {name!r}") for _ in range(num_dims))
            if any(side < 1 for side in shape) or math.prod(shape) >= 2**60:
                raise _DamageError(f"tensor {name!r} has the impossible shape {shape}")
            kind = self._number("i", f"the type of {name!r}")
            offset = self._number("Q", f"the place of {name!r}")
            if kind in TENSOR_TYPES and shape and shape[0] % TENSOR_TYPES[kind][1]:
                raise _DamageError(f"rows of tensor {name!r} are not whole blocks")
            found[name] = TensorInfo(name, shape, kind, offset)
        return list(found.values())

    def _check_data(self, tensors: tuple[TensorInfo, ...], start: int, alignment: int) -> None:
        expected: int | None = 0
        for tensor in tensors:
            if expected is not None and tensor.offset != expected:
                raise _DamageError(f"tensor {tensor.name!r} is not where it should be")
            num_bytes = tensor.num_bytes
            end = start + tensor.offset + (num_bytes or 0)
            if end > self._size:
                missing = end - self._size
                raise _DamageError(f"tensor {tensor.name!r} ends {missing} bytes after the file")
            # A type that is newer than this table: llama.cpp checks the rest.
            if num_bytes is None:
                expected = None
            elif expected is not None:
                expected += -(-num_bytes // alignment) * alignment

    def _number(self, letter: str, what: str) -> Any:
        try:
            (value,) = struct.unpack_from(f"<{letter}", self._data, self._at)
        except struct.error:
            raise _DamageError(f"the file ends before {what}") from None
        self._at += struct.calcsize(f"<{letter}")
        return value

    def _count(self, what: str, least_bytes: int) -> int:
        """A number of things that follow, each of at least so many bytes."""
        count = int(self._number("Q", what))
        if count > (self._size - self._at) // least_bytes:
            raise _DamageError(f"{what} is {count}, more than the file can hold")
        return count

    def _text(self, what: str) -> bytes:
        size = self._number("Q", what)
        if size > self._size - self._at:
            raise _DamageError(f"{what} ends after the file")
        text = self._data[self._at : self._at + size]
        self._at += size
        return text
