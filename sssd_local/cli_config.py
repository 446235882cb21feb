"""`--config` and `sssd-local config`: where the value of each option comes from."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import click
from click.core import ParameterSource

from sssd_local.cli_info import print_lines
from sssd_local.cli_options import check_values
from sssd_local.config import unknown_name
from sssd_local.errors import ConfigError
from sssd_local.files import HOME_VARIABLE
from sssd_local.settings import CONFLICTS, Setting, load_settings, option_keys

PREFIX = "SSSD_LOCAL_"
VARIABLE = "SSSD_LOCAL_CONFIG"
# Where a command finds the lines that memory is to ignore.
IGNORE = "sssd_local.ignore"
_LEFT_OUT = frozenset({"config", "help", "go_on"})

config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=VARIABLE,
    expose_value=False,
    help="File of your own defaults [config.toml in the app folder].",
)


def check_environment(root: click.Group) -> None:
    """Raises ConfigError for a variable SSSD_LOCAL_… that is none of a command's options."""
    known = {VARIABLE, HOME_VARIABLE}
    commands: list[click.Command] = [root]
    while commands:
        command = commands.pop()
        if isinstance(command, click.Group):
            commands += command.commands.values()
        for param in command.params:
            known.update([param.envvar] if isinstance(param.envvar, str) else param.envvar or ())
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            raise ConfigError(unknown_name("environment variable", name, sorted(known)))


class _Problem(click.ClickException):
    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class ConfiguredCommand(click.Command):
    """A command whose options have the config file's values where the user gives none.

    It has an argument `model` and the option `config_option`. Order: command line, environment,
    the model's table, the defaults table, built-in default.
    """

    # Whether the embedded model is meant where none is named.
    has_builtin: ClassVar[bool] = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Finds the model and the file among the arguments, then parses with their settings."""
        before = args[: args.index("--")] if "--" in args else args
        if not ctx.resilient_parsing and not {"-h", "--help"} & set(before):
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            settings = self._settings(ctx, given)
            ctx.meta["sssd_local.settings"] = settings
            ctx.default_map = {name: setting.value for name, setting in settings.items()}
        return super().parse_args(ctx, args)

    def _settings(self, ctx: click.Context, given: Mapping[str, Any]) -> dict[str, Setting]:
        params = self.get_params(ctx)
        options = [param for param in params if isinstance(param, click.Option)]
        named = given.get("config") or os.environ.get(VARIABLE)
        model = given.get("model")
        model = model if isinstance(model, str) else self._unnamed()
        known = [option for option in options if option.name not in _LEFT_OUT]
        try:
            settings = load_settings(Path(named) if named else None, known)
        except ConfigError as error:
            raise _Problem(str(error)) from error
        found = settings.for_model(model)
        for option in options:
            if option.name in given or option.value_from_envvar(ctx) is not None:
                for other in CONFLICTS.get(option.name or "", ()):
                    found.pop(other, None)
        ctx.meta["sssd_local.settings_file"] = settings.path
        ctx.meta[IGNORE] = settings.ignore
        return found

    def _unnamed(self) -> str | None:
        from sssd_local.builtin import TINY

        return TINY if self.has_builtin else None


class _ShowCommand(ConfiguredCommand):
    """Takes every option of `run`, without a line in its help for each."""

    has_builtin: ClassVar[bool] = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        root = ctx.find_root().command
        run = root.commands.get("run") if isinstance(root, click.Group) else None
        names = {param.name for param in own}
        hidden = []
        for param in run.params if run is not None else []:
            if isinstance(param, click.Option) and param.name not in names:
                twin = copy.copy(param)
                twin.hidden = True
                hidden.append(twin)
        return [*own, *hidden]


@click.group("config")
def config() -> None:
    """Shows the values that options have without being given."""


@config.command("show", cls=_ShowCommand)
@click.argument("model", required=False, type=click.Path())
@config_option
def show(model: str | None, **values: Any) -> None:
    """Prints each option of `run` with its value for MODEL and where that comes from.

    Takes the options of `run` too, to see what they would change. Values that cannot be together
    are an error after that.
    """
    ctx = click.get_current_context()
    path = ctx.meta["sssd_local.settings_file"]
    title = f"# {path}{'' if os.path.exists(path) else ' (no such file)'}"
    rows = [
        (option_keys(param)[0].replace("_", "-"), _text(values[param.name]), _origin(ctx, param))
        for param in ctx.command.get_params(ctx)
        if isinstance(param, click.Option) and param.name in values
    ]
    wide = max(len(f"{name} = {text}") for name, text, _ in rows)
    column = min(wide, 48)
    lines = (f"{f'{name} = {text}':<{column}}  # {origin}" for name, text, origin in rows)
    ignore = ctx.meta[IGNORE]
    memory = [f"{f'memory.ignore = {_text(ignore)}':<{column}}  # [memory]"] if ignore else []
    print_lines([title, *lines, *memory])
    try:
        check_values(values)
    except ConfigError as error:
        raise _Problem(str(error)) from error


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value, ensure_ascii=False)


def _origin(ctx: click.Context, param: click.Option) -> str:
    assert param.name is not None
    source = ctx.get_parameter_source(param.name)
    if source == ParameterSource.COMMANDLINE:
        return "option"
    if source == ParameterSource.ENVIRONMENT:
        names = [param.envvar] if isinstance(param.envvar, str) else param.envvar or ()
        return next((name for name in names if os.environ.get(name)), str(names))
    if source == ParameterSource.DEFAULT_MAP:
        return f"[{ctx.meta['sssd_local.settings'][param.name].table}]"
    return "built-in"
