"""How large a context may be: what the model allows and the machine's memory holds."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Protocol

from sssd_local.config import ModelConfig
from sssd_local.errors import ModelError

KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
KV_SHARE = 0.25
MIN_AUTOMATIC_CTX = 2048
UNKNOWN_MEMORY = 8 * 2**30
# Below this the system may find the memory after all, by swapping or dropping what it holds.
LEAST_REFUSED = 4 * 2**30


class KvFacts(Protocol):
    """What of a model decides how much memory its context takes."""

    @property
    def architecture(self) -> str: ...
    @property
    def trained_ctx(self) -> int: ...
    @property
    def kv_values(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def learned_positions(self) -> bool: ...


def choose_ctx(facts: KvFacts, config: ModelConfig, free_bytes: int) -> int:
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
        needed = config.ctx * facts.kv_values * KV_BYTES[config.kv_type]
        if needed > max(free_bytes, LEAST_REFUSED):
            raise ModelError(
                f"a context of {config.ctx} tokens needs {needed / 2**30:.1f} GiB, "
                f"{free_bytes / 2**30:.1f} GiB are free; use a smaller --ctx"
            )
        return config.ctx
    per_token = max(facts.kv_values * KV_BYTES[config.kv_type], 1.0)
    room = KV_SHARE * max(free_bytes - facts.size_bytes, 0)
    fitting = max(int(room / per_token) // 256 * 256, MIN_AUTOMATIC_CTX)
    return min(trained, fitting)


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
