"""Models with one tokenizer share a fingerprint, others do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sssd_local.errors import ModelError
from sssd_local.gguf_file import GGUFArray, read_header
from sssd_local.store.fingerprint import tokenizer_fingerprint

TinyModel = Callable[..., Path]


def test_weights_do_not_matter(tiny_model: TinyModel) -> None:
    names = {tokenizer_fingerprint(tiny_model(seed=seed)) for seed in range(2)}
    assert len(names) == 1
    assert len(names.pop()) == 32


def test_the_vocabulary_matters(tiny_model: TinyModel) -> None:
    one, other = (tokenizer_fingerprint(tiny_model(num_tokens=n)) for n in (320, 321))
    assert one != other


def test_order_borders_and_kind_matter(tiny_model: TinyModel) -> None:
    header = read_header(tiny_model())
    key = "tokenizer.ggml.tokens"

    def named(tokens: tuple[bytes, ...], **metadata: str) -> str:
        array = GGUFArray(8, len(tokens), tokens)
        changed = {**header.metadata, **metadata, key: array}
        return tokenizer_fingerprint(replace(header, metadata=changed))

    names = [
        named((b"a", b"b")),
        named((b"b", b"a")),
        named((b"ab", b"")),
        named((b"a", b"b"), **{"tokenizer.ggml.pre": "qwen2"}),
        named((b"a", b"b"), **{"tokenizer.ggml.model": "other"}),
    ]
    assert len(set(names)) == len(names)


def test_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        tokenizer_fingerprint(tmp_path / "none.gguf")
