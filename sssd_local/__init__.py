"""Any GGUF model, answering faster on the machine you own, with the model's own output."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sssd_local.config import GenerationConfig, ModelConfig, SamplingConfig
    from sssd_local.errors import SSSDError
    from sssd_local.llm import LLM, Chunk, Completion
    from sssd_local.stats import Stats

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Chunk",
    "Completion",
    "GenerationConfig",
    "ModelConfig",
    "SSSDError",
    "SamplingConfig",
    "Stats",
    "__version__",
]

_HOMES = {
    "LLM": "llm",
    "Chunk": "llm",
    "Completion": "llm",
    "Stats": "stats",
    "GenerationConfig": "config",
    "ModelConfig": "config",
    "SamplingConfig": "config",
    "SSSDError": "errors",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `sssd-local --help` imports neither numpy nor llama.cpp.
    if name in _HOMES:
        return getattr(import_module(f"sssd_local.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sssd_local' has no attribute {name!r}")
