"""Ways to write the same answer, each timed in the same way.

The clock runs from the moment the first token is there (the prompt has been evaluated) to the
moment the last one is: n tokens are n − 1 decoded tokens' time, for every method.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import llama_cpp
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from sssd_local.config import parse_speculation, unknown_name
from sssd_local.errors import ConfigError
from sssd_local.llm import LLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every method of a run has in common."""

    model: Path
    ctx: int
    threads: int
    kv_type: str = "f16"


@dataclass(frozen=True, slots=True)
class Run:
    """One written answer: its tokens, decode time in seconds, and what speculation did.

    `steps` are evaluations after the prompt's; `tested` drafted tokens, `accepted` those kept.
    """

    token_ids: tuple[int, ...]
    seconds: float
    steps: int
    tested: int
    accepted: int


class Method(Protocol):
    """A loaded model and a way to decode with it."""

    name: str

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        """Writes the greedy answer to a prompt, at most `max_tokens` long, from a cold start."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...


class SSSD:
    """This package; `speculation` is auto, off (plain decoding) or a fixed number of tokens.

    The n-gram tables are emptied before each answer; the odds and costs it learns are kept, as
    they are for a user, and start afresh with each benchmark.
    """

    def __init__(self, name: str, setup: Setup, speculation: str | int) -> None:
        self.name = name
        self._llm = LLM(
            setup.model,
            ctx=setup.ctx,
            threads=setup.threads,
            threads_batch=setup.threads,
            kv_type=setup.kv_type,
            speculation=speculation,
        )

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        """Writes one answer; see Method."""
        self._llm.reset()
        tokens: list[int] = []
        started = ended = 0.0
        for chunk in self._llm.stream(prompt, temperature=0, max_tokens=max_tokens):
            ended = time.perf_counter()
            started = started or ended
            tokens += chunk.token_ids
        stats = chunk.stats
        assert stats is not None
        return Run(tuple(tokens), ended - started, stats.steps, stats.tested, stats.accepted)

    def close(self) -> None:
        """Frees the model."""
        self._llm.close()


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


METHODS: dict[str, Callable[[str, Setup], Method]] = {
    "plain": lambda name, setup: SSSD(name, setup, "off"),
    "sssd": lambda name, setup: SSSD(name, setup, "auto"),
    "llama-cpp-python": LlamaCppPython,
    "llama-cpp-python-lookup": lambda name, setup: LlamaCppPython(name, setup, 10),
    "llama-cpp-python-lookup-2": lambda name, setup: LlamaCppPython(name, setup, 2),
}


def method_factory(name: str) -> Callable[[Setup], Method]:
    """How a method is loaded, by its name in METHODS or `sssd-WIDTH`; raises ConfigError."""
    make = METHODS.get(name)
    if make is not None:
        return lambda setup: make(name, setup)
    kind, _, width = name.partition("-")
    if kind == "sssd" and width.isdigit():
        speculation = parse_speculation(width)
        return lambda setup: SSSD(name, setup, speculation)
    raise ConfigError(
        f"{unknown_name('method', name, METHODS)}; known are {', '.join(METHODS)} and sssd-WIDTH"
    )
