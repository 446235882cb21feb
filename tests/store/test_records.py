"""The texts in JSON of several programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sssd_local.store.records import are_records, document_texts, line_texts, record_texts

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
MAPPING = {
    "root": {"message": None, "parent": None},
    "a": {"message": {"author": {"role": "user"}, "content": {"parts": ["Hi"]}}, "parent": "root"},
    "b": {
        "message": {"author": {"role": "assistant"}, "content": {"parts": ["Old"]}},
        "parent": "a",
    },
    "c": {
        "message": {
            "author": {"role": "assistant"},
            "content": {"content_type": "text", "parts": ["New", {"image": 1}, " one"]},
        },
        "parent": "a",
    },
}


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"text": "A story."}, ["A story."]),
        ({"messages": CHAT}, ["Hello", "See you"]),
        ({"messages": CHAT[:2], "output": "Hello"}, ["Hello"]),
        ({"instruction": "Greet", "input": "", "output": "Hello"}, ["Hello"]),
        ({"prompt": "2+2", "completion": "4"}, ["4"]),
        ({"question": "?", "answer": "!"}, ["!"]),
        ({"prompt": "a", "response": "b"}, ["b"]),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
            ["Yo"],
        ),
        ({"conversation": [{"role": "Assistant", "content": "Yo"}]}, ["Yo"]),
        ({"mapping": MAPPING, "current_node": "c"}, ["New one"]),
        ({"mapping": MAPPING, "current_node": "b"}, ["Old"]),
        ({"mapping": MAPPING}, ["Old", "New one"]),
        ({"choices": [{"message": {"role": "assistant", "content": "Hey"}}]}, ["Hey"]),
        ({"choices": [{"text": "there"}]}, ["there"]),
        (
            {
                "response": {
                    "body": {"choices": [{"message": {"role": "assistant", "content": "B"}}]}
                }
            },
            ["B"],
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "Part"}]}]},
            ["Part"],
        ),
        ({"messages": [{"role": "assistant", "content": {"text": "Deep"}}]}, ["Deep"]),
    ],
)
def test_texts_of_a_record(record: Any, texts: list[str]) -> None:
    assert record_texts(record) == texts
    assert document_texts(json.dumps([record, record])) == texts * 2


@pytest.mark.parametrize(
    "record",
    [
        None,
        5,
        [],
        "text",
        {},
        {"text": 5},
        {"text": "  "},
        {"messages": "assistant"},
        {"messages": [None, {"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "assistant", "tool_calls": []}]},
        {"mapping": {"a": {"message": None, "parent": "a"}}, "current_node": "a"},
        {"name": "pkg", "version": "1.0"},
    ],
)
def test_values_without_a_text(record: Any) -> None:
    assert record_texts(record) == []
    assert document_texts(json.dumps(record)) == []


def test_documents_that_are_no_json_have_no_texts() -> None:
    assert document_texts("{not json") == []
    assert document_texts("[" * 100_000) == []


def test_lines_are_read_one_by_one() -> None:
    lines = [
        '{"text": "a"}\n',
        "\n",
        "broken\n",
        "[" * 100_000,
        '{"messages": []}',
        '{"text": "b"}',
    ]
    assert list(line_texts(lines)) == [["a"], [], [], [], ["b"]]
    assert are_records(lines)
    assert not are_records(["broken", "{}"])
    assert not are_records([])
