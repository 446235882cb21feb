"""The context's length follows from the model, the memory and the user."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sssd_local.config import ModelConfig
from sssd_local.engine.memory import MIN_AUTOMATIC_CTX, available_bytes, choose_ctx
from sssd_local.errors import ModelError

GIB = 2**30


@dataclass(frozen=True)
class Facts:
    architecture: str = "llama"
    trained_ctx: int = 131072
    kv_values: int = 65536
    size_bytes: int = 5 * GIB
    learned_positions: bool = False


def test_the_user_is_obeyed() -> None:
    assert choose_ctx(Facts(), ModelConfig(ctx=200_000), 100 * GIB) == 200_000
    assert choose_ctx(Facts(), ModelConfig(ctx=32_768), 0) == 32_768


def test_what_cannot_fit_is_refused_before_it_is_tried() -> None:
    with pytest.raises(ModelError, match=r"needs 122\.1 GiB, 10\.0 GiB are free"):
        choose_ctx(Facts(), ModelConfig(ctx=1_000_000), 10 * GIB)


def test_a_quarter_of_free_memory_beside_the_weights() -> None:
    # 8 GiB are free beside the weights, 2 GiB for 128 KiB a token.
    assert choose_ctx(Facts(), ModelConfig(), 13 * GIB) == 16384
    assert choose_ctx(Facts(), ModelConfig(kv_type="f32"), 13 * GIB) == 8192
    assert choose_ctx(Facts(), ModelConfig(kv_type="q8_0"), 13 * GIB) == 30720 - 30720 % 256


def test_never_more_than_the_model_was_trained_for() -> None:
    assert choose_ctx(Facts(trained_ctx=4096), ModelConfig(), 1000 * GIB) == 4096


def test_scarce_memory_still_gives_a_usable_context() -> None:
    assert choose_ctx(Facts(), ModelConfig(), 0) == MIN_AUTOMATIC_CTX
    assert choose_ctx(Facts(trained_ctx=512), ModelConfig(), 0) == 512


def test_learned_positions_are_a_limit() -> None:
    facts = Facts(architecture="gpt2", trained_ctx=1024, learned_positions=True)
    assert choose_ctx(facts, ModelConfig(ctx=1024), GIB) == 1024
    with pytest.raises(ModelError, match="use --ctx 1024 or less"):
        choose_ctx(facts, ModelConfig(ctx=1025), GIB)


def test_models_without_a_cache_take_what_they_were_trained_for() -> None:
    assert choose_ctx(Facts(kv_values=0), ModelConfig(), 6 * GIB) == 131072


def test_some_memory_is_available() -> None:
    assert available_bytes() > 16 * 2**20
