"""The model that comes with the package, so that a chat works before anything is downloaded."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from sssd_local.errors import ModelError

TINY = "tiny"
BUILTIN_MODELS = {TINY: "tiny.gguf"}
TINY_NOTE = (
    "tiny is a small demonstration model; for real answers name a GGUF file of your own: "
    "sssd-local run MODEL.gguf"
)


def tiny_path() -> Path:
    """The file of the model that answers where none is named; raises ModelError without it."""
    return _file_of(TINY)


def is_builtin(path: Path) -> bool:
    """Whether this file is one that the package ships."""
    return any(path == _packaged(name) for name in BUILTIN_MODELS)


def builtin_path(name: str) -> Path | None:
    """The file of a model that the package ships by this short name; None for other names.

    Raises ModelError where the file is missing or not a file of its own.
    """
    return _file_of(name) if name in BUILTIN_MODELS else None


def _file_of(name: str) -> Path:
    found = _packaged(name)
    # llama.cpp maps the file, so one inside a zip archive is of no use.
    if not isinstance(found, Path) or not found.is_file():
        raise ModelError(
            f"the built-in model {name} is not at {found}; install sssd-local again with pip, "
            "or name a GGUF file"
        )
    return found


def _packaged(name: str) -> Traversable:
    return files("sssd_local") / "data" / BUILTIN_MODELS[name]
