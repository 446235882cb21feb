"""Filled contexts for the probe: the same to the engine as evaluated ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.tree import Int32Array
from sssd_local.engine.context import Context
from sssd_local.engine.rig import MAX_EVALUATED, CellLayout, ContextRig, read_layout
from sssd_local.errors import ModelError
from tests.tiny import Bench

TinyModel = Callable[..., Path]


@pytest.mark.parametrize("kind", ["llama", "moe", "gpt2"])
@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_a_context_is_filled_without_evaluation(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, kind: str, kv_type: str
) -> None:
    with Bench(tiny_model(kind), ctx=256, kv_type=kv_type) as bench:
        rig = ContextRig(bench.context)
        evaluated: list[int] = []
        decode = bench.context.decode_prompt

        def spy(tokens: Int32Array, position: int, *, logits: bool) -> None:
            evaluated.append(len(tokens))
            decode(tokens, position, logits=logits)

        monkeypatch.setattr(bench.context, "decode_prompt", spy)
        assert rig.fill(180)
        assert evaluated == [1]
        for sequence in range(bench.context.num_sequences):
            assert bench.context.last_position(sequence) == 179
        for width in (1, 2, 3, 9, 40):
            rig.decode(width)
            rig.decode_tree(width)
            assert bench.context.last_position(0) == 179
        assert np.isfinite(bench.context.logits).all()
        assert rig.fill(0)
        assert bench.context.last_position(0) == -1


def test_zeros_are_read_back_as_zeros(tiny_model: TinyModel) -> None:
    """With K = 0 all cells weigh the same and with V = 0 they add nothing but dilution."""
    with Bench(tiny_model(), ctx=256) as bench:
        rig = ContextRig(bench.context)
        rows = []
        for length in (100, 200):
            rig.fill(length)
            rig.decode(1)
            rows.append(bench.context.logits[0].copy())
        assert not np.array_equal(*rows)


def test_where_the_layout_is_another_short_contexts_are_evaluated(tiny_model: TinyModel) -> None:
    with Bench(tiny_model("gemma"), ctx=1024) as bench:
        rig = ContextRig(bench.context)
        assert rig.fill(MAX_EVALUATED)
        assert bench.context.last_position(0) == MAX_EVALUATED - 1
        rig.decode_tree(5)
        assert not rig.fill(MAX_EVALUATED + 1)
        assert bench.context.last_position(0) == -1


def state(num_cells: int = 1, layers: int = 2, transposed: bool = False) -> bytes:
    parts = [struct.pack("<IiII", 0x1234, 0, 1, num_cells)]
    parts += [struct.pack("<iIi", position, 1, 0) for position in range(num_cells)]
    parts += [struct.pack("<II", int(transposed), layers)]
    for _ in range(layers):
        parts += [struct.pack("<iQ", 1, 8), bytes(8 * num_cells)]
    for _ in range(layers):
        parts += [struct.pack("<iII", 1, 2, 5) if transposed else struct.pack("<iQ", 1, 6)]
        parts += [bytes((10 if transposed else 6) * num_cells)]
    return b"".join(parts)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("num_cells", [1, 2, 77])
def test_a_state_of_more_cells_is_put_together(num_cells: int, transposed: bool) -> None:
    layout = read_layout(state(transposed=transposed))
    assert isinstance(layout, CellLayout)
    assert layout.state(num_cells).tobytes() == state(num_cells, transposed=transposed)


@given(st.binary(max_size=300))
def test_other_layouts_are_recognised(data: bytes) -> None:
    assert read_layout(data) is None


@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_cut_or_longer_states_are_recognised(cut: int) -> None:
    assert read_layout(state()[:-cut]) is None
    assert read_layout(state() + bytes(cut)) is None
    assert read_layout(state(2)) is None


def test_a_rig_changes_flash_attention_and_goes_on(tiny_model: TinyModel) -> None:
    with Bench(tiny_model(), ctx=512) as bench:
        made: list[Context] = []

        def make(on: bool) -> Context:
            config = replace(bench.config, flash_attention="on" if on else "off")
            made.append(Context(bench.model, config, 1, 1))
            return made[-1]

        rig = ContextRig(make(False), make)
        rig.set_threads(1, 1)
        assert rig.fill(100)
        assert rig.set_flash_attention(False)
        assert len(made) == 1
        for on in (True, False):
            assert rig.set_flash_attention(on)
            assert rig.context is made[-1]
            assert rig.context.has_flash_attention == on
            assert rig.fill(100)
            rig.decode(4)
            assert rig.context.last_position(0) == 99
        rig.context.close()
        assert not ContextRig(bench.context).set_flash_attention(True)


def test_a_rig_that_cannot_change_keeps_what_it_had(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as bench:

        def make(on: bool) -> Context:
            if on:
                raise ModelError("no memory")
            return Context(bench.model, bench.config, 1, 1)

        rig = ContextRig(make(False), make)
        assert not rig.set_flash_attention(True)
        rig.decode(4)
        assert not rig.context.has_flash_attention
        rig.context.close()
