"""Loading a model: what it says of itself, its tokens, and every way a file can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local.config import ModelConfig
from sssd_local.engine import backend
from sssd_local.engine.model import Model
from sssd_local.errors import BackendError, ModelError

TinyModel = Callable[..., Path]
CONFIG = ModelConfig()


@pytest.mark.parametrize(
    ("kind", "architecture", "recurrent", "learned", "window"),
    [
        ("llama", "llama", False, False, 0),
        ("moe", "llama", False, False, 0),
        ("gemma", "gemma3", False, False, 32),
        ("gpt2", "gpt2", False, True, 0),
        ("mamba", "mamba", True, False, 0),
        ("lfm2", "lfm2", True, False, 0),
    ],
)
def test_facts(
    tiny_model: TinyModel, kind: str, architecture: str, recurrent: bool, learned: bool, window: int
) -> None:
    model = Model(tiny_model(kind), CONFIG)
    facts = model.facts
    assert facts.architecture == architecture
    assert facts.recurrent is recurrent
    assert facts.learned_positions is learned
    assert facts.sliding_window == window
    assert (facts.num_vocab, facts.trained_ctx) == (320, 512)
    assert (facts.bos, facts.eos, facts.add_bos) == ("<s>", "</s>", True)
    assert facts.chat_template is not None
    assert facts.chat_template.startswith("{% for message in messages %}")
    assert facts.size_bytes > 100_000
    assert facts.num_parameters > 50_000
    model.close()


def test_tokenise_and_pieces_round_trip(tiny_model: TinyModel) -> None:
    model = Model(tiny_model(), CONFIG)
    for text in ("the rain", "äöü €", "日本語", "🙂", "a\0b", "  two  spaces\n", ""):
        ids = model.tokenize(text, add_special=False, parse_special=False)
        assert ids.dtype == np.int32
        assert b"".join(model.piece(token) for token in ids.tolist()).decode() == text
    long = "the rain on " * 5000
    assert len(model.tokenize(long, add_special=True, parse_special=False)) > 5000
    model.close()


def test_special_tokens_are_read_only_when_asked(tiny_model: TinyModel) -> None:
    model = Model(tiny_model(), CONFIG)
    assert model.tokenize("</s>", add_special=False, parse_special=True).tolist() == [2]
    assert 2 not in model.tokenize("</s>", add_special=False, parse_special=False)
    assert model.tokenize("a", add_special=True, parse_special=False).tolist()[0] == 1
    assert model.piece(2) == b""
    assert model.is_eog(2)
    assert not model.is_eog(40)
    model.close()


def test_a_closed_model_says_so(tiny_model: TinyModel) -> None:
    model = Model(tiny_model(), CONFIG)
    model.close()
    model.close()
    with pytest.raises(BackendError, match="closed"):
        model.tokenize("a", add_special=False, parse_special=False)
    with pytest.raises(BackendError, match="closed"):
        _ = model.handle


def test_progress_is_told_and_may_end_the_load(tiny_model: TinyModel) -> None:
    heard: list[float] = []
    Model(tiny_model(), CONFIG, heard.append).close()
    assert heard[-1] == 1.0
    assert heard == sorted(heard)

    def interrupt(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model(tiny_model(), CONFIG, interrupt)


def damage(kind: str, good: bytes) -> bytes:
    if kind == "empty":
        return b""
    if kind == "text":
        return b"hello, this is no model at all"
    if kind == "header":
        return good[:20]
    if kind == "truncated":
        return good[: len(good) // 2]
    if kind == "magic only":
        return b"GGUF"
    return good.replace(b"llama", b"lamma")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is empty"),
        ("text", "is not a GGUF file"),
        ("header", "is damaged or incomplete"),
        ("truncated", "is damaged or incomplete"),
        ("magic only", "is damaged or incomplete"),
        ("architecture", "unknown model architecture: 'lamma'"),
    ],
)
def test_damaged_files(tiny_model: TinyModel, tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(damage(kind, tiny_model().read_bytes()))
    with pytest.raises(ModelError, match=message) as caught:
        Model(path, CONFIG)
    assert "bad.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        Model(tmp_path / "none.gguf", CONFIG)
    with pytest.raises(ModelError, match="is a folder"):
        Model(tmp_path, CONFIG)


def test_gpu_layers_without_a_gpu_are_noted(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(tiny_model(), ModelConfig(gpu_layers=3))
    if model.gpu:
        pytest.skip("this llama.cpp build has a GPU")
    assert model.gpu_layers == 0
    assert "no GPU support" in caplog.text
    model.close()


def test_gpus_without_a_gpu_are_noted(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    for options in ({"main_gpu": 0}, {"main_gpu": 1, "tensor_split": (1, 3)}):
        caplog.clear()
        model = Model(tiny_model(), ModelConfig(**options))  # type: ignore[arg-type]
        if model.gpu:
            pytest.skip("this llama.cpp build has a GPU")
        assert "no GPU support; the choice of GPUs is ignored" in caplog.text
        model.close()


class Parameters:
    """What llama_model_params has of GPUs."""

    main_gpu = 0
    split_mode = 1
    tensor_split: Any = None


@pytest.mark.parametrize(
    ("options", "main_gpu", "split_mode", "shares"),
    [
        ({}, 0, 1, None),
        # One GPU alone.
        ({"main_gpu": 1}, 1, 0, None),
        ({"tensor_split": "3,1"}, 0, 1, [3, 1]),
        ({"main_gpu": 1, "tensor_split": (1, 2.5)}, 1, 1, [1, 2.5]),
    ],
)
def test_gpus_are_chosen(
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    main_gpu: int,
    split_mode: int,
    shares: list[float] | None,
) -> None:
    monkeypatch.setattr(backend.C, "llama_max_devices", lambda: 2)
    model = Model(tiny_model(), CONFIG)
    model.gpu = True
    params = Parameters()
    model._choose_gpus(params, ModelConfig(**options))
    assert (params.main_gpu, params.split_mode) == (main_gpu, split_mode)
    assert (list(params.tensor_split) if params.tensor_split else None) == shares
    with pytest.raises(ModelError, match=r"has 3 shares, this .* build knows at most 2 GPUs"):
        model._choose_gpus(params, ModelConfig(tensor_split=(1, 1, 1)))
    model.close()


def test_a_library_without_a_symbol_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_SYMBOLS", (*backend._SYMBOLS, "llama_of_the_future"))
    with pytest.raises(BackendError, match=r"lacks llama_of_the_future.*0\.3\.36"):
        backend._load_library()


def test_every_symbol_that_is_called_is_checked() -> None:
    folder = Path(backend.__file__).parent
    called: set[str] = set()
    for path in folder.glob("*.py"):
        text = path.read_text()
        called |= {word[2:] for word in _words(text) if word.startswith(("C.llama_", "C.ggml_"))}
    assert called == set(backend._SYMBOLS)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c in "._" else " " for c in text).split()


def test_the_build_names_version_and_features() -> None:
    assert backend.build_name().startswith("0.3.")
    assert backend.build_name().count("/") >= 2


def test_gpus_are_named_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {10: (0, b"CPU"), 11: (1, b"Card"), 12: (3, b"BLAS"), 13: (2, b"Integrated \xff")}

    class Library:
        def __init__(self) -> None:
            self.ggml_backend_dev_count = lambda: len(kinds)
            self.ggml_backend_dev_get = lambda index: 10 + index
            self.ggml_backend_dev_type = lambda device: kinds[device][0]
            self.ggml_backend_dev_description = lambda device: kinds[device][1]

    monkeypatch.setattr("llama_cpp._ggml.libggml", Library())
    assert backend.gpu_names() == ["Card", "Integrated \ufffd"]
    monkeypatch.setattr("llama_cpp._ggml.libggml", object())
    assert backend.gpu_names() == []


def test_this_build_tells_its_gpus() -> None:
    names = backend.gpu_names()
    assert all(name.strip() for name in names)
    if not backend.C.llama_supports_gpu_offload():
        assert names == []
