"""The options of `sssd-local run`, with defaults taken from the config dataclasses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from sssd_local.config import (
    FLASH_ATTENTIONS,
    KV_TYPES,
    MAX_GPUS,
    MAX_THREADS,
    OVERFLOWS,
    GenerationConfig,
    ModelConfig,
    SamplingConfig,
    parse_adapters,
    parse_speculation,
    parse_split,
    split_options,
)
from sssd_local.errors import ConfigError, SSSDError

Command = TypeVar("Command", bound=Callable[..., Any])

_SAMPLING = SamplingConfig()
_MODEL = ModelConfig()
_FILE = click.Path(dir_okay=False, path_type=Path)


class _Lines(click.ParamType):  # type: ignore[type-arg]
    """Text; in an environment variable one a line."""

    name = "text"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        return str(value)


class _Bias(click.ParamType):  # type: ignore[type-arg]
    """ID=X, a token id and what is added to its logit."""

    name = "ID=X"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, float]:
        if isinstance(value, tuple):
            return value
        token, _, bias = str(value).partition("=")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(f"{value!r} is not a token id and a number, like 42=-1.5", param, ctx)


class _Argument(click.ParamType):  # type: ignore[type-arg]
    """NAME=VALUE, a variable of the chat template; VALUE is JSON, or else a text."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        from sssd_local.chat.settings import parse_argument

        if isinstance(value, tuple):
            return value
        try:
            return parse_argument(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Adapter(click.ParamType):  # type: ignore[type-arg]
    """FILE[=SCALE], a LoRA adapter and how strongly it counts."""

    name = "FILE[=SCALE]"
    # As lists of paths are written in the environment.
    envvar_list_splitter = os.pathsep

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        try:
            return parse_adapters(value)[0]
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _Split(click.ParamType):  # type: ignore[type-arg]
    """Shares of the model for each GPU, like 3,1."""

    name = "N,N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        try:
            return parse_split(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _Speculation(click.ParamType):  # type: ignore[type-arg]
    name = "auto|off|WIDTH"

    def convert(self, value: Any, param: Any, ctx: Any) -> str | int:
        try:
            return parse_speculation(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that is also read from SSSD_LOCAL_<its long name>."""
    long_names = [name.partition("/")[0][2:] for name in names if name.startswith("--")]
    variables = ["SSSD_LOCAL_" + name.replace("-", "_").upper() for name in long_names]
    settings.setdefault("envvar", variables[0] if len(variables) == 1 else variables)
    settings.setdefault("show_default", settings.get("default") is not None)
    return click.option(*names, **settings)


_MODEL_OPTIONS = (
    option("--ctx", type=click.IntRange(8),
           help="Context in tokens [the model's, as memory allows]."),
    option("--threads", type=click.IntRange(1, MAX_THREADS),
           help="CPU threads of one-token steps [physical cores, or the best measured]."),
    option("--threads-batch", type=click.IntRange(1, MAX_THREADS),
           help="CPU threads of wider steps [as --threads]."),
    option("--gpu-layers", type=click.IntRange(-1),
           help="Layers on the GPU; -1 is all [all, if there is one]."),
    option("--main-gpu", type=click.IntRange(0, MAX_GPUS - 1),
           help="The one GPU to use, or the first of --tensor-split."),
    option("--tensor-split", type=_Split(), help="Share of the model for each GPU, like 3,1."),
    option("--kv-type", type=click.Choice(KV_TYPES), default=_MODEL.kv_type,
           help="Number type of the KV cache."),
    option("--kv-type-v", type=click.Choice(KV_TYPES),
           help="Number type of the cache's values [as --kv-type]."),
    option("--flash-attention", type=click.Choice(FLASH_ATTENTIONS),
           default=_MODEL.flash_attention,
           help="Fused attention: as the probe found it faster, on, or off."),
    option("--swa-full/--no-swa-full", default=None,
           help="Keep all of a sliding window's cache, which trees need [as memory allows]."),
    option("--lora", type=Adapter(), multiple=True,
           help="LoRA adapter, by default at scale 1; repeatable."),
)  # fmt: skip


def model_options(command: Command) -> Command:
    """Adds the options of how a model is loaded, the same for every command that loads one."""
    for add in reversed(_MODEL_OPTIONS):
        command = add(command)
    return command


_OPTIONS = (
    option("--temp", "--temperature", "temperature", type=float, default=_SAMPLING.temperature,
           help="Randomness; 0 always takes the likeliest token."),
    option("--top-k", type=int, default=_SAMPLING.top_k,
           help="Draw among the K likeliest tokens; 0 is all."),
    option("--top-p", type=float, default=_SAMPLING.top_p,
           help="Draw among the likeliest tokens that make up this probability."),
    option("--min-p", type=float, default=_SAMPLING.min_p,
           help="Leave out tokens this much less likely than the likeliest; 0 is off."),
    option("--typical-p", type=float, default=_SAMPLING.typical_p,
           help="Locally typical sampling; 1 is off."),
    option("--repeat-penalty", type=float, default=_SAMPLING.repeat_penalty,
           help="Divides the odds of recent tokens; 1 is off."),
    option("--presence-penalty", type=float, default=_SAMPLING.presence_penalty,
           help="Taken from the logit of recent tokens; 0 is off."),
    option("--frequency-penalty", type=float, default=_SAMPLING.frequency_penalty,
           help="Taken from a recent token's logit each time it occurs; 0 is off."),
    option("--penalty-last-n", type=int, default=_SAMPLING.penalty_last_n,
           help="How many tokens are recent."),
    option("--logit-bias", type=_Bias(), multiple=True,
           help="Adds X to a token's logit; repeatable."),
    option("--seed", type=int, help="Repeats a random answer."),
    option("--grammar", type=_FILE, help="Only text of this GBNF grammar."),
    option("--json-schema", type=_FILE, help="Only JSON of this schema."),
    option("--stop", type=_Lines(), multiple=True, help="Ends the answer; repeatable."),
    option("--max-tokens", type=int, help="Longest answer [to the end of the context]."),
    option("--overflow", type=click.Choice(OVERFLOWS),
           help="When the context is full: leave out old turns, the older half, or stop "
                "[drop-oldest in a chat, else stop]."),
    option("--system", metavar="TEXT", help="System message."),
    option("--system-file", type=_FILE, help="System message from a file."),
    option("--chat-template", type=_FILE, help="Jinja template instead of the model's own."),
    option("--template-arg", "template_arguments", type=_Argument(), multiple=True,
           help="A variable of the template, like enable_thinking=false; repeatable."),
    option("--raw/--no-raw", is_flag=True, help="Continue PROMPT as it is, without a template."),
    option("--speculation", type=_Speculation(), default=_MODEL.speculation,
           metavar="auto|off|WIDTH",
           help="Draft as it pays, never, or to a fixed width of 1 to 64 tokens a step."),
    *_MODEL_OPTIONS,
    option("--datastore", "datastores", multiple=True, metavar="NAME",
           help="Draft from this datastore too; repeatable."),
    option("--stats", type=click.Choice(["line", "json", "none"]),
           help="What to tell on stderr at the end [line on a terminal, else none]."),
    option("--think", type=click.Choice(["show", "hide"]), default="show",
           help="Chat: show what a model thinks before it answers."),
    option("--markdown", type=click.Choice(["on", "off"]), default="off",
           help="Chat: lay out Markdown, each block once it is finished."),
    option("-c", "--continue", "go_on", is_flag=True, help="Chat: go on with the last one."),
    option("--no-history/--history", is_flag=True,
           help="Chat: keep neither what was typed nor the chat."),
    option("--private/--no-private", is_flag=True, help="Chat: keep no text on disk, and say so."),
    option("-v", "--verbose", is_flag=True, help="Show llama.cpp's log."),
    option("--debug", is_flag=True, help="Show the traceback of an error."),
)  # fmt: skip


def run_options(command: Command) -> Command:
    """Adds all options to a command, in the order of the list."""
    for add in reversed(_OPTIONS):
        command = add(command)
    return command


def read_text(path: Path, what: str) -> str:
    """The text of a file; raises SSSDError when it cannot be read or is no UTF-8."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise SSSDError(f"the {what} {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SSSDError(f"the {what} {path} is not UTF-8 text (byte {error.start})") from error


def check_values(values: dict[str, Any]) -> None:
    """Raises ConfigError for values that no model and no answer can have; reads no file."""
    files = dict.fromkeys(("grammar", "json_schema", "chat_template"))
    model, answer = split({**values, **files})
    split_options(model, ModelConfig)
    split_options(answer, SamplingConfig, GenerationConfig)


def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Command-line values as options of LLM(…) and of one answer; files are read."""
    values = dict(values, logit_bias=dict(values["logit_bias"]))
    if values["overflow"] is None:
        del values["overflow"]
    names = {"grammar": "grammar", "json_schema": "JSON schema", "chat_template": "chat template"}
    for name, what in names.items():
        if values[name] is not None:
            values[name] = read_text(values[name], what)
    model_names = {item.name for item in fields(ModelConfig)}
    answer_names = {
        item.name for config in (SamplingConfig, GenerationConfig) for item in fields(config)
    }
    return (
        {name: value for name, value in values.items() if name in model_names},
        {name: value for name, value in values.items() if name in answer_names},
    )
