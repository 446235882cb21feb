"""The llama.cpp library through llama-cpp-python: imported and checked here and nowhere else.

`C` is the ctypes binding. model.py, lora.py, context.py and chain.py wrap its models, adapters,
contexts and samplers; nothing outside of them and this file knows ctypes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sssd_local.errors import BackendError

TESTED_VERSIONS = "0.3.36 (accepted: 0.3.36 and later 0.3 releases)"

# GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU.
_GPU_KINDS = (1, 2)

_SYMBOLS = (
    "ggml_abort_callback",
    "llama_adapter_lora_init",
    "llama_adapter_lora_p_ctypes",
    "llama_batch",
    "llama_context_default_params",
    "llama_decode",
    "llama_free",
    "llama_get_logits",
    "llama_get_memory",
    "llama_init_from_model",
    "llama_log_callback",
    "llama_log_set",
    "llama_logit_bias",
    "llama_max_devices",
    "llama_memory_clear",
    "llama_memory_seq_cp",
    "llama_memory_seq_pos_max",
    "llama_memory_seq_pos_min",
    "llama_memory_seq_rm",
    "llama_model_chat_template",
    "llama_model_default_params",
    "llama_model_desc",
    "llama_model_free",
    "llama_model_get_vocab",
    "llama_model_has_decoder",
    "llama_model_has_encoder",
    "llama_model_is_hybrid",
    "llama_model_is_recurrent",
    "llama_model_load_from_file",
    "llama_model_meta_val_str",
    "llama_model_n_ctx_train",
    "llama_model_n_params",
    "llama_model_n_swa",
    "llama_model_size",
    "llama_print_system_info",
    "llama_progress_callback",
    "llama_sampler_accept",
    "llama_sampler_apply",
    "llama_sampler_chain_add",
    "llama_sampler_chain_default_params",
    "llama_sampler_chain_init",
    "llama_sampler_free",
    "llama_sampler_init_dist",
    "llama_sampler_init_grammar",
    "llama_sampler_init_greedy",
    "llama_sampler_init_logit_bias",
    "llama_sampler_init_min_p",
    "llama_sampler_init_penalties",
    "llama_sampler_init_temp",
    "llama_sampler_init_top_k",
    "llama_sampler_init_top_p",
    "llama_sampler_init_typical",
    "llama_set_abort_callback",
    "llama_set_adapters_lora",
    "llama_set_n_threads",
    "llama_state_seq_get_data",
    "llama_state_seq_get_data_ext",
    "llama_state_seq_get_size",
    "llama_state_seq_get_size_ext",
    "llama_state_seq_set_data",
    "llama_state_seq_set_data_ext",
    "llama_supports_gpu_offload",
    "llama_token_data_array",
    "llama_token_data_p",
    "llama_token_to_piece",
    "llama_tokenize",
    "llama_version",
    "llama_vocab_bos",
    "llama_vocab_eos",
    "llama_vocab_get_add_bos",
    "llama_vocab_is_eog",
    "llama_vocab_n_tokens",
)


def _package_version() -> str:
    # Not through importlib.metadata, which takes 10 ms to import.
    return str(sys.modules["llama_cpp"].__version__)


def _load_library() -> Any:
    try:
        import llama_cpp.llama_cpp as library
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise BackendError(
            f"llama-cpp-python cannot be loaded ({error}); reinstall it, tested: {TESTED_VERSIONS}"
        ) from error
    missing = [name for name in _SYMBOLS if not hasattr(library, name)]
    if missing:
        raise BackendError(
            f"llama-cpp-python {_package_version()} lacks {', '.join(missing)}; "
            f"install a tested version: {TESTED_VERSIONS}"
        )
    return library


C = _load_library()


# GGML_LOG_LEVEL_ERROR of ggml.h.
_ERROR = 4


class _Log:
    """Takes llama.cpp's log: shown with -v, and its last complaints kept for error messages."""

    def __init__(self) -> None:
        self.verbose = False
        self.complaints: deque[str] = deque(maxlen=4)
        # The reference must live as long as the process: llama.cpp keeps the pointer.
        self._callback = C.llama_log_callback(self._take)

    def start(self, verbose: bool) -> None:
        self.verbose = verbose
        self.complaints.clear()
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", "replace")
        if level == _ERROR and line.strip():
            self.complaints.append(line.strip().split(": ", 1)[-1])
        if self.verbose:
            print(line, end="", file=sys.stderr, flush=True)

    def reason(self) -> str:
        """llama.cpp's first complaint since the start, in brackets, or ""."""
        return f" ({self.complaints[0]})" if self.complaints else ""


log = _Log()


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Keeps what llama.cpp writes to stderr past its log; the list has its lines afterwards."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        try:
            saved = os.dup(2)
        except OSError:
            yield lines
            return
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()


class _Hook:
    """sys.unraisablehook while C code runs; each thread has its own list of what it caught."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._previous: Any = None
        self._mine = threading.local()

    def enter(self, caught: list[BaseException]) -> None:
        """Begins to collect this thread's exceptions in `caught`."""
        self._mine.caught = caught
        with self._lock:
            self._num_users += 1
            if self._num_users == 1:
                self._previous, sys.unraisablehook = sys.unraisablehook, self._keep

    def leave(self) -> None:
        """Ends that; the last thread puts the hook back that was there."""
        self._mine.caught = None
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                sys.unraisablehook = self._previous

    def _keep(self, information: Any) -> None:
        error, caught = information.exc_value, getattr(self._mine, "caught", None)
        if caught is None or error is None or isinstance(error, Exception):
            self._previous(information)
        else:
            caught.append(error)


_hook = _Hook()


@contextmanager
def caught_in_callbacks(caught: list[BaseException]) -> Iterator[None]:
    """Collects a Ctrl-C that comes while C code runs.

    Python raises it at the entry of the next callback, before any `try` there, and ctypes would
    print and drop it. Other exceptions go where they always go.
    """
    _hook.enter(caught)
    try:
        yield
    finally:
        _hook.leave()


def gpu_names() -> list[str]:
    """What the GPUs that llama.cpp found are called; empty without one (ggml-backend.h)."""
    from llama_cpp._ggml import libggml

    try:
        count, get = libggml.ggml_backend_dev_count, libggml.ggml_backend_dev_get
        kind, describe = libggml.ggml_backend_dev_type, libggml.ggml_backend_dev_description
    except AttributeError:
        # Where a library does not pass on what those that it links have.
        return []
    count.restype, get.restype = ctypes.c_size_t, ctypes.c_void_p
    describe.restype = ctypes.c_char_p
    get.argtypes = [ctypes.c_size_t]
    kind.argtypes = describe.argtypes = [ctypes.c_void_p]
    devices = [get(index) for index in range(count())]
    return [describe(one).decode("utf-8", "replace") for one in devices if kind(one) in _GPU_KINDS]


def json_schema_to_grammar(schema: str) -> str:
    """GBNF for a JSON schema, by llama-cpp-python's converter; raises BackendError."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(schema))
    except RecursionError as error:
        raise BackendError("the JSON schema is nested too deeply") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise BackendError(f"the JSON schema cannot be used: {error or type(error)}") from error


def build_name() -> str:
    """Names the llama.cpp build: package version, library version and CPU or GPU features."""
    library = C.llama_version().decode("utf-8", "replace")
    features = C.llama_print_system_info().decode("utf-8", "replace").strip()
    return f"{_package_version()}/{library}/{features}"
