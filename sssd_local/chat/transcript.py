"""A conversation: its messages, what goes with the next one, and files that hold it."""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sssd_local.errors import SSSDError
from sssd_local.files import write_atomic

FORMAT = "sssd-local chat"
MARKDOWN_HEAD = f"<!-- {FORMAT} -->"
JSON_HEAD = f'{{\n  "format": "{FORMAT}"'
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
MAX_FILE_BYTES = 64 << 20

_MARKER = re.compile(r"^<!-- chat: (system|user|assistant) -->\n(?:## [^\n]*\n\n?)?", re.MULTILINE)
# A line of a message that reads like a marker gets one more backslash, which is taken off again.
_ESCAPED = re.compile(r"^\\(?=\\*<!-- chat: )", re.MULTILINE)
_NEEDS_ESCAPE = re.compile(r"^(?=\\*<!-- chat: )", re.MULTILINE)

Message = dict[str, str]


class ChatFileError(SSSDError):
    """A file of a conversation cannot be read or written."""


def clean(text: str) -> str:
    """The text with what is no Unicode character (lone surrogates) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(slots=True)
class Transcript:
    """The messages of a chat, user and assistant in turn, and the system message before them.

    `num_hidden` first messages no longer fit into the context. `attachments` are (name, text) of
    files for the next message, `withdrawn` is the last message that got no answer.
    """

    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    num_hidden: int = 0
    attachments: list[tuple[str, str]] = field(default_factory=list)
    withdrawn: str | None = None

    def with_system(self) -> list[Message]:
        """All messages."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + self.messages

    def visible(self) -> list[Message]:
        """The messages that the model gets."""
        shown = self.messages[self.num_hidden :]
        return [*self.with_system()[: self.system is not None], *shown]

    def compose(self, text: str) -> str:
        """A message of the user with the files that go with it, which are used up."""
        parts = [_quoted(name, content) for name, content in self.attachments]
        self.attachments = []
        return "\n\n".join([*parts, text])

    def ask(self, text: str) -> None:
        """Adds a message of the user."""
        self.messages.append({"role": "user", "content": text})
        self.withdrawn = None

    def answer(self, text: str) -> None:
        """Adds the model's answer."""
        self.messages.append({"role": "assistant", "content": text})

    def withdraw(self) -> None:
        """Takes back the last message, which got no answer; templates refuse two in a row."""
        self.withdrawn = self.messages.pop()["content"]
        self.num_hidden = min(self.num_hidden, len(self.messages))

    def undo(self) -> str | None:
        """Removes the last turn and returns what the user had said; None without a turn."""
        starts = [at for at, message in enumerate(self.messages) if message["role"] == "user"]
        if not starts:
            return None
        text = self.messages[starts[-1]]["content"]
        self.withdrawn = None
        del self.messages[starts[-1] :]
        # What was left out fits again perhaps; the next answer finds out.
        self.num_hidden = 0
        return text

    def hide(self, num_messages: int) -> int:
        """Leaves further oldest messages out of what the model gets; returns how many turns."""
        hidden = self.messages[self.num_hidden : self.num_hidden + num_messages]
        self.num_hidden += len(hidden)
        return sum(message["role"] == "user" for message in hidden)

    def replace(self, messages: list[Message]) -> None:
        """Takes over another conversation, with its system message if it has one."""
        has_system = bool(messages) and messages[0]["role"] == "system"
        self.system = messages[0]["content"] if has_system else None
        self.messages = messages[has_system:]
        self.num_hidden, self.attachments, self.withdrawn = 0, [], None
        if self.messages and self.messages[-1]["role"] == "user":
            self.withdraw()

    def clear(self) -> None:
        """Removes everything but the system message."""
        self.messages, self.num_hidden = [], 0
        self.attachments, self.withdrawn = [], None


def _quoted(name: str, content: str) -> str:
    longest = max((len(run) for run in re.findall("`{3,}", content)), default=2)
    fence = "`" * (longest + 1)
    return f"{name}:\n{fence}\n{content.rstrip()}\n{fence}"


