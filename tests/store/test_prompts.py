"""Prompts in the forms that people keep them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sssd_local.store.errors import StoreError
from sssd_local.store.prompts import Prompt, read_prompts

USER, ASSISTANT = "user", "assistant"


def asked(path: Path) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in prompt.messages] for prompt in read_prompts(path)]


def test_a_line_of_a_text_is_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffWhy?\n\n  \nHow?\nWhy?\n", encoding="utf-8")
    assert asked(path) == [[(USER, "Why?")], [(USER, "How?")]]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("Hi", [(USER, "Hi")]),
        ({"prompt": "Hi", "answer": "Ho"}, [(USER, "Hi")]),
        ({"question": "Hi"}, [(USER, "Hi")]),
        ({"instruction": "Hi", "id": 3}, [(USER, "Hi")]),
        ({"turns": ["Hi", "And?"]}, [(USER, "Hi")]),
        (
            {"messages": [{"role": "system", "content": "S"}, {"role": USER, "content": "Hi"}]},
            [("system", "S"), (USER, "Hi")],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Ho"},
                    {"from": "human", "value": "And?"},
                    {"from": "gpt", "value": "No."},
                ]
            },
            [(USER, "Hi"), (ASSISTANT, "Ho"), (USER, "And?")],
        ),
    ],
)
def test_records(tmp_path: Path, record: Any, expected: list[tuple[str, str]]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{json.dumps(record)}\nno json\n{{"other": 1}}\n')
    assert asked(path) == [expected]
    path.write_text(json.dumps([record, record]))
    assert asked(path) == [expected]


def test_lists_by_kind_as_bench_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"chat": ["Hi", "Ho"], "code": ["Sort."]}))
    assert asked(path) == [[(USER, "Hi")], [(USER, "Ho")], [(USER, "Sort.")]]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"messages": [{"role": ASSISTANT, "content": "Ho"}]},
        {"messages": [{"role": USER, "content": 3}]},
        {"messages": ["Hi"]},
        {"prompt": " "},
        {"turns": [1]},
        7,
    ],
)
def test_what_asks_nothing_is_told(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"prompts\.jsonl has no prompt; write one on each line"):
        read_prompts(path)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read: No such file or directory; check"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"ab\xff")
    with pytest.raises(StoreError, match=r"are not UTF-8 \(byte 2\)"):
        read_prompts(tmp_path / "binary")


def test_the_digest_tells_what_is_asked() -> None:
    one = Prompt(({"role": USER, "content": "Hi"},))
    other = Prompt(({"role": "system", "content": "Hi"},))
    assert one.digest == Prompt(({"content": "Hi", "role": USER},)).digest
    assert one.digest != other.digest
    assert one.digest.startswith("prompts:")
