"""The TOML file of the user's own defaults: one table for all models, one for each model."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sssd_local.cli_options import Adapter
from sssd_local.config import parse_adapters, unknown_name
from sssd_local.errors import ConfigError
from sssd_local.files import app_folder

FILE_NAME = "config.toml"
DEFAULTS = "defaults"
TABLES = (DEFAULTS, "model", "memory")
# A setting gives way to another one that comes from nearer to the user.
CONFLICTS = {
    "system": ("system_file", "raw"),
    "system_file": ("system", "raw"),
    "raw": ("system", "system_file"),
    "grammar": ("json_schema",),
    "json_schema": ("grammar",),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of the file and the table it stands in."""

    value: Any
    table: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says, by parameter name; empty without a file.

    `ignore` are regular expressions for lines that memory never takes in.
    """

    path: Path
    defaults: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    ignore: tuple[str, ...] = ()

    def for_model(self, model: str | None) -> dict[str, Setting]:
        """The settings that hold for a model: its own tables over the defaults.

        A table is meant by what was typed or the model's path, its file name or that name without
        `.gguf`, the first of these winning.
        """
        chosen: dict[str, Setting] = {}
        layers = [(DEFAULTS, self.defaults), *self._tables_of(model)]
        for table, values in layers:
            for name in values:
                for other in CONFLICTS.get(name, ()):
                    chosen.pop(other, None)
            chosen |= {name: Setting(value, table) for name, value in values.items()}
        return chosen

    def _tables_of(self, model: str | None) -> list[tuple[str, Mapping[str, Any]]]:
        if model is None:
            return []
        wanted = Path(model)
        file = wanted.name.casefold()
        ranked = []
        for name, values in self.models.items():
            key = name.casefold()
            is_typed = name == model or self._is_path(name, wanted)
            ranks = (key == file.removesuffix(".gguf"), key == file, is_typed)
            if any(ranks):
                rank = max(i for i, holds in enumerate(ranks) if holds)
                ranked.append((rank, f'model."{name}"', values))
        return [(table, values) for _, table, values in sorted(ranked, key=lambda item: item[0])]

    def _is_path(self, name: str, wanted: Path) -> bool:
        try:
            return _absolute(self.path.parent, name) == wanted.expanduser().resolve()
        except (OSError, RuntimeError, ValueError):
            return False


def default_path() -> Path:
    """Where the file is looked for when none is named."""
    return app_folder() / FILE_NAME


def load_settings(path: Path | None, options: Sequence[click.Option]) -> Settings:
    """Reads and checks the file; `path` None is the default one, which need not exist.

    Keys are the long names of `options` without the dashes. Raises ConfigError with the file, the
    key and, for an unknown one, the nearest known.
    """
    named = path is not None
    path = path or default_path()
    try:
        text = path.read_bytes().decode("utf-8-sig")
        document = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        if named:
            raise ConfigError(f"the config file {path} does not exist") from None
        return Settings(path, {}, {})
    except OSError as error:
        if not named and not os.access(path.parent, os.X_OK | os.R_OK):
            # A home that cannot be used holds no settings.
            return Settings(path, {}, {})
        raise ConfigError(
            f"the config file {path} cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the config file {path} is not UTF-8 (byte {error.start})") from error
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config file {path} is not TOML: {error}") from error
    return _Checker(path, options).settings(document)


class _Checker:
    def __init__(self, path: Path, options: Sequence[click.Option]) -> None:
        self._path = path
        self._options = {key: option for option in options for key in option_keys(option)}

    def settings(self, document: Mapping[str, Any]) -> Settings:
        for name in document:
            if name not in TABLES:
                known = [*TABLES, *self._options]
                where = f"; it belongs under [{DEFAULTS}]" if _key(name) in self._options else ""
                self._fail(unknown_name("table", name, known) if not where else name + where)
        models = self._table("model", document.get("model", {}))
        return Settings(
            self._path,
            self._values(DEFAULTS, document.get(DEFAULTS, {})),
            {name: self._values(f'model."{name}"', values) for name, values in models.items()},
            self._ignore(self._table("memory", document.get("memory", {}))),
        )

    def _ignore(self, memory: Mapping[str, Any]) -> tuple[str, ...]:
        for name in memory:
            if name != "ignore":
                self._fail(f"[memory] {unknown_name('key', name, ['ignore'])}")
        patterns = memory.get("ignore", [])
        if not isinstance(patterns, list) or not all(isinstance(text, str) for text in patterns):
            self._fail(f"[memory] ignore must be a list of texts, got {patterns!r}")
        if patterns:
            from sssd_local.store.memory_ignore import IgnoredLines

            try:
                IgnoredLines(patterns)
            except ConfigError as error:
                self._fail(f"[memory] ignore: {error}")
        return tuple(patterns)

    def _table(self, name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self._fail(f"{name} must be a table, written [{name}]")
        return value  # type: ignore[no-any-return]

    def _values(self, table: str, values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in self._table(table, values).items():
            option = self._options.get(_key(name))
            if option is None:
                known = sorted(key.replace("_", "-") for key in self._options)
                self._fail(f"[{table}] {unknown_name('key', name.replace('_', '-'), known)}")
                continue
            assert option.name is not None
            if option.name in found:
                self._fail(f"[{table}] {name} is set twice")
            found[option.name] = self._value(f"[{table}] {name}", option, value)
        return found

    def _value(self, where: str, option: click.Option, value: Any) -> Any:
        if option.multiple and isinstance(value, dict):
            # NAME=VALUE options may be written as a table.
            value = [f"{name}={_as_json(item)}" for name, item in value.items()]
        if option.multiple:
            if not isinstance(value, list):
                self._fail(f"{where} must be a list, got {value!r}")
            return [self._one(where, option, item) for item in value]
        return self._one(where, option, value)

    def _one(self, where: str, option: click.Option, value: Any) -> Any:
        what, kinds = _expected(option)
        is_bool = isinstance(value, bool)
        if not isinstance(value, kinds) or is_bool != (kinds is bool):
            self._fail(f"{where} must be {what}, got {value!r}")
        if isinstance(option.type, click.Path):
            try:
                value = str(_absolute(self._path.parent, value))
            except (OSError, RuntimeError, ValueError) as error:
                self._fail(f"{where}: {error}")
        if isinstance(option.type, Adapter):
            value = self._adapter(where, value)
        try:
            option.type.convert(value, option, click.Context(click.Command("run")))
        except click.BadParameter as error:
            self._fail(f"{where}: {error.message}")
        except (OverflowError, ValueError):
            self._fail(f"{where} is out of range")
        return value

    def _adapter(self, where: str, value: str) -> str:
        try:
            ((path, scale),) = parse_adapters(value)
            return f"{_absolute(self._path.parent, path)}={scale}"
        except (ConfigError, OSError, RuntimeError, ValueError) as error:
            self._fail(f"{where}: {error}")
            raise

    def _fail(self, what: str) -> None:
        raise ConfigError(f"{self._path}: {what}")


def option_keys(option: click.Option) -> list[str]:
    """The names of an option in the file, with `_` for `-`."""
    return [_key(name[2:]) for name in option.opts if name.startswith("--")]


def _key(name: str) -> str:
    return name.replace("-", "_")


def _expected(option: click.Option) -> tuple[str, Any]:
    if option.is_flag:
        return "true or false", bool
    if option.name == "speculation":
        return "auto, off or a width", (str, int)
    if option.name == "tensor_split":
        return "shares, like [3, 1]", (str, list)
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", int
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", (int, float)
    return "a text", str


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _absolute(folder: Path, name: str) -> Path:
    """A path of the file: `~` is the home folder, what is relative is beside the file."""
    return Path(os.path.normpath(folder.absolute() / Path(name).expanduser())).resolve()