def split_names(text: str) -> list[str]:
    """File names as a shell would split them; quotes hold names with spaces."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ChatFileError(f"{text!r} has a quotation mark that is not closed") from error


def read_user_file(name: str) -> str:
    """The text of a file that a user named. Raises ChatFileError for anything but UTF-8 text."""
    try:
        path = Path(name).expanduser()
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise ChatFileError(f"{name} is a folder; name a file")
        # Reading a pipe or a device might never end.
        if not stat.S_ISREG(facts.st_mode):
            raise ChatFileError(f"{name} is no ordinary file")
        if facts.st_size > MAX_FILE_BYTES:
            raise ChatFileError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MB")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ChatFileError(f"{name} is not UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ChatFileError(f"{name} cannot be read: {_cause(error)}") from error


def save_chat(name: str, messages: list[Message], model: str) -> Path:
    """Writes a conversation as JSON, or as Markdown when the name ends in .md, for the user only.

    A saved chat is replaced, any other file is not. Raises ChatFileError.
    """
    try:
        path = Path(name).expanduser()
        if path.is_symlink():
            path = path.resolve()
        if path.exists() and not _is_chat(path):
            raise ChatFileError(f"{name} exists and is no saved chat; choose another name")
        is_markdown = path.suffix.lower() in (".md", ".markdown")
        text = to_markdown(messages) if is_markdown else to_json(messages, model)
        write_atomic(path, text.encode())
    except (OSError, ValueError, RuntimeError) as error:
        raise ChatFileError(f"{name} cannot be written: {_cause(error)}") from error
    return path


def load_chat(name: str) -> list[Message]:
    """Reads what `save_chat` wrote. Raises ChatFileError."""
    text = read_user_file(name)
    messages = from_markdown(text) if text.startswith(MARKDOWN_HEAD) else _from_json(text)
    if not messages or not _well_formed(messages):
        raise ChatFileError(f"{name} is no saved chat")
    return messages


def to_json(messages: list[Message], model: str) -> str:
    """A conversation as JSON."""
    saved = {"format": FORMAT, "version": 1, "model": model, "messages": messages}
    return json.dumps(saved, ensure_ascii=False, indent=2) + "\n"


def to_markdown(messages: list[Message]) -> str:
    """A conversation as Markdown that reads well and can be read back exactly."""
    parts = [f"{MARKDOWN_HEAD}\n"]
    for message in messages:
        text = _NEEDS_ESCAPE.sub(r"\\", message["content"])
        role = message["role"]
        parts.append(f"\n<!-- chat: {role} -->\n## {ROLES[role]}\n\n{text}\n")
    return "".join(parts)


def from_markdown(text: str) -> list[Message]:
    """The messages of `to_markdown`'s text; markers divide them, headings are for the eye."""
    _, *parts = _MARKER.split(text)
    messages: list[Message] = []
    for role, body in zip(parts[::2], parts[1::2], strict=True):
        is_last = len(messages) == len(parts) // 2 - 1
        content = body.removesuffix("\n" if is_last else "\n\n")
        messages.append({"role": role, "content": _ESCAPED.sub("", content)})
    return messages


def _from_json(text: str) -> list[Message]:
    """The messages of a saved chat or of a bare list; none when it is neither."""
    try:
        saved: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = saved.get("messages") if isinstance(saved, dict) else saved
    return list(_messages(found)) if isinstance(found, list) else []


def _messages(found: list[Any]) -> Iterator[Message]:
    for item in found:
        item = item if isinstance(item, dict) else {}
        role, content = item.get("role"), item.get("content")
        if isinstance(role, str) and isinstance(content, str):
            yield {"role": clean(role), "content": clean(content)}
        else:
            # No role fits, so the whole is refused.
            yield {"role": "", "content": ""}


def _well_formed(messages: list[Message]) -> bool:
    roles = [message["role"] for message in messages]
    turns = roles[roles[0] == "system" :]
    return all(role == ("user", "assistant")[at % 2] for at, role in enumerate(turns))


def _is_chat(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(100)
    return not start or start.startswith((MARKDOWN_HEAD.encode(), JSON_HEAD.encode()))


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
