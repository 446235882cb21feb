"""LoRA adapters change what a model writes, and only models they were made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.tensors import Tensor, normal, write_gguf
from sssd_local.config import ModelConfig
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.engine.model import Model
from sssd_local.errors import ModelError
from tests.tiny import Bench

TinyModel = Callable[..., Path]
RANK = 2


def write_adapter(
    path: Path, architecture: str = "llama", *, width: int = 64, **metadata: Any
) -> Path:
    """An adapter of rank 2 for the first layer's feed-forward output of a tiny model."""
    name = "blk.0.ffn_down.weight"
    tensors = [
        Tensor(f"{name}.lora_a", (RANK, 128), normal(0.2)),
        Tensor(f"{name}.lora_b", (width, RANK), normal(1.0)),
    ]
    known = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(RANK),
        **metadata,
    }
    return write_gguf(path, architecture, known, tensors)


def first_logits(path: Path, *adapters: tuple[str, float]) -> np.ndarray:
    with Bench(path, options={"lora": adapters}) as bench:
        bench.context.decode_one(30, 0)
        return bench.context.logits[0].copy()


def test_an_adapter_changes_the_logits_by_its_scale(tiny_model: TinyModel, tmp_path: Path) -> None:
    adapter = str(write_adapter(tmp_path / "a.gguf"))
    plain = first_logits(tiny_model())
    full = first_logits(tiny_model(), (adapter, 1.0))
    assert np.abs(full - plain).max() > 0.5
    assert np.abs(first_logits(tiny_model(), (adapter, 0.0)) - plain).max() < 1e-4
    halves = first_logits(tiny_model(), (adapter, 0.01))
    assert 0 < np.abs(halves - plain).max() < np.abs(full - plain).max() / 10


def test_several_adapters_add_up(tiny_model: TinyModel, tmp_path: Path) -> None:
    adapter = str(write_adapter(tmp_path / "a.gguf"))
    other = tmp_path / "b.gguf"
    other.write_bytes(Path(adapter).read_bytes())
    twice = first_logits(tiny_model(), (adapter, 0.5), (str(other), 0.5))
    assert np.abs(twice - first_logits(tiny_model(), (adapter, 1.0))).max() < 1e-3


def test_drafts_do_not_change_the_answer(tiny_model: TinyModel, tmp_path: Path) -> None:
    options = {"lora": str(write_adapter(tmp_path / "a.gguf"))}
    with Bench(tiny_model(), options=options) as plain, Bench(tiny_model()) as without:
        answer = plain.run()
        assert answer != without.run()
    with Bench(tiny_model(), Drafter(Calibration()), 6, options=options) as bench:
        assert bench.run() == answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "qwen2"}, "is an adapter for qwen2 models, this is a llama model"),
        ({"general.type": "model"}, "is not a LoRA adapter; models are given without --lora"),
        ({"adapter.alora.invocation_tokens": [5]}, "that a text switches on, which is not supp"),
        ({"adapter.type": "other"}, "does not fit this model"),
        ({"width": 32}, "does not fit this model"),
    ],
)
def test_files_that_are_no_adapters_for_the_model(
    tiny_model: TinyModel, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write_adapter(tmp_path / "a.gguf", **change)
    with pytest.raises(ModelError, match=message) as caught:
        Model(tiny_model(), ModelConfig(lora=str(path)))  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_adapters(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    for name, message in (("a.gguf", "is damaged"), ("none.gguf", "there is no such file")):
        with pytest.raises(ModelError, match=message):
            Model(tiny_model(), ModelConfig(lora=((str(tmp_path / name), 1.0),)))
