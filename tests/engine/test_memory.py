"""The context's length follows from the model, the memory and the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sssd_local.config import ModelConfig
from sssd_local.engine.ability import RollBackKind, Speculation
from sssd_local.engine.memory import (
    MAX_SNAPSHOTS,
    MIN_AUTOMATIC_CTX,
    available_bytes,
    choose_ctx,
    plan_context,
)
from sssd_local.errors import ModelError
from sssd_local.gguf_cache import CacheShape

GIB = 2**30
DENSE = CacheShape(32768, 32768)
# Half the layers see 1,024 tokens only.
SLIDING = CacheShape(16384, 16384, 16384, 16384, window=1024)


@dataclass(frozen=True)
class Facts:
    architecture: str = "llama"
    trained_ctx: int = 131072
    cache: CacheShape = DENSE
    size_bytes: int = 5 * GIB
    learned_positions: bool = False
    recurrent: bool = False


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
    values_only = ModelConfig(kv_type="f32", kv_type_v="q8_0")
    assert choose_ctx(Facts(), values_only, 13 * GIB) == 12800


def test_small_windows_leave_room_for_a_longer_context() -> None:
    facts = Facts(cache=SLIDING)
    assert choose_ctx(facts, ModelConfig(), 13 * GIB) == 16384
    small = choose_ctx(facts, ModelConfig(), 13 * GIB, swa_full=False)
    assert small == 31232
    # The window's 1,024 cells and a batch of 512.
    assert SLIDING.num_bytes(small, "f16", "f16", swa_full=False) == (small + 1536) * 32768 * 2


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
    assert choose_ctx(Facts(cache=CacheShape(0, 0)), ModelConfig(), 6 * GIB) == 131072


def plan(free: int = 13 * GIB, facts: Facts | None = None, **options: Any) -> Any:
    return plan_context(facts or Facts(cache=SLIDING), ModelConfig(**options), free)


def test_windows_are_kept_whole_for_trees_while_memory_lasts() -> None:
    for options in ({}, {"ctx": 60_000}, {"swa_full": True, "ctx": 90_000}):
        made = plan(**options)
        assert made.ability.speculation is Speculation.TREE
        assert made.kept_window == 0
    for options in ({"swa_full": False}, {"ctx": 70_000}):
        made = plan(**options)
        assert made.ability.speculation is Speculation.CHAIN
        assert made.ability.roll_back is RollBackKind.REMOVE
        assert made.kept_window == 1024
        assert made.max_nodes == 63
    with pytest.raises(ModelError, match=r"needs 22\.9 GiB, 13\.0 GiB are free"):
        plan(swa_full=True, ctx=187_500)
    assert plan(ctx=187_500).kept_window == 1024


def test_models_without_a_window_ignore_swa_full() -> None:
    made = plan(facts=Facts(), swa_full=False)
    assert made.ability.speculation is Speculation.TREE
    assert made.kept_window == 0


def hybrid(architecture: str, state_mib: float) -> Facts:
    shape = CacheShape(1024, 1024, state_values=int(state_mib * 2**18))
    return Facts(architecture, cache=shape, recurrent=True)


@pytest.mark.parametrize(
    ("facts", "num_snapshots", "roll_back", "max_nodes"),
    [
        (hybrid("lfm2", 1), MAX_SNAPSHOTS, RollBackKind.SNAPSHOT, MAX_SNAPSHOTS),
        # 8 GiB are free beside the weights, and 512 MiB of it for snapshots.
        (hybrid("qwen35", 70), 7, RollBackKind.SNAPSHOT, 7),
        (hybrid("qwen35", 600), 0, RollBackKind.RESTORE, 63),
        (hybrid("qwen3next", 70), 0, RollBackKind.RESTORE, 63),
        (hybrid("mamba", 1), 0, RollBackKind.RESTORE, 63),
    ],
)
def test_snapshots_as_memory_allows(
    facts: Facts, num_snapshots: int, roll_back: RollBackKind, max_nodes: int
) -> None:
    made = plan(facts=facts)
    assert made.ability.speculation is Speculation.CHAIN
    assert made.ability.roll_back is roll_back
    assert (made.num_snapshots, made.max_nodes) == (num_snapshots, max_nodes)


def test_some_memory_is_available() -> None:
    assert available_bytes() > 16 * 2**20
