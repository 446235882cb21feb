"""What context a model gets: as long as it allows and the machine's memory holds."""

from __future__ import annotations

import ctypes
import os
import sys
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sssd_local.config import MAX_WIDTH, ModelConfig
from sssd_local.engine.ability import Ability, RollBackKind, find_ability
from sssd_local.errors import ModelError
from sssd_local.gguf_cache import CELLS, CacheShape

KV_SHARE = 0.25
# Copies of a recurrent state, one for each token a draft may have, may take this share.
SNAPSHOT_SHARE = 1 / 16
MAX_SNAPSHOTS = 15
MIN_AUTOMATIC_CTX = 2048
UNKNOWN_MEMORY = 8 * 2**30
# Below this the system may find the memory after all, by swapping or dropping what it holds.
LEAST_REFUSED = 4 * 2**30


class CacheFacts(Protocol):
    """What of a model decides how much memory its context takes."""

    @property
    def architecture(self) -> str: ...
    @property
    def trained_ctx(self) -> int: ...
    @property
    def cache(self) -> CacheShape: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def learned_positions(self) -> bool: ...
    @property
    def recurrent(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """How a context is made: its length in tokens, what drafts it can check and what it keeps.

    `num_snapshots`: how many tokens a recurrent state can go back; `kept_window`: layers with a
    sliding window keep only so many tokens, 0 for all.
    """

    ctx: int
    ability: Ability
    num_snapshots: int = 0
    kept_window: int = 0

    @property
    def max_nodes(self) -> int:
        """How many tokens a draft may have."""
        if self.ability.roll_back is RollBackKind.SNAPSHOT:
            return self.num_snapshots
        return MAX_WIDTH - 1


def plan_context(facts: CacheFacts, config: ModelConfig, free_bytes: int) -> ContextPlan:
    """Plans a context within `free_bytes`. Raises ModelError for one that is impossible.

    Trees over a sliding window need all of its cache; where the user's length leaves no memory for
    that, or the user says so, it is kept small and drafts are chains.
    """
    swa_full = not facts.cache.window or config.swa_full is not False
    if swa_full and facts.cache.window and config.swa_full is None and config.ctx is not None:
        needed = _kv_bytes(facts.cache, config, config.ctx, swa_full=True)
        swa_full = needed <= max(free_bytes - facts.size_bytes, LEAST_REFUSED)
    ctx = choose_ctx(facts, config, free_bytes, swa_full=swa_full)
    num_snapshots = _num_snapshots(facts, free_bytes)
    ability = find_ability(
        facts.architecture,
        recurrent=facts.recurrent,
        swa_full=swa_full,
        snapshots=num_snapshots > 0,
    )
    if ability.roll_back is not RollBackKind.SNAPSHOT:
        num_snapshots = 0
    return ContextPlan(ctx, ability, num_snapshots, 0 if swa_full else facts.cache.window)


def _num_snapshots(facts: CacheFacts, free_bytes: int) -> int:
    if not facts.recurrent or not facts.cache.state_bytes:
        return 0
    room = SNAPSHOT_SHARE * max(free_bytes - facts.size_bytes, 0)
    return min(MAX_SNAPSHOTS, int(room / facts.cache.state_bytes))


def choose_ctx(
    facts: CacheFacts, config: ModelConfig, free_bytes: int, *, swa_full: bool = True
) -> int:
    """The context length in tokens: the user's, or the model's as far as memory allows.

    Automatic lengths take at most a quarter of what is free beside the weights. Raises ModelError
    for a length past the positions the model has learned, where llama.cpp aborts.
    """
    trained = max(facts.trained_ctx, 1)
    if config.ctx is not None:
        if facts.learned_positions and config.ctx > trained:
            raise ModelError(
                f"ctx {config.ctx} is past the {trained} positions this {facts.architecture} model "
                f"has learned; use --ctx {trained} or less"
            )
        needed = _kv_bytes(facts.cache, config, config.ctx, swa_full=swa_full)
        if needed > max(free_bytes, LEAST_REFUSED):
            raise ModelError(
                f"a context of {config.ctx} tokens needs {needed / 2**30:.1f} GiB, "
                f"{free_bytes / 2**30:.1f} GiB are free; use a smaller --ctx"
            )
        return config.ctx
    room = KV_SHARE * max(free_bytes - facts.size_bytes, 0)
    lengths = [*range(CELLS, trained, CELLS), trained]
    fitting = bisect_right(
        lengths, room, key=lambda ctx: _kv_bytes(facts.cache, config, ctx, swa_full=swa_full)
    )
    return min(trained, max(lengths[fitting - 1] if fitting else 0, MIN_AUTOMATIC_CTX))


def _kv_bytes(cache: CacheShape, config: ModelConfig, ctx: int, *, swa_full: bool) -> int:
    return cache.num_bytes(ctx, config.kv_type, config.value_type, swa_full=swa_full)


def available_bytes() -> int:
    """Memory that can be taken without swapping, from the operating system."""
    if sys.platform == "win32":
        return _available_windows()
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        # macOS tells the total only; about half of it is usually free or can be freed.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return UNKNOWN_MEMORY


def _available_windows() -> int:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *(
                (name, ctypes.c_ulonglong)
                for name in ("total", "available", "b", "c", "d", "e", "f")
            ),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - absent from other systems' stubs
    if kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return int(status.available)
    return UNKNOWN_MEMORY
