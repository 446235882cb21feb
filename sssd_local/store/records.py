"""The texts in JSON: records with a text, chats, and what chat programs export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

# Who writes what a model would write, in the words of several programs.
ANSWERERS = frozenset({"assistant", "gpt", "model", "chatgpt", "bing", "bard", "ai", "bot"})
TEXT_KEYS = ("text", "output", "completion", "response", "answer")
CHAT_KEYS = ("messages", "conversations", "conversation")
# Where an OpenAI batch or chat completion has its answers.
WRAPPERS = ("response", "body", "message")


def record_texts(record: Any) -> list[str]:
    """The texts worth storing of one JSON value; [] where it has none.

    Of a chat that is what the assistant said. Knows {"text"}, {"messages"} with roles, ShareGPT's
    {"conversations"} with from and value, ChatGPT's export ({"mapping"}), chat completions of
    OpenAI ({"choices"}), and prompts with an output, completion, response or answer.
    """
    if not isinstance(record, dict):
        return []
    texts = [record[key] for key in TEXT_KEYS if isinstance(record.get(key), str)]
    for key in CHAT_KEYS:
        texts += _answers(record.get(key))
    if isinstance(record.get("mapping"), dict):
        texts += _answers(_exported(record))
    if isinstance(record.get("choices"), list):
        texts += [text for choice in record["choices"] for text in record_texts(choice)]
    for key in WRAPPERS:
        inner = record.get(key)
        if isinstance(inner, dict):
            texts += _answers([inner]) or record_texts(inner)
    return [text for text in texts if text.strip()]


def _answers(messages: Any) -> list[str]:
    """What the assistant said in a list of messages."""
    if not isinstance(messages, list):
        return []
    found = []
    for message in messages:
        if not isinstance(message, dict):
            continue
        author = message.get("author")
        role = author.get("role") if isinstance(author, dict) else None
        role = role or message.get("role") or message.get("from")
        if isinstance(role, str) and role.lower() in ANSWERERS:
            found.append(_content(message.get("content", message.get("value"))))
    return found


def _content(content: Any) -> str:
    """A message's text: a string, or parts that are strings or have one."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        parts = content.get("parts", content.get("text"))
        return parts if isinstance(parts, str) else _content(parts)
    if isinstance(content, list):
        texts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def _exported(record: dict[str, Any]) -> list[Any]:
    """The messages of a conversation of ChatGPT's export, along the branch last looked at."""
    nodes = record["mapping"]
    path: list[Any] = []
    seen: set[str] = set()
    current = record.get("current_node")
    while isinstance(current, str) and current not in seen and isinstance(nodes.get(current), dict):
        seen.add(current)
        path.append(nodes[current].get("message"))
        current = nodes[current].get("parent")
    if path:
        return path[::-1]
    return [node.get("message") for node in nodes.values() if isinstance(node, dict)]


def document_texts(data: str) -> list[str]:
    """The texts of a whole JSON document, a record or a list of them; [] where it has none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return []
    records = document if isinstance(document, list) else [document]
    return [text for record in records for text in record_texts(record)]


def line_texts(lines: Iterable[str]) -> Iterator[list[str]]:
    """The texts of each line of JSON lines, blank ones left out; [] for one that has none."""
    for line in lines:
        if line.strip():
            try:
                yield record_texts(json.loads(line))
            except (ValueError, RecursionError):
                yield []


def are_records(lines: Iterable[str]) -> bool:
    """Whether one of these lines has texts of JSON."""
    return any(line_texts(lines))
