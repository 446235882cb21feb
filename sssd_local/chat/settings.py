"""What `/set` changes in a chat: how it looks, and the options of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Protocol

from sssd_local.chat import markdown
from sssd_local.chat.transcript import read_user_file
from sssd_local.config import (
    GenerationConfig,
    ModelConfig,
    SamplingConfig,
    split_options,
    unknown_name,
)
from sssd_local.errors import ConfigError

# What may be said for yes and for no; the first of each is how it is told.
SWITCHES = {
    "think": (("show", "on"), ("hide", "off")),
    "markdown": (("on",), ("off",)),
    "quiet": (("on",), ("off",)),
}
ALIASES = {"temp": "temperature"}
FILE_OPTIONS = ("grammar", "json_schema")
RESERVED = ("messages", "add_generation_prompt")

_ANSWER_FIELDS = {
    item.name: item for config in (SamplingConfig, GenerationConfig) for item in fields(config)
}
_MODEL_FIELDS = {item.name for item in fields(ModelConfig)}
# A conversation to try a template with.
TRIAL = [{"role": "user", "content": "Hello"}]


class Checker(Protocol):
    """What of an LLM tells whether it can answer with these settings; raises SSSDError."""

    def check_answer(self, **options: Any) -> None: ...
    def render_chat(
        self, messages: Sequence[Mapping[str, str]], template_arguments: Mapping[str, Any] | None
    ) -> str: ...


@dataclass(slots=True)
class ChatSettings:
    """How a chat looks and answers; `options` are those of one answer.

    `stats` is the form of what is told after an answer, line or json, and `quiet` leaves it out.
    """

    options: dict[str, Any] = field(default_factory=dict)
    template_arguments: dict[str, Any] = field(default_factory=dict)
    think: bool = True
    markdown: bool = False
    show_sources: bool = False
    quiet: bool = False
    stats: str = "line"

    def change(self, name: str, text: str, model: Checker | None = None) -> str:
        """Sets a value from what was typed, or tells it for ""; returns a line about it.

        Raises SSSDError for unknown names, values that are impossible and those that `model`
        refuses, and changes nothing then.
        """
        name = ALIASES.get(name, name).replace("-", "_")
        if name in SWITCHES:
            return self._switch(name, text)
        if name == "template":
            return self._change_template(text, model)
        if name in _ANSWER_FIELDS:
            return self._change_option(name, text, model)
        if name in _MODEL_FIELDS:
            hint = "use /spec" if name == "speculation" else "start again with the option"
            raise ConfigError(f"{name} is fixed when the model is loaded; {hint}")
        raise ConfigError(unknown_name("setting", name, [*SWITCHES, "template", *_ANSWER_FIELDS]))

    def lines(self) -> list[str]:
        """Every setting with its value, a line each."""
        return [
            *(self._switch(name, "") for name in SWITCHES),
            f"template {_as_text(self.template_arguments)}",
            *(f"{name} {self._option_text(name)}" for name in _ANSWER_FIELDS),
        ]

    def _switch(self, name: str, text: str) -> str:
        yes, no = SWITCHES[name]
        if text not in ("", *yes, *no):
            raise ConfigError(f"{name} must be {yes[0]} or {no[0]}, got {text!r}")
        if name == "markdown" and text in yes and not markdown.can_render():
            raise ConfigError("Markdown needs rich: pip install 'sssd-local[chat]'")
        if text:
            setattr(self, name, text in yes)
        return f"{name} {yes[0] if getattr(self, name) else no[0]}"

    def _change_template(self, text: str, model: Checker | None) -> str:
        arguments: dict[str, Any] = {}
        if text not in ("", "none"):
            name, value = parse_argument(text)
            arguments = {**self.template_arguments, name: value}
        if text and model is not None:
            model.render_chat(TRIAL, arguments)
        if text:
            self.template_arguments = arguments
        return f"template {_as_text(self.template_arguments)}"

    def _change_option(self, name: str, text: str, model: Checker | None) -> str:
        if text:
            value = _default(name) if text == "none" else _value(name, text)
            options = {**self.options, name: value}
            if name in FILE_OPTIONS and value is not None:
                options |= dict.fromkeys({*FILE_OPTIONS} - {name})
            split_options(options, SamplingConfig, GenerationConfig)
            if model is not None:
                model.check_answer(**options)
            self.options = options
        return f"{name} {self._option_text(name)}"

    def _option_text(self, name: str) -> str:
        value = self.options.get(name, _default(name))
        if name in FILE_OPTIONS and value is not None:
            return f"a text of {len(value)} characters"
        return _as_text(value)


def parse_argument(text: str) -> tuple[str, Any]:
    """NAME=VALUE of a template argument; VALUE is JSON, or else a text. Raises ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"{text!r} is no template argument like enable_thinking=false")
    if name in RESERVED:
        raise ConfigError(f"{name} is set for every chat; it cannot be a template argument")
    return name, _json_or_text(value)


def _value(name: str, text: str) -> Any:
    if name in FILE_OPTIONS:
        return read_user_file(text)
    if name == "overflow":
        return text
    if name == "logit_bias":
        return _biases(text)
    value = _json_or_text(text)
    if name == "stop":
        return tuple(value) if isinstance(value, list) else (text,)
    return value


def _biases(text: str) -> dict[int, float]:
    try:
        pairs = (pair.partition("=") for pair in text.split())
        return {int(token): float(bias) for token, _, bias in pairs}
    except ValueError as error:
        raise ConfigError(f"{text!r} is not like 42=-1.5 7=2") from error


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _default(name: str) -> Any:
    item: Any = _ANSWER_FIELDS[name]
    return item.default_factory() if item.default is MISSING else item.default


def _as_text(value: Any) -> str:
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_as_json(item)}" for name, item in value.items())
    return _as_json(value) if isinstance(value, tuple) else str(value)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
