"""llama.cpp's samplers as one chain that can be asked for a token without aborting."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.tree import Float32Array
from sssd_local.engine.backend import C, captured_stderr, log
from sssd_local.engine.model import Model
from sssd_local.errors import BackendError

# llama.cpp's grammar parser calls itself for each bracket and runs out of stack.
MAX_DEPTH = 200
MAX_GRAMMAR = 1 << 20
_NOT_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|#[^\n]*', re.DOTALL)


class SamplerChain:
    """llama.cpp's samplers in the given order; each link is a pointer this chain then owns."""

    def __init__(self, num_vocab: int, links: Sequence[Any]) -> None:
        self._handle = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for link in links:
            C.llama_sampler_chain_add(self._handle, link)
        kind = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._candidates: NDArray[Any] = np.zeros(num_vocab, kind)
        self._vocabulary = np.arange(num_vocab, dtype=np.int32)
        self._array = C.llama_token_data_array()

    def sample(self, logits: Float32Array) -> int | None:
        """Samples and accepts one token; None when every token is masked out.

        Same order of work as llama_sampler_sample (llama-sampler.cpp), which cannot be asked
        whether anything is left and aborts the process on a grammar's dead end.
        """
        self._candidates["id"] = self._vocabulary
        self._candidates["logit"] = logits
        self._array.data = self._candidates.ctypes.data_as(C.llama_token_data_p)
        self._array.size = len(self._candidates)
        self._array.selected = -1
        self._array.sorted = False
        C.llama_sampler_apply(self._handle, ctypes.byref(self._array))
        chosen = self._array.data[self._array.selected] if self._array.selected >= 0 else None
        if chosen is None or not np.isfinite(chosen.logit):
            return None
        token = int(chosen.id)
        C.llama_sampler_accept(self._handle, token)
        return token

    def close(self) -> None:
        """Frees the samplers; doing it twice is harmless."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            C.llama_sampler_free(handle)


def new_logit_bias(num_vocab: int, bias: dict[int, float]) -> Any:
    """A sampler that adds to the logits of some tokens."""
    entries = (C.llama_logit_bias * len(bias))()
    for entry, (token, value) in zip(entries, bias.items(), strict=True):
        entry.token, entry.bias = token, value
    return C.llama_sampler_init_logit_bias(num_vocab, len(bias), entries)


def new_penalties(
    num_vocab: int, last_n: int, repeat: float, frequency: float, presence: float, prompt: Any
) -> Any:
    """A sampler of penalties that has already seen the prompt's last tokens (int32 [n])."""
    link = C.llama_sampler_init_penalties(num_vocab, last_n, repeat, frequency, presence)
    for token in prompt[-last_n:].tolist() if last_n else ():
        C.llama_sampler_accept(link, token)
    return link


def new_grammar(model: Model, grammar: str) -> Any:
    """A sampler that lets only a GBNF grammar's texts through, from its rule `root`."""
    if _depth(grammar) > MAX_DEPTH or len(grammar) > MAX_GRAMMAR:
        raise BackendError(
            f"the grammar is too large; at most {MAX_DEPTH} nested brackets and {MAX_GRAMMAR} "
            "characters are read"
        )
    with captured_stderr() as complaints:
        link = C.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not link:
        # "parse: error parsing grammar: expecting ')' at …", then an empty line and the rest.
        reason = f" ({complaints[0].split('grammar: ', 1)[-1]})" if complaints else log.reason()
        raise BackendError(f"the grammar cannot be used{reason}; it must be GBNF with a root")
    return link


def _depth(grammar: str) -> int:
    """How deeply brackets are nested outside literals, character classes and comments."""
    depth = deepest = 0
    for character in _NOT_BRACKETS.sub("", grammar):
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def new_greedy() -> Any:
    """A sampler that takes the likeliest token."""
    return C.llama_sampler_init_greedy()


def new_draw(
    *, top_k: int, typical_p: float, top_p: float, min_p: float, temperature: float, seed: int
) -> Iterator[Any]:
    """Samplers that truncate the distribution, sharpen it and draw; neutral ones are left out."""
    if top_k > 0:
        yield C.llama_sampler_init_top_k(top_k)
    if typical_p < 1:
        yield C.llama_sampler_init_typical(typical_p, 1)
    if top_p < 1:
        yield C.llama_sampler_init_top_p(top_p, 1)
    if min_p > 0:
        yield C.llama_sampler_init_min_p(min_p, 1)
    yield C.llama_sampler_init_temp(temperature)
    yield C.llama_sampler_init_dist(seed)
