"""LoRA adapters: small files that change a model's weights while it runs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sssd_local.engine.backend import C, log
from sssd_local.errors import BackendError, ModelError
from sssd_local.gguf_file import read_header

_TRIGGERED = "adapter.alora.invocation_tokens"


class Adapters:
    """The adapters of a model, freed with it; `paths` are (path, scale) pairs.

    Raises ModelError for a file that is no adapter or one of another model.
    """

    def __init__(
        self, model_handle: Any, architecture: str, paths: Sequence[tuple[str, float]]
    ) -> None:
        self._scales = [scale for _, scale in paths]
        self._handles = [_load(model_handle, architecture, Path(path)) for path, _ in paths]

    def __len__(self) -> int:
        return len(self._handles)

    def apply(self, context_handle: Any) -> None:
        """Lets a context of the model evaluate with all of them."""
        if not self._handles:
            return
        handles = (C.llama_adapter_lora_p_ctypes * len(self._handles))(*self._handles)
        scales = (ctypes.c_float * len(self._scales))(*self._scales)
        if C.llama_set_adapters_lora(context_handle, handles, len(handles), scales) != 0:
            raise BackendError(f"the LoRA adapters cannot be used{log.reason()}")


def _load(model_handle: Any, architecture: str, path: Path) -> Any:
    header = read_header(path)
    if header.metadata.get("general.type") != "adapter":
        raise ModelError(f"{path} is not a LoRA adapter; models are given without --lora")
    if header.architecture != architecture:
        raise ModelError(
            f"{path} is an adapter for {header.architecture or 'unknown'} models, "
            f"this is a {architecture} model"
        )
    if _TRIGGERED in header.metadata:
        raise ModelError(f"{path} is an adapter that a text switches on, which is not supported")
    log.complaints.clear()
    handle = C.llama_adapter_lora_init(model_handle, os.fsencode(path))
    if not handle:
        raise ModelError(f"{path} does not fit this model{log.reason()}")
    return handle
