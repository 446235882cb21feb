"""Choosing the next token from a row of logits, greedily or by llama.cpp's samplers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from sssd_local.config import SamplingConfig
from sssd_local.draft.recycle import NO_TOKEN as NO_RUNNER_UP
from sssd_local.draft.recycle import TOP_K
from sssd_local.draft.tree import Float32Array, Int32Array
from sssd_local.engine import chain
from sssd_local.engine.backend import json_schema_to_grammar
from sssd_local.engine.model import Model
from sssd_local.errors import BackendError, ConfigError

NO_TOKEN = -1
# Tokens whose logits are further below the largest are hardly ever sampled.
RUNNER_UP_LOGITS = 5.0
MANY_HITS = 1024


class Sampler(Protocol):
    """Samples one token from a row of logits (float32 [vocabulary]) and takes it as chosen.

    NO_TOKEN ends the answer: a grammar is complete and the vocabulary has no token to say so.
    """

    def sample(self, logits: Float32Array) -> int: ...
    def close(self) -> None: ...


class Greedy:
    """The likeliest token, the first of equals."""

    def sample(self, logits: Float32Array) -> int:
        """The index of the largest logit."""
        return int(logits.argmax())

    def close(self) -> None:
        """Nothing to free."""


class Chained:
    """llama.cpp's sampler chain; `can_end` says whether the vocabulary has a token for the end."""

    def __init__(self, links: chain.SamplerChain, *, can_end: bool) -> None:
        self._chain = links
        self._can_end = can_end

    def sample(self, logits: Float32Array) -> int:
        """Samples in the chain's order; raises BackendError when no token is allowed."""
        token = self._chain.sample(logits)
        if token is not None:
            return token
        if not self._can_end:
            return NO_TOKEN
        raise BackendError(
            "no token is allowed next: the grammar asks for text the model's vocabulary cannot "
            "write, or every token is biased away"
        )

    def close(self) -> None:
        """Frees the chain."""
        self._chain.close()


def runner_ups(logits: Float32Array, rows: Sequence[int]) -> Int32Array:
    """The likeliest tokens of some rows of float32 [n, vocabulary]: int32 [rows, TOP_K].

    The largest logit first; -1 where no further one is within RUNNER_UP_LOGITS of it.
    """
    found = np.full((len(rows), TOP_K), NO_RUNNER_UP, np.int32)
    for index, row in enumerate(rows):
        values = logits[row]
        # One comparison and a search of few hits cost a sixth of argpartition.
        tokens = np.flatnonzero(values > values.max() - RUNNER_UP_LOGITS)
        if len(tokens) > MANY_HITS:
            # A flat row; sorting all of a large vocabulary takes as long as a step.
            tokens = np.sort(tokens[np.argpartition(-values[tokens], TOP_K)[:TOP_K]])
        order = np.argsort(-values[tokens], kind="stable")[:TOP_K]
        found[index, : len(order)] = tokens[order]
    return found


def new_sampler(model: Model, config: SamplingConfig, prompt: Int32Array) -> Sampler:
    """The sampler for one answer to `prompt`, whose last tokens count for the penalties.

    Order as in llama.cpp's own chain (common/sampling.cpp) with the grammar first after bias and
    penalties: behind a truncation it can be left without any token. Raises ConfigError or
    BackendError for a bias, grammar or schema that cannot be used.
    """
    if _is_plain_greedy(config):
        return Greedy()
    last = model.facts.num_vocab - 1
    outside = [token for token in config.logit_bias if token > last]
    if outside:
        raise ConfigError(f"logit_bias names token {outside[0]}, the vocabulary ends at {last}")
    links = list(_links(model, config, prompt))
    return Chained(chain.SamplerChain(last + 1, links), can_end=bool(model.facts.eos))


def _is_plain_greedy(config: SamplingConfig) -> bool:
    shaped = config.logit_bias or config.grammar is not None or config.json_schema is not None
    return config.temperature == 0 and not shaped and not _penalised(config)


def _penalised(config: SamplingConfig) -> bool:
    penalties = (config.repeat_penalty - 1, config.frequency_penalty, config.presence_penalty)
    return config.penalty_last_n > 0 and any(penalties)


def _links(model: Model, config: SamplingConfig, prompt: Int32Array) -> Iterator[Any]:
    if config.logit_bias:
        yield chain.new_logit_bias(model.facts.num_vocab, dict(config.logit_bias))
    if _penalised(config):
        yield chain.new_penalties(
            model.facts.num_vocab,
            config.penalty_last_n,
            config.repeat_penalty,
            config.frequency_penalty,
            config.presence_penalty,
            prompt,
        )
    grammar = config.grammar
    if config.json_schema is not None:
        grammar = json_schema_to_grammar(config.json_schema)
    if grammar is not None:
        yield chain.new_grammar(model, grammar)
    if config.temperature == 0:
        yield chain.new_greedy()
    else:
        seed = secrets.randbelow(2**32 - 1) if config.seed is None else config.seed
        yield from chain.new_draw(
            top_k=config.top_k,
            typical_p=config.typical_p,
            top_p=config.top_p,
            min_p=config.min_p,
            temperature=config.temperature,
            seed=seed,
        )
