"""The embedded model itself: it chats, and speculation does not change what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from models import corpus
from models.evaluate import CTX, held_out
from models.tensors import Tensor, write_gguf
from sssd_local import LLM
from sssd_local.builtin import BUILTIN_MODELS, TINY, builtin_path
from sssd_local.engine.ties import compare_tokens

FILE = Path(__file__).parents[1] / "sssd_local" / "data" / BUILTIN_MODELS[TINY]
NUM_PROMPTS = 200
MAX_TOKENS = 60
WIDTH = 5


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    path = builtin_path(TINY)
    assert path == FILE
    with LLM(path, ctx=CTX, threads=1, speculation="off") as model:
        yield model


def say(llm: LLM, *texts: str, **options: Any) -> str:
    """The greedy answer to the last text of a chat; the others are questions and answers."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return llm.chat(messages, **{"temperature": 0, "max_tokens": 300, **options}).text


def test_the_file_is_small_and_says_what_it_is() -> None:
    assert FILE.stat().st_size <= 12_000_000
    reader = gguf.GGUFReader(FILE)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["general.license"] == "MIT"
    assert fields["general.author"] == "sssd-local contributors"
    assert fields["llama.context_length"] >= 1024
    matrices = {t.tensor_type.name for t in reader.tensors if len(t.shape) == 2}
    assert matrices == {"Q8_0"}


def test_it_chats(llm: LLM) -> None:
    llm.set_speculation("auto")
    hello = say(llm, "Hello")
    assert hello.startswith(("Hello", "Hi"))
    name = say(llm, "My name is Robert.")
    assert "Robert" in name
    asked = say(llm, "My name is Robert.", name, "What is my name?")
    assert asked == "Your name is Robert."
    assert say(llm, "What is 47 + 38?").endswith("47 + 38 = 85.")


def test_it_edits_code_and_stops(llm: LLM) -> None:
    code = "```python\ndef total(prices):\n    return sum(prices) * 2\n```"
    done = llm.chat(
        [{"role": "user", "content": f"Rename `prices` to `amounts` in this code:\n\n{code}"}],
        temperature=0,
        max_tokens=200,
    )
    assert done.text == code.replace("prices", "amounts")
    assert done.finish_reason == "stop"


def prompts() -> list[str]:
    kinds = list(corpus.KINDS)
    count = -(-NUM_PROMPTS // len(kinds))
    return [question for kind in kinds for question, _ in held_out(kind, count)][:NUM_PROMPTS]


def test_speculation_gives_the_plain_answer_but_for_ties(llm: LLM) -> None:
    accepted = 0
    for question in prompts():
        answers = {}
        for speculation in ("off", WIDTH):
            llm.set_speculation(speculation)
            llm.reset()
            messages = [{"role": "user", "content": question}]
            answers[speculation] = llm.chat(messages, temperature=0, max_tokens=MAX_TOKENS)
        plain, drafted = answers["off"].token_ids, answers[WIDTH].token_ids
        accepted += answers[WIDTH].stats.accepted
        if plain == drafted:
            continue
        position = next(
            i for i, pair in enumerate(zip(plain, drafted, strict=False)) if len({*pair}) > 1
        )
        with llm.engine() as engine:
            prompt = engine.ledger.tokens[: answers["off"].stats.prompt_tokens].copy()
            first, second = plain[position], drafted[position]
            tie = compare_tokens(engine, prompt, plain[:position], first, second)
        assert tie.is_explained, (question, tie)
    # Otherwise nothing was tested.
    assert accepted > 1000


def as_f32(path: Path) -> Path:
    """The model with its weights written out as float32."""
    reader = gguf.GGUFReader(FILE)

    def tensor(found: Any) -> Tensor:
        values = gguf.quants.dequantize(found.data, found.tensor_type).astype(np.float32)
        return Tensor(found.name, values.shape, lambda _, __: values, quantise=False)

    metadata = {
        name: gguf.gguf_writer.GGUFValue(field.contents(), field.types[0], field.types[-1])
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and name != "general.architecture"
    }
    return write_gguf(path, "llama", metadata, [tensor(found) for found in reader.tensors])


def test_sampling_with_f32_is_equal_to_the_token(tmp_path: Path) -> None:
    path = as_f32(tmp_path / "f32.gguf")
    options: dict[str, Any] = {"temperature": 0.8, "seed": 7, "max_tokens": MAX_TOKENS}
    accepted = 0
    with LLM(path, ctx=CTX, kv_type="f32", threads=1, speculation="off") as llm:
        for question in prompts()[::10]:
            found = []
            for speculation in ("off", WIDTH):
                llm.set_speculation(speculation)
                llm.reset()
                messages = [{"role": "user", "content": question}]
                done = llm.chat(messages, **options)
                found.append(done.token_ids)
                accepted += done.stats.accepted
            assert found[0] == found[1], question
    assert accepted > 50
