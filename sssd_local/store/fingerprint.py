"""What makes two models speak the same token ids."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sssd_local.gguf_check import check_model_file
from sssd_local.gguf_file import Header, read_header

_KEYS = ("tokenizer.ggml.model", "tokenizer.ggml.pre")


def tokenizer_fingerprint(model: Path | Header) -> str:
    """A name for the tokenizer of a GGUF: blake2b of its kind and of all token texts in order.

    Raises ModelError for a file that cannot be read.
    """
    header = model if isinstance(model, Header) else read_header(model)
    digest = hashlib.blake2b(digest_size=16)
    for key in _KEYS:
        digest.update(f"{key}={header.metadata.get(key)}\n".encode())
    for text in header.tokens:
        digest.update(b"%d:%b," % (len(text), text))
    return digest.hexdigest()


def tokenizer_of(model: str | os.PathLike[str] | Header) -> tuple[str, int]:
    """The fingerprint and the number of tokens of a GGUF file, which is checked, or a header.

    Raises ModelError for a file that cannot be loaded.
    """
    header = model if isinstance(model, Header) else check_model_file(Path(model))
    return tokenizer_fingerprint(header), len(header.tokens)
