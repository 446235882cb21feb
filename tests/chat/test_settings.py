"""What `/set` takes, refuses and tells."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from sssd_local.chat import markdown
from sssd_local.chat.settings import ChatSettings, parse_argument
from sssd_local.errors import ConfigError, SSSDError


@pytest.mark.parametrize(
    ("name", "text", "option", "value", "told"),
    [
        ("temp", "0.5", "temperature", 0.5, "temperature 0.5"),
        ("top-k", "7", "top_k", 7, "top_k 7"),
        ("seed", "9", "seed", 9, "seed 9"),
        ("seed", "none", "seed", None, "seed none"),
        ("max_tokens", "none", "max_tokens", None, "max_tokens none"),
        ("stop", "THE END", "stop", ("THE END",), 'stop ["THE END"]'),
        ("stop", '["a", "é"]', "stop", ("a", "é"), 'stop ["a", "é"]'),
        ("logit_bias", "3=-1 4=inf", "logit_bias", None, None),
        ("logit_bias", "3=-1 4=2", "logit_bias", {3: -1.0, 4: 2.0}, "logit_bias 3=-1.0 4=2.0"),
        ("overflow", "shift", "overflow", "shift", "overflow shift"),
    ],
)
def test_options(name: str, text: str, option: str, value: Any, told: str | None) -> None:
    settings = ChatSettings(options={"seed": 1, "max_tokens": 5})
    before = dict(settings.options)
    if told is None:
        with pytest.raises(ConfigError):
            settings.change(name, text)
        assert settings.options == before
    else:
        assert settings.change(name, text) == told
        assert settings.options == {**before, option: value}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "-1", "temperature must be 0 or more, got -1"),
        ("temperature", "warm", "temperature must be a finite number, got 'warm'"),
        ("temperature", "NaN", "temperature must be a finite number"),
        ("temperatur", "1", "unknown setting 'temperatur'; did you mean 'temperature'"),
        ("top_k", "1.5", "top_k must be a whole number"),
        ("logit_bias", "x", "'x' is not like 42=-1.5 7=2"),
        ("overflow", "burst", "overflow must be one of"),
        ("think", "maybe", "think must be show or hide, got 'maybe'"),
        ("markdown", "show", "markdown must be on or off, got 'show'"),
        ("quiet", "none", "quiet must be on or off, got 'none'"),
        ("max_tokens", "0", "max_tokens must be a whole number at least 1, got 0"),
        ("stop", '[""]', "stop must be texts that are not empty"),
        ("ctx", "12", "ctx is fixed when the model is loaded; start again"),
        ("speculation", "off", "use /spec"),
        ("template", "x", "'x' is no template argument like enable_thinking=false"),
        ("template", "messages=1", "messages is set for every chat"),
        ("grammar", "/none", "/none cannot be read"),
    ],
)
def test_impossible_values(name: str, text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        ChatSettings().change(name, text)


def test_a_grammar_comes_from_a_file_and_replaces_a_schema(tmp_path: Path) -> None:
    (tmp_path / "g").write_text('root ::= "a"')
    settings = ChatSettings(options={"json_schema": "{}"})
    settings.change("grammar", str(tmp_path / "g"))
    assert settings.options == {"grammar": 'root ::= "a"', "json_schema": None}


def test_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ChatSettings()
    assert settings.change("think", "hide") == "think hide"
    assert not settings.think
    assert settings.change("think", "on") == "think show"
    assert settings.change("think", "off") == settings.change("think", "") == "think hide"
    assert settings.change("quiet", "on") == "quiet on"
    assert settings.quiet
    assert settings.change("quiet", "off") == "quiet off"
    assert not settings.quiet
    monkeypatch.setattr(markdown, "can_render", lambda: False)
    with pytest.raises(ConfigError, match="Markdown needs rich"):
        settings.change("markdown", "on")
    monkeypatch.setattr(markdown, "can_render", lambda: True)
    settings.change("markdown", "on")
    assert settings.markdown
    settings.change("markdown", "off")
    assert settings.markdown is False


class Refusing:
    """A model that takes neither an option nor a template argument."""

    def check_answer(self, **options: Any) -> None:
        raise SSSDError(f"refused: {sorted(options)}")

    def render_chat(self, messages: Any, template_arguments: Any) -> str:
        raise SSSDError(f"refused: {messages} {template_arguments}")


def test_what_the_model_refuses_is_not_set() -> None:
    settings = ChatSettings(options={"seed": 1}, template_arguments={"mood": "kind"})
    with pytest.raises(SSSDError, match=re.escape("refused: ['seed', 'temperature']")):
        settings.change("temp", "0.5", Refusing())
    with pytest.raises(SSSDError, match=r"'content': 'Hello'.* \{'mood': 'kind', 'a': 1\}"):
        settings.change("template", "a=1", Refusing())
    with pytest.raises(SSSDError, match=re.escape("}] {}")):
        settings.change("template", "none", Refusing())
    assert settings == ChatSettings(options={"seed": 1}, template_arguments={"mood": "kind"})
    # To look at a value asks nobody.
    assert settings.change("seed", "", Refusing()) == "seed 1"
    assert settings.change("template", "", Refusing()) == 'template mood="kind"'


def test_rich_is_found_where_it_is() -> None:
    assert markdown.can_render() is (importlib.util.find_spec("rich") is not None)


def test_template_arguments_are_json_or_text() -> None:
    settings = ChatSettings()
    settings.change("template", "enable_thinking=false")
    assert settings.change("template", "mood=kind") == 'template enable_thinking=false mood="kind"'
    assert settings.template_arguments == {"enable_thinking": False, "mood": "kind"}
    assert settings.change("template", "none") == "template none"
    assert parse_argument("a=b=c") == ("a", "b=c")


def test_every_setting_is_listed() -> None:
    lines = ChatSettings(options={"seed": 3}).lines()
    assert lines[:4] == ["think show", "markdown off", "quiet off", "template none"]
    assert lines[4] == "temperature 0.8"
    assert "seed 3" in lines
    assert "logit_bias none" in lines
