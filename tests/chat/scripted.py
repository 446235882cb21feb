"""A chat whose user is a list of lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from sssd_local.chat.render import Screen
from sssd_local.chat.repl import Repl
from sssd_local.chat.settings import ChatSettings
from sssd_local.llm import LLM

Line = str | BaseException | Callable[[], str]


class User:
    """Enters lines one after another; an exception is raised, a function called. Then EOF."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = list(lines)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if not self._lines:
            raise EOFError
        line = self._lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line() if callable(line) else line


class Chat:
    """A Repl with what it printed."""

    def __init__(self, llm: Any, lines: Sequence[Line], **options: Any) -> None:
        settings = options.pop("settings", None) or ChatSettings(
            options={"temperature": 0.0, "max_tokens": 8, "overflow": "drop-oldest"}, quiet=True
        )
        self.output = io.StringIO()
        self.user = User(lines)
        self.repl = Repl(llm, Screen(self.output), self.user, settings=settings, **options)
        self.repl.run()

    @property
    def text(self) -> str:
        return self.output.getvalue()

    @property
    def roles(self) -> list[str]:
        return [message["role"] for message in self.repl.transcript.messages]

    @property
    def contents(self) -> list[str]:
        return [message["content"] for message in self.repl.transcript.messages]


def answers(llm: LLM, *texts: str) -> list[str]:
    """What the model says to texts one after another, in a chat that starts anew."""
    llm.reset()
    messages: list[dict[str, str]] = []
    for text in texts:
        messages.append({"role": "user", "content": text})
        done = llm.chat(messages, temperature=0.0, max_tokens=8)
        messages.append({"role": "assistant", "content": done.text})
    llm.reset()
    return [message["content"] for message in messages[1::2]]
