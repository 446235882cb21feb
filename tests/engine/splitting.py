"""Splits a model into files as llama.cpp's gguf-split does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf


def split_model(path: Path, folder: Path, count: int) -> Path:
    """Writes a model's tensors into `count` files; returns the first."""
    folder.mkdir()
    reader = gguf.GGUFReader(path)
    size = -(-len(reader.tensors) // count)
    names = [folder / f"model-{part + 1:05d}-of-{count:05d}.gguf" for part in range(count)]
    for part, name in enumerate(names):
        writer = gguf.GGUFWriter(name, "llama")
        if part == 0:
            _copy_metadata(reader, writer)
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[part * size : (part + 1) * size]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return names[0]


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        contents: Any = field.contents()
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, contents, field.types[0], sub_type=inner)
