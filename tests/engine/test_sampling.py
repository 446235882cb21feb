"""Samplers: greedy without llama.cpp, everything else through its chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.config import ModelConfig, SamplingConfig
from sssd_local.engine.model import Model
from sssd_local.engine.sampling import (
    NO_TOKEN,
    RUNNER_UP_LOGITS,
    Chained,
    Greedy,
    new_sampler,
    runner_ups,
)
from sssd_local.errors import BackendError, ConfigError

NOTHING = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Iterator[Model]:
    loaded = Model(tiny_model(), ModelConfig())
    yield loaded
    loaded.close()


def peaked(model: Model, **peaks: float) -> np.ndarray:
    row = np.zeros(model.facts.num_vocab, np.float32)
    for name, value in peaks.items():
        row[int(name[1:])] = value
    return row


def sampler(model: Model, prompt: np.ndarray = NOTHING, **options: Any) -> Any:
    return new_sampler(model, SamplingConfig(**options), prompt)


def test_plain_greedy_needs_no_chain(model: Model) -> None:
    chosen = sampler(model, temperature=0.0)
    assert isinstance(chosen, Greedy)
    assert chosen.sample(peaked(model, t40=3.0, t50=3.0)) == 40
    chosen.close()


def test_greedy_with_a_neutral_penalty_window_is_plain(model: Model) -> None:
    options = {"temperature": 0.0, "repeat_penalty": 1.5, "penalty_last_n": 0}
    assert isinstance(sampler(model, **options), Greedy)


def test_defaults_go_through_the_chain(model: Model) -> None:
    chosen = sampler(model)
    assert isinstance(chosen, Chained)
    assert chosen.sample(peaked(model, t40=100.0)) == 40
    chosen.close()
    chosen.close()


def test_a_seed_repeats_itself_and_another_does_not(model: Model) -> None:
    row = np.zeros(model.facts.num_vocab, np.float32)
    wide = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
    runs = []
    for seed in (1, 1, 2):
        chosen = sampler(model, seed=seed, **wide)
        runs.append([chosen.sample(row) for _ in range(20)])
        chosen.close()
    assert runs[0] == runs[1] != runs[2]


def test_without_a_seed_runs_differ(model: Model) -> None:
    row = np.zeros(model.facts.num_vocab, np.float32)
    chosen = [sampler(model, top_k=0, top_p=1.0, min_p=0.0) for _ in range(2)]
    assert [chosen[0].sample(row) for _ in range(20)] != [chosen[1].sample(row) for _ in range(20)]


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 1}, {40}),
        ({"top_k": 2, "top_p": 1.0, "min_p": 0.0}, {40, 41}),
        ({"top_k": 0, "top_p": 0.3, "min_p": 0.0}, {40}),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0.9}, {40}),
    ],
)
def test_truncation(model: Model, options: dict[str, Any], allowed: set[int]) -> None:
    chosen = sampler(model, temperature=1.0, seed=1, **options)
    row = peaked(model, t40=9.0, t41=8.5, t42=7.0)
    assert {chosen.sample(row) for _ in range(200)} == allowed


def test_penalties_see_the_prompt_and_what_was_sampled(model: Model) -> None:
    prompt = np.array([40, 40], np.int32)
    chosen = sampler(model, prompt, temperature=0.0, presence_penalty=2.0)
    row = peaked(model, t40=3.0, t41=2.5, t42=2.0)
    assert [chosen.sample(row) for _ in range(3)] == [41, 42, 40]


def test_the_penalty_window_forgets(model: Model) -> None:
    prompt = np.array([40, 50], np.int32)
    chosen = sampler(model, prompt, temperature=0.0, presence_penalty=2.0, penalty_last_n=1)
    assert chosen.sample(peaked(model, t40=3.0, t41=2.5)) == 40


def test_bias_moves_the_choice(model: Model) -> None:
    chosen = sampler(model, temperature=0.0, logit_bias={41: 2.0, 40: -float("inf")})
    assert chosen.sample(peaked(model, t40=3.0)) == 41


def test_a_bias_outside_the_vocabulary_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="names token 320, the vocabulary ends at 319"):
        sampler(model, logit_bias={320: 1.0})


def test_a_grammar_allows_its_texts_only(model: Model) -> None:
    chosen = sampler(model, temperature=0.0, grammar='root ::= "ab"')
    (a,) = model.tokenize("a", add_special=False, parse_special=False).tolist()
    (b,) = model.tokenize("b", add_special=False, parse_special=False).tolist()
    row = peaked(model, t100=50.0)
    row[a], row[b] = 2.0, 3.0
    written = [chosen.sample(row), chosen.sample(row)]
    assert b"".join(map(model.piece, written)) == b"ab"
    assert model.is_eog(chosen.sample(row))


@pytest.mark.parametrize("grammar", ["root ::= (", 'other ::= "a"', "root ::= missing"])
def test_a_bad_grammar_is_an_error(model: Model, grammar: str) -> None:
    with pytest.raises(BackendError, match="grammar cannot be used"):
        sampler(model, grammar=grammar)


def test_what_is_wrong_with_a_grammar_is_told_once(
    model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendError, match="expecting '\\)' at"):
        sampler(model, grammar="root ::= (")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("grammar", ["root ::= " + "(" * 100_000, "#" * (1 << 20) + "\nroot ::= x"])
def test_a_grammar_that_would_crash_is_refused(model: Model, grammar: str) -> None:
    with pytest.raises(BackendError, match="the grammar is too large"):
        sampler(model, grammar=grammar)


def test_brackets_in_literals_do_not_count(model: Model) -> None:
    text = "(" * 300
    sampler(model, grammar=f'root ::= "{text}" | [({text}] # {text}').close()


def test_a_deep_json_schema_is_an_error(model: Model) -> None:
    schema = '{"items":' * 3000 + "{}" + "}" * 3000
    with pytest.raises(BackendError, match="JSON schema"):
        sampler(model, json_schema=schema)


def test_a_json_schema_becomes_a_grammar(model: Model) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
    chosen = sampler(model, temperature=0.0, json_schema=schema)
    first = chosen.sample(peaked(model, t100=50.0))
    assert model.piece(first) == b"{"


@pytest.mark.parametrize("schema", ["{", '{"$ref": "#/nowhere"}', '{"type": "unicorn"}', "[]"])
def test_a_bad_json_schema_is_an_error(model: Model, schema: str) -> None:
    with pytest.raises(BackendError, match="JSON schema cannot be used"):
        sampler(model, json_schema=schema)


def test_a_finished_grammar_without_an_end_token_ends_the_answer(model: Model) -> None:
    class Masked:
        def sample(self, logits: np.ndarray) -> int | None:
            return None

        def close(self) -> None:
            return None

    masked: Any = Masked()
    assert Chained(masked, can_end=False).sample(NOTHING) == NO_TOKEN
    assert model.is_eog(NO_TOKEN)
    with pytest.raises(BackendError, match="no token is allowed"):
        Chained(masked, can_end=True).sample(NOTHING)


def test_runner_ups_are_the_likeliest_tokens_in_order() -> None:
    logits = np.zeros((3, 20), np.float32)
    logits[0, [4, 7, 2]] = [30.0, 29.0, 28.5]
    logits[2] = np.arange(20)
    found = runner_ups(logits, [0, 2, 1])
    assert found.dtype == np.int32
    assert found[0].tolist() == [4, 7, 2, -1, -1, -1, -1, -1]
    assert found[1].tolist() == [19, 18, 17, 16, 15, -1, -1, -1]
    assert found[2].tolist() == list(range(8))
    assert RUNNER_UP_LOGITS == 5.0


@given(st.integers(0, 2**32 - 1))
def test_runner_ups_are_those_of_a_full_sort(seed: int) -> None:
    row = np.random.default_rng(seed).normal(0, 3, 300).astype(np.float32)
    expected = [t for t in np.argsort(-row)[:8].tolist() if row[t] > row.max() - 5.0]
    assert [t for t in runner_ups(row[None], [0])[0].tolist() if t >= 0] == expected
