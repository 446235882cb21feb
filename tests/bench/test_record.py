"""Recording answers of a tiny model, and reading prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench.__main__ import main
from bench.answers import read_answers
from bench.record import Prompt, Recording, likeliest, read_prompts, record
from sssd_local.errors import ConfigError
from sssd_local.llm import LLM

PROMPTS = Path(__file__).parents[2] / "bench" / "prompts"
HELLO = Prompt("p", "t", ({"role": "user", "content": "the rain"},))


def ask(model: Path, **settings: object) -> list[tuple[tuple[int, ...], list[list[int]]]]:
    chosen = Recording(top_k=4, **{"max_tokens": 12, "raw": True, **settings})  # type: ignore[arg-type]
    with LLM(model, ctx=64, threads=1, speculation="off") as llm:
        found = record(llm, [HELLO, HELLO], chosen, lambda text: None)
    return [
        (item.answer, item.runner_ups.tolist()) for item in found if item.runner_ups is not None
    ]


def test_the_likeliest_come_first_and_of_equals_the_smaller_id() -> None:
    logits = np.array([1, 5, 3, 5, 3, 3, 0], np.float32)
    assert likeliest(logits, 4).tolist() == [1, 3, 2, 4]
    assert likeliest(logits, 1).tolist() == [logits.argmax()]
    assert likeliest(logits, 7).tolist() == [1, 3, 2, 4, 5, 0, 6]
    assert likeliest(logits, 7).dtype == np.int32


def test_answers_are_those_of_plain_greedy_decoding(tiny_model: Callable[..., Path]) -> None:
    one, two = ask(tiny_model())
    assert one == two
    answer, rows = one
    with LLM(tiny_model(), ctx=64, threads=1, speculation="off") as llm:
        plain = llm.generate("the rain", temperature=0.0, max_tokens=12)
    assert answer == plain.token_ids
    assert [row[0] for row in rows] == list(answer)
    assert all(len(set(row)) == 4 for row in rows)


def test_recording_ends_with_the_answer_or_goes_past_it(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((full, rows), _) = ask(tiny_model())
    end = next(index for index in range(1, 12) if full[index] not in full[:index])
    monkeypatch.setattr("sssd_local.engine.model.Model.is_eog", lambda _, token: token == full[end])
    assert ask(tiny_model())[0] == (full[:end], rows[:end])
    assert ask(tiny_model(), past_end=True)[0] == (full, rows)


def test_a_full_context_ends_an_answer(tiny_model: Callable[..., Path]) -> None:
    with LLM(tiny_model(), ctx=64, threads=1) as llm:
        num_prompt = len(llm.tokenize("the rain"))
    ((answer, rows), _) = ask(tiny_model(), max_tokens=500, past_end=True)
    # The last token is sampled and not evaluated.
    assert len(answer) == len(rows) == 64 - num_prompt + 1


def test_what_cannot_be_recorded_is_said(tiny_model: Callable[..., Path]) -> None:
    with LLM(tiny_model(), ctx=64, threads=1, speculation="off") as llm:
        with pytest.raises(ConfigError, match="--top-k is at most"):
            record(llm, [HELLO], Recording(top_k=5000), lambda text: None)
        chat = Prompt("c", "t", HELLO.messages * 2)
        with pytest.raises(ConfigError, match="prompt c is a conversation"):
            record(llm, [chat], Recording(raw=True), lambda text: None)
    plain = tiny_model(chat_template=None)
    with (
        LLM(plain, ctx=64, threads=1, speculation="off") as llm,
        pytest.raises(ConfigError, match="has no chat template; continue texts with --raw"),
    ):
        record(llm, [HELLO], Recording(), lambda text: None)


def test_prompts_of_both_kinds_of_file(tmp_path: Path) -> None:
    texts, records = tmp_path / "a.txt", tmp_path / "b.jsonl"
    texts.write_text("One day\n\n {x\n", encoding="utf-8")
    messages = [{"role": "user", "content": "Hi", "name": "x"}]
    rows = [{"prompt": "a\nb"}, {"id": 7, "task": "q", "messages": messages}]
    records.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_prompts(texts)
    assert [(item.id, item.task, item.raw_text()) for item in found] == [
        ("a:1", "a", "One day"),
        ("a:3", "a", "{x"),
    ]
    first, second = read_prompts(records)
    assert (first.id, first.task, first.raw_text()) == ("b:1", "b", "a\nb")
    assert second == Prompt("7", "q", ({"role": "user", "content": "Hi"},))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("\n", "is empty"),
        ("{", r"p\.jsonl:1 is not JSON"),
        ("[]", r"p\.jsonl:1 is no prompt"),
        ('{"text": "x"}', r"p\.jsonl:1 is no prompt"),
        ('\n{"messages": [{"role": "user"}]}', r"p\.jsonl:2 is no prompt"),
        ('{"messages": 3}', r"p\.jsonl:1 is no prompt"),
    ],
)
def test_files_without_prompts(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        read_prompts(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["stories.txt", "tinytalk.jsonl", "tinytalk-stories.jsonl"])
def test_the_prompts_that_come_with_the_benchmark(name: str) -> None:
    prompts = read_prompts(PROMPTS / name)
    assert len(prompts) >= 20
    assert len({item.id for item in prompts}) == len(prompts)
    assert len({json.dumps(item.messages) for item in prompts}) == len(prompts)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["record", *map(str, arguments)])


def test_command_line(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    prompts, out = tmp_path / "p.txt", tmp_path / "new" / "o.npz"
    prompts.write_text("the rain\nthe hill\n", encoding="utf-8")
    given = ["--model", tiny_model(), "--prompts", prompts, "--out", out, "--threads", 1]
    outcome = run(*given, "--ctx", 256, "--past-end")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output == f"2 answers of 400 tokens: {out}\n"
    one, two = read_answers(out)
    assert (one.id, one.task, len(one.answer)) == ("p:1", "p", 200)
    assert one.runner_ups is not None
    assert one.runner_ups.shape == (200, 8)
    assert one.prompt != two.prompt
    refused = run(*given, "--ctx", 8)
    assert (refused.exit_code, "the prompt has" in refused.output) == (1, True)
