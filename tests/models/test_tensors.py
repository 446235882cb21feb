"""Writing tensors and metadata to GGUF files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from models.tensors import Tensor, constant, gpt2_tensors, matrix, normal, vector, write_gguf
from sssd_local.errors import ConfigError


def read(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }


def test_values_shapes_and_metadata_come_back(tmp_path: Path) -> None:
    def count(_: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    metadata = {"a.int": 7, "a.float": 0.5, "a.text": "x", "a.flag": True, "a.list": [1, 2]}
    tensors = [
        Tensor("odd", (3, 5), count),
        vector("bias", 4, 0),
        Tensor("three", (2, 3, 4), count),
    ]
    path = write_gguf(tmp_path / "m.gguf", "arch", metadata, tensors)

    fields = gguf.GGUFReader(path).fields
    assert {name: fields[name].contents() for name in metadata} == metadata
    assert fields["general.architecture"].contents() == "arch"
    found = read(path)
    assert list(found) == ["odd", "bias", "three"]
    np.testing.assert_array_equal(found["odd"], np.arange(15).reshape(3, 5))
    np.testing.assert_array_equal(found["bias"], np.zeros(4))
    np.testing.assert_array_equal(found["three"], np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(("quant", "error"), [("F16", 1e-3), ("Q8_0", 0.02), ("Q4_0", 0.35)])
def test_only_marked_tensors_are_quantised(tmp_path: Path, quant: str, error: float) -> None:
    tensors = [Tensor("big", (8, 64), normal(1.0), quantise=True), Tensor("keep", (64,), normal(1))]
    exact = read(write_gguf(tmp_path / "f32.gguf", "a", {}, tensors, seed=3))
    path = write_gguf(tmp_path / "q.gguf", "a", {}, tensors, quant=quant, seed=3)

    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert types == {"big": quant, "keep": "F32"}
    found = read(path)
    np.testing.assert_array_equal(found["keep"], exact["keep"])
    assert 0 < np.abs(found["big"] - exact["big"]).max() < error


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    tensors = [Tensor("t", (4, 32), normal(2.0))]
    one, two, other = (
        write_gguf(tmp_path / name, "a", {}, tensors, seed=seed).read_bytes()
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert one == two != other


def test_matrix_keeps_the_variance() -> None:
    rng = np.random.default_rng(0)
    weight = matrix("w", 512, 256, scale=2.0)
    out = weight.fill(rng, weight.shape) @ rng.standard_normal(256).astype(np.float32)
    assert out.std() == pytest.approx(2.0, rel=0.15)


def test_constant_fills_with_float32() -> None:
    values = constant(3)(np.random.default_rng(0), (2, 2))
    assert values.dtype == np.float32
    assert values.tolist() == [[3, 3], [3, 3]]


def test_gpt2_tensors_have_their_own_output_and_grouped_keys() -> None:
    shapes = {
        tensor.name: tensor.shape
        for tensor in gpt2_tensors(
            num_tokens=300, ctx_length=128, n_embd=64, n_layer=3, n_ff=96, n_kv=32
        )
    }
    assert len(shapes) == 2 + 3 * 12 + 3
    assert shapes["position_embd.weight"] == (128, 64)
    assert shapes["blk.2.attn_qkv.weight"] == (128, 64)
    assert shapes["blk.0.ffn_down.weight"] == (64, 96)
    assert shapes["output.weight"] == (300, 64)


def test_unknown_type_and_broken_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="F32, F16, Q8_0, Q4_0, got 'Q9'"):
        write_gguf(tmp_path / "a", "a", {}, [vector("v", 4, 0)], quant="Q9")
    odd = Tensor("odd", (2, 48), normal(1), quantise=True)
    with pytest.raises(ConfigError, match="odd has rows of 48 values, which Q8_0 cannot hold"):
        write_gguf(tmp_path / "b", "a", {}, [odd], quant="Q8_0")
