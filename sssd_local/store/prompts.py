"""The prompts that a model is to answer for a datastore, read from files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sssd_local.store.errors import StoreError
from sssd_local.store.records import ANSWERERS, CHAT_KEYS

# A root of a manifest that is a file of prompts; other roots are absolute paths.
PROMPTS = "prompts:"
PROMPT_KEYS = ("prompt", "question", "instruction", "text")
_ROLES = {"human": "user", "prompter": "user", "system": "system", "user": "user"}
_JSON = frozenset({".json", ".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation to be answered: {"role", "content"} messages, the last of the user."""

    messages: tuple[dict[str, str], ...]

    @property
    def digest(self) -> str:
        """A name for what is asked, by which its answer is known."""
        data = json.dumps(self.messages, sort_keys=True).encode("utf-8", "surrogatepass")
        return PROMPTS + hashlib.blake2b(data, digest_size=16).hexdigest()


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file in order, each once.

    JSON lines or JSON: texts, {"prompt"}, {"question"}, {"instruction"}, {"turns"} (the first), or
    chats, answered where their last answer stands; lists of these by kind. Any other file has a
    prompt on each line. Raises StoreError for a file that cannot be read or has none.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise StoreError(
            f"the prompts {path} cannot be read: {error.strerror or error}; check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise StoreError(f"the prompts {path} are not UTF-8 (byte {error.start})") from error
    values = _values(text) if path.suffix.lower() in _JSON else text.splitlines()
    found = [prompt for value in values for prompt in _prompts(value)]
    if not found:
        raise StoreError(
            f"{path} has no prompt; write one on each line, or JSON lines with prompt or messages"
        )
    return list({prompt.digest: prompt for prompt in found}.values())


def _values(text: str) -> Iterator[Any]:
    """One JSON document, or the lines that are JSON."""
    try:
        yield json.loads(text)
        return
    except (ValueError, RecursionError):
        pass
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def _prompts(value: Any) -> Iterator[Prompt]:
    if isinstance(value, str):
        if value.strip():
            yield Prompt(({"role": "user", "content": value},))
    elif isinstance(value, list):
        for item in value:
            yield from _prompts(item)
    elif isinstance(value, dict):
        yield from _of_record(value)


def _of_record(record: dict[str, Any]) -> Iterator[Prompt]:
    for key in CHAT_KEYS:
        messages = _asked(record.get(key))
        if messages:
            yield Prompt(messages)
            return
    if any(key in record for key in CHAT_KEYS):
        return
    turns = record.get("turns")
    text = next((record[key] for key in PROMPT_KEYS if isinstance(record.get(key), str)), None)
    if text is None and isinstance(turns, list) and turns and isinstance(turns[0], str):
        text = turns[0]
    if text is not None:
        yield from _prompts(text)
    elif record and all(isinstance(item, list) for item in record.values()):
        for item in record.values():
            yield from _prompts(item)


def _asked(messages: Any) -> tuple[dict[str, str], ...]:
    """A chat up to the user's last message; () where that is none of texts."""
    asked: list[dict[str, str]] = []
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            return ()
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            return ()
        role = "assistant" if role.lower() in ANSWERERS else _ROLES.get(role.lower(), role)
        asked.append({"role": role, "content": content})
    while asked and asked[-1]["role"] != "user":
        asked.pop()
    return tuple(asked)
