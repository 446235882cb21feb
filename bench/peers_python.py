"""llama-cpp-python as a peer: its own `generate`, alone or with its prompt lookup."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from bench.method import Run, Setup


class LlamaCppPython:
    """llama-cpp-python's own `generate`, alone or with its prompt lookup of `num_draft` tokens."""

    def __init__(self, name: str, setup: Setup, num_draft: int = 0) -> None:
        self.name = name
        self._drafts = _CountedLookup(num_draft) if num_draft else None
        kv_type = getattr(llama_cpp, f"GGML_TYPE_{setup.kv_type.upper()}")
        self._llama = llama_cpp.Llama(
            os.fspath(setup.model),
            n_ctx=setup.ctx,
            n_threads=setup.threads,
            n_threads_batch=setup.threads,
            type_k=kv_type,
            type_v=kv_type,
            # llama.cpp cannot quantise the values without it.
            flash_attn=setup.kv_type == "q8_0",
            draft_model=self._drafts,
            # Without it, drafting fails past the first 512 tokens.
            logits_all=self._drafts is not None,
            verbose=False,
        )

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        """Writes one answer; see Method."""
        self._llama.reset()
        if self._drafts is not None:
            self._drafts.clear()
        tokens: list[int] = []
        started = ended = 0.0
        for token in self._llama.generate(list(prompt), temp=0):
            ended = time.perf_counter()
            started = started or ended
            tokens.append(int(token))
            if len(tokens) == max_tokens or token == self._llama.token_eos():
                break
        timed = len(tokens) - 1
        if self._drafts is None:
            return Run(tuple(tokens), ended - started, timed, 0, 0)
        steps, tested = self._drafts.calls, self._drafts.proposed
        return Run(tuple(tokens), ended - started, steps, tested, timed - steps)

    def close(self) -> None:
        """Frees the model."""
        self._llama.close()


class _CountedLookup(LlamaPromptLookupDecoding):  # type: ignore[misc]
    """Prompt lookup that counts what it proposes; it is asked once before each evaluation."""

    def __init__(self, num_draft: int) -> None:
        super().__init__(num_pred_tokens=num_draft)
        self.clear()

    def clear(self) -> None:
        self.calls = self.proposed = 0

    def __call__(self, input_ids: np.ndarray, /, **options: Any) -> np.ndarray:
        draft: np.ndarray = super().__call__(input_ids, **options)
        self.calls += 1
        self.proposed += len(draft)
        return draft
