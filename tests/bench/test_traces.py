"""Reading, choosing and tokenising recorded answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.traces import (
    TokenTrace,
    Trace,
    read_traces,
    render_prompt,
    select_traces,
    vocabulary_tokenizer,
)
from models.tiny import BOS, write_tiny_llama
from sssd_local.errors import ConfigError


def words(text: str, starts: bool) -> list[int]:
    """A token per word: its length; 0 for the start."""
    return [0] * starts + [len(word) for word in text.split()]


def trace(name: str, task: str, output: str) -> Trace:
    return Trace(name, task, ({"role": "user", "content": "Hi"},), output)


def test_files_are_read_in_order_and_tasks_cut_at_the_slash(tmp_path: Path) -> None:
    record = {
        "id": "1:0",
        "task": "mt_bench/writing",
        "lang": "en",
        "messages": [{"role": "user", "content": "Grüße", "name": "x"}],
        "output": "Hallo",
    }
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    line = json.dumps(record, ensure_ascii=False)
    one.write_text(f"{line}\n\n{line}\n", encoding="utf-8")
    two.write_text(json.dumps(record | {"id": 7, "task": "qa"}), encoding="utf-8")

    found = list(read_traces([one, two]))
    assert [(item.id, item.task) for item in found] == [("1:0", "mt_bench")] * 2 + [("7", "qa")]
    assert found[0].messages == ({"role": "user", "content": "Grüße"},)


@pytest.mark.parametrize(
    "line", ["no json", "[]", '{"id": 1}', '{"id":1,"task":"t","messages":[{}],"output":""}']
)
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.jsonl:2 is no trace"):
        list(read_traces([path]))


def test_prompt_has_all_turns() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "tool", "content": "42"},
    ]
    assert render_prompt(messages) == "Be kind. USER: Hi ASSISTANT: Hello! TOOL: 42 ASSISTANT:"


def test_the_first_long_enough_of_each_task_are_chosen() -> None:
    traces = [
        trace("a", "x", "one two three"),
        trace("b", "y", "one"),
        trace("c", "x", "one two"),
        trace("d", "y", "one two three four"),
        trace("e", "x", "one two three four five"),
        trace("f", "x", "one two three"),
    ]
    chosen = select_traces(traces, words, per_task=2, min_tokens=3)
    assert [item.id for item in chosen] == ["a", "d", "e"]
    assert [item.id for item in select_traces(traces, words, min_tokens=3)] == list("adef")
    assert [item.id for item in select_traces(traces, words)] == list("abcdef")


def test_prompt_starts_a_sequence_and_the_answer_follows() -> None:
    (chosen,) = select_traces([trace("a", "x", "good day")], words)
    assert chosen == TokenTrace("a", "x", prompt=(0, 5, 2, 10), answer=(4, 3))
    assert len(chosen) == 6


def test_tokenizer_of_a_vocabulary(tmp_path: Path) -> None:
    tokenize = vocabulary_tokenizer(write_tiny_llama(tmp_path / "v.gguf"))
    assert tokenize("ae", False) == [262, 260]
    assert tokenize("ae", True) == [BOS, 262, 260]
    # Text that spells a special token is text: five bytes and letters, not id 2.
    assert len(tokenize("</s>", False)) == 4


def test_a_file_that_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    path.write_text("nothing")
    with pytest.raises(ConfigError, match=r"v\.gguf cannot be read as a vocabulary"):
        vocabulary_tokenizer(path)
