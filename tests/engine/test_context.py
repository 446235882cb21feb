"""Batches are checked before llama.cpp sees them, and their logits are a view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local.config import ModelConfig
from sssd_local.engine.context import BATCH_TOKENS, NUM_SEQUENCES, Context
from sssd_local.engine.kv import leaf_masks, sequence_sets
from sssd_local.engine.model import Model
from sssd_local.errors import BackendError, ModelError
from tests.tiny import Bench

TinyModel = Callable[..., Path]


def int32(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


@pytest.fixture
def bench(tiny_model: TinyModel) -> Iterator[Bench]:
    with Bench(tiny_model(), ctx=40) as made:
        yield made


def test_logits_are_rows_in_batch_order(bench: Bench) -> None:
    bench.context.decode_rows(int32(5, 6, 7), int32(0, 1, 2), None)
    logits = bench.context.logits
    assert logits.shape == (3, 320)
    assert logits.dtype == np.float32
    assert not logits.flags.owndata
    assert np.abs(logits[2] - bench.fresh_logits([5, 6, 7])).max() < 1e-3
    assert [bench.context.last_position(s) for s in range(NUM_SEQUENCES)] == [2] * NUM_SEQUENCES


def test_an_interruption_between_filling_and_running_leaves_no_masks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = leaf_masks([-1, -1])
    assert masks is not None

    def interrupt(rows: int, num_logits: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.context, "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.context.decode_rows(int32(5, 6, 7), int32(0, 1, 1), sequence_sets(masks))
    bench.context.decode_rows(int32(5, 6, 7), int32(0, 1, 2), None)
    assert np.abs(bench.context.logits[2] - bench.fresh_logits([5, 6, 7])).max() < 1e-3


def test_one_token_is_checked_too(bench: Bench) -> None:
    for token, position in ((-1, 0), (320, 0), (5, -1), (5, 40)):
        with pytest.raises(BackendError, match="out of range"):
            bench.context.decode_one(token, position)
    bench.context.decode_one(5, 0)
    bench.context.decode_one(6, 1)
    assert np.abs(bench.context.logits[0] - bench.fresh_logits([5, 6])).max() < 1e-3


def test_a_prompt_has_logits_for_its_end_only(bench: Bench) -> None:
    bench.context.decode_prompt(int32(5, 6, 7), 0, logits=True)
    assert bench.context.logits.shape == (1, 320)
    assert np.abs(bench.context.logits[0] - bench.fresh_logits([5, 6, 7])).max() < 1e-3
    bench.context.decode_prompt(int32(8), 3, logits=False)
    with pytest.raises(BackendError, match="no logits"):
        _ = bench.context.logits


@pytest.mark.parametrize(
    ("tokens", "positions", "message"),
    [
        ([], [], "1 to 512 tokens, not 0"),
        ([5] * (BATCH_TOKENS + 1), list(range(BATCH_TOKENS + 1)), "1 to 512 tokens, not 513"),
        ([5], [40], r"position 40 is past the context \(40\)"),
        ([5], [-1], "past the context"),
        ([320], [0], "from 0 to 319"),
        ([-1], [0], "from 0 to 319"),
        ([5, 6], [0, 2], "could not evaluate a batch: code -1"),
    ],
)
def test_impossible_batches_are_errors(
    bench: Bench, tokens: list[int], positions: list[int], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        bench.context.decode_rows(int32(*tokens), int32(*positions), None)
    bench.context.decode_rows(int32(5), int32(0), None)
    assert bench.context.logits.shape == (1, 320)


def test_the_limit_is_the_users_not_the_padded_one(bench: Bench) -> None:
    assert bench.context.ctx == 40
    bench.context.decode_prompt(np.full(40, 5, np.int32), 0, logits=False)
    with pytest.raises(BackendError, match="past the context"):
        bench.context.decode_rows(int32(5), int32(40), None)


def test_learned_positions_limit_the_context(tiny_model: TinyModel) -> None:
    config = ModelConfig(ctx=513)
    model = Model(tiny_model("gpt2"), config)
    with pytest.raises(ModelError, match="past the 512 positions this gpt2 model has learned"):
        Context(model, config, 1, 1)
    model.close()


def test_a_cache_type_the_model_cannot_have_is_explained(tiny_model: TinyModel) -> None:
    config = ModelConfig(kv_type="q8_0", ctx=64)
    model = Model(tiny_model("gpt2"), config)
    context = Context(model, config, 1, 1)
    context.close()
    context.close()
    with pytest.raises(BackendError, match="closed"):
        context.decode_rows(int32(5), int32(0), None)
    model.close()


def test_recurrent_models_have_one_sequence(tiny_model: TinyModel) -> None:
    with Bench(tiny_model("mamba")) as bench:
        assert bench.context.num_sequences == 1
        bench.context.decode_rows(int32(5), int32(0), None)
        assert bench.context.remove(0, 0)
        bench.context.decode_rows(int32(5), int32(0), None)
        bench.context.decode_rows(int32(6), int32(1), None)
        assert not bench.context.remove(0, 1)
        bench.context.clear()
        assert bench.context.last_position(0) == -1


def test_a_state_can_be_put_back(tiny_model: TinyModel) -> None:
    for on_device in (False, True):
        with Bench(tiny_model("qwen3next")) as bench:
            context = bench.context
            context.decode_prompt(int32(5, 6, 7), 0, logits=False)
            state = context.save_state(on_device=on_device)
            context.decode_rows(int32(8, 9), int32(3, 4), None)
            wanted = context.logits.copy()
            context.load_state(state, on_device=on_device)
            assert context.remove(0, 3)
            assert context.last_position(0) == 2
            context.decode_rows(int32(8, 9), int32(3, 4), None)
            assert np.abs(context.logits - wanted).max() < 1e-4


def test_a_damaged_state_is_an_error(tiny_model: TinyModel) -> None:
    with Bench(tiny_model("mamba")) as bench:
        bench.context.decode_one(5, 0)
        state = bench.context.save_state(on_device=False)
        with pytest.raises(BackendError, match="state could not be restored"):
            bench.context.load_state(state[:-8], on_device=False)
        bench.context.clear()
        bench.context.decode_one(5, 0)


def test_evaluating_again_leaves_logits_and_time_alone(bench: Bench) -> None:
    context = bench.context
    context.decode_rows(int32(5, 6), int32(0, 1), None)
    before, seconds = context.logits.copy(), context.decode_seconds
    context.evaluate_again(int32(7, 8), 2)
    assert np.array_equal(context.logits, before)
    assert context.decode_seconds == seconds
    assert context.last_position(0) == 3


def test_positions_of_a_small_window(tiny_model: TinyModel) -> None:
    options = {"swa_full": False}
    with Bench(tiny_model("gemma", ctx_length=2048), ctx=2048, options=options) as bench:
        assert bench.context.first_position(0) == -1
        for start in range(0, 900, 300):
            bench.context.decode_prompt(np.full(300, 5, np.int32), start, logits=False)
        assert bench.context.first_position(0) > 100
        assert bench.context.last_position(0) == 899


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "off"),
        ({"flash_attention": "off"}, "off"),
        ({"flash_attention": "on"}, "on"),
        ({"kv_type": "q8_0"}, "on"),
        ({"kv_type_v": "q8_0"}, "on"),
        ({"kv_type": "q8_0", "kv_type_v": "f16"}, "off"),
        ({"kv_type": "q8_0", "kv_type_v": "f16", "flash_attention": "on"}, "on"),
    ],
)
def test_flash_attention_on_a_cpu(
    tiny_model: TinyModel, options: dict[str, Any], expected: str
) -> None:
    """Off, because its cost grows row by row; quantised values cannot do without it."""
    config = ModelConfig(ctx=64, **options)
    model = Model(tiny_model(), config)
    model.gpu = False
    context = Context(model, config, 1, 1)
    assert context.flash_attention == expected
    assert context.has_flash_attention == (expected == "on")
    context.decode_one(5, 0)
    assert np.isfinite(context.logits).all()
    if not options:
        model.gpu, model.gpu_layers = True, -1
        other = Context(model, config, 1, 1)
        assert other.flash_attention == "auto"
        other.close()
    context.close()
    model.close()


def test_threads_can_be_changed(bench: Bench) -> None:
    bench.context.decode_rows(int32(5), int32(0), None)
    before = bench.context.logits.copy()
    bench.context.remove(-1, 0)
    bench.context.set_threads(2, 2)
    bench.context.decode_rows(int32(5), int32(0), None)
    assert np.array_equal(bench.context.logits, before)
    assert bench.context.decode_seconds > 0
