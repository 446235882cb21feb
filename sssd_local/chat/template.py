"""Conversation to prompt text: the model's own Jinja template, or a plain format without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from jinja2 import Template, TemplateSyntaxError
from jinja2.exceptions import SecurityError

from sssd_local.chat.limits import Budget, RenderLimitError, RenderLimits
from sssd_local.chat.sandbox import BoundedEnvironment, Refusal
from sssd_local.errors import SSSDError

Message = Mapping[str, Any]

MAX_CAUSE_CHARACTERS = 300
REMEDY = "another one can be given as chat template"
PLAIN_STOP = ("\nUser:",)


class TemplateError(SSSDError):
    """A chat template cannot be read, or does not render these messages."""


class ChatTemplate:
    """Renders messages of {"role", "content"} as the text that a model was trained on.

    `source` is the Jinja template of the model (None or blank: `plain_text`), `bos` and `eos` are
    the texts of these tokens. The template is a stranger's program: it runs in a sandbox, within
    `limits`. `stop` are texts that end an answer in the plain format. Raises TemplateError.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos: str = "",
        eos: str = "",
        limits: RenderLimits | None = None,
    ) -> None:
        self._limits = limits or RenderLimits()
        self._names = {"bos_token": bos, "eos_token": eos, "tools": None}
        self._template = self._load(source) if source and source.strip() else None

    @property
    def plain(self) -> bool:
        """Whether the plain format stands in for a template."""
        return self._template is None

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts at which an answer ends, because no token marks its end."""
        return PLAIN_STOP if self.plain else ()

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **arguments: Any
    ) -> str:
        """The prompt text of a conversation; `arguments` are further variables of the template.

        A system message that the template refuses or leaves out moves into the first user message.
        """
        values = {"add_generation_prompt": add_generation_prompt, **arguments}
        with _explained("failed"):
            plain_messages = cast(list[dict[str, Any]], _as_json(messages))
            values = {name: _as_json(value) for name, value in values.items()}
            if self._template is None:
                return plain_text(plain_messages, add_generation_prompt=add_generation_prompt)
            return self._render_with_system(self._template, plain_messages, values)

    def _render_with_system(
        self, template: Template, messages: list[dict[str, Any]], values: dict[str, Any]
    ) -> str:
        system = messages[0] if messages else {}
        if system.get("role") != "system":
            return self._render(template, messages, values)
        try:
            text = self._render(template, messages, values)
        except Refusal:
            return self._render(template, _merge_system(messages), values)
        wanted = content_text(system).strip()
        if wanted in text:
            return text
        try:
            merged = self._render(template, _merge_system(messages), values)
        except Refusal:
            return text
        return merged if wanted in merged else text

    def _render(
        self, template: Template, messages: list[dict[str, Any]], values: dict[str, Any]
    ) -> str:
        limit = self._limits.max_characters
        parts: list[str] = []
        size = 0
        with Budget(self._limits.seconds, limit).enforced(lines=True):
            for part in template.generate(self._names, messages=messages, **values):
                size += len(part)
                if size > limit:
                    raise RenderLimitError(f"its text is longer than {limit} characters")
                parts.append(part)
        return "".join(parts)

    def _load(self, source: str) -> Template:
        budget = Budget(self._limits.compile_seconds, self._limits.max_characters)
        with _explained("cannot be read"), budget.enforced(lines=False):
            return BoundedEnvironment().load(source)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns everything that a template can do wrong into a TemplateError of one line."""
    try:
        yield
    except Refusal as error:
        raise TemplateError(f"the chat template refuses: {_one_line(error)}") from error
    except RenderLimitError as error:
        raise TemplateError(
            f"the chat template was stopped: {_one_line(error)}; {REMEDY}"
        ) from None
    except TemplateSyntaxError as error:
        cause = f"line {error.lineno}: {_one_line(error.message)}"
        raise TemplateError(f"the chat template {what}: {cause}; {REMEDY}") from error
    except RecursionError as error:
        raise TemplateError(f"the chat template {what}: it is nested too deeply") from error
    except MemoryError as error:
        raise TemplateError(f"the chat template {what}: it needs too much memory") from error
    except SecurityError as error:
        cause = f"{_one_line(error)} is not allowed"
        raise TemplateError(f"the chat template {what}: {cause}; {REMEDY}") from error
    except Exception as error:
        cause = f"{type(error).__name__}: {_one_line(error)}"
        raise TemplateError(f"the chat template {what}: {cause}; {REMEDY}") from error


def _one_line(cause: object) -> str:
    text = " ".join(str(cause).split())
    return text if len(text) <= MAX_CAUSE_CHARACTERS else text[:MAX_CAUSE_CHARACTERS] + "…"


def _as_json(value: object) -> object:
    """A copy made of dicts, lists, texts and numbers only, so that nothing else is in reach."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return cast(Callable[[object], object], kind)(value)
    if isinstance(value, Mapping):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_as_json(item) for item in value]
    raise TypeError(f"a {type(value).__name__} in the messages; use texts, numbers, lists, dicts")


def _merge_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system message put before the text of the first user message."""
    system, *rest = messages
    text = content_text(system).strip()
    for index, message in enumerate(rest):
        if message.get("role") == "user":
            merged = {**message, "content": _prepend(text, message.get("content"))}
            return [*rest[:index], merged, *rest[index + 1 :]]
    return [{**system, "role": "user"}, *rest]


def _prepend(text: str, content: Any) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": f"{text}\n\n"}, *content]
    return f"{text}\n\n{content or ''}"


def content_text(message: Message) -> str:
    """The text of a message, whose content is a text, a list of parts, or missing."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def plain_text(messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
    """The format for models without a template: `User:` and `Assistant:` at the line's start.

    A system message first stands alone before an empty line, other roles get their own name.
    """
    text = ""
    for index, message in enumerate(messages):
        content = content_text(message).strip()
        role = str(message.get("role", "user"))
        if index == 0 and role == "system":
            text += f"{content}\n\n"
        else:
            text += f"{role.capitalize()}: {content}\n"
    return text + "Assistant:" if add_generation_prompt else text
