"""Every option of the package, as frozen dataclasses that validate themselves."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, cast, get_args

from sssd_local.errors import ConfigError

KvType = Literal["f32", "f16", "q8_0"]
Overflow = Literal["drop-oldest", "shift", "stop"]

KV_TYPES: tuple[str, ...] = get_args(KvType)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)
MAX_WIDTH = 64
LARGEST = 2**31 - 1
# Colder than this is greedy: the odds of any other token are below what a float32 holds.
LEAST_TEMPERATURE = 1e-4
LARGEST_BIAS = 1e6

Config = TypeVar("Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _number(name: str, value: object) -> float:
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    _require(good, f"{name} must be a finite number, got {value!r}")
    return float(cast(float, value))


def _integer(name: str, value: object, low: int, high: int | None = None) -> int:
    span = f"at least {low}" if high is None else f"from {low} to {high}"
    good = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(cast(int, value)) if good else low - 1
    _require(
        number >= low and (high is None or number <= high),
        f"{name} must be a whole number {span}, got {value!r}",
    )
    # llama.cpp takes 32 bits and would wrap around silently.
    _require(number <= (high or LARGEST), f"{name} is too large: {number}")
    return number


def _set(config: object, name: str, value: object) -> None:
    """Stores a canonical value in a frozen config."""
    object.__setattr__(config, name, value)


def _checked_bias(bias: object) -> dict[int, float]:
    _require(isinstance(bias, Mapping), f"logit_bias must map token ids to numbers, got {bias!r}")
    checked: dict[int, float] = {}
    for token, value in cast(Mapping[object, object], bias).items():
        good = isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
        good = good and (value == -math.inf or abs(cast(float, value)) <= LARGEST_BIAS)
        _require(good, f"logit_bias of token {token} must be a number, got {value!r}")
        checked[_integer("logit_bias token", token, 0)] = float(cast(float, value))
    return checked


def _as_json(schema: object) -> str:
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"json_schema cannot be written as JSON: {error}") from error


def parse_speculation(value: str | int) -> str | int:
    """Turns `auto`, `off` or a width (1 to 64, as number or text) into its canonical form."""
    text = str(value).strip().lower()
    if text in ("auto", "off"):
        return text
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_WIDTH:
        return int(text)
    raise ConfigError(
        f"speculation must be auto, off or a width from 1 to {MAX_WIDTH}, got {value!r}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """How a model is loaded; `None` means chosen for this machine."""

    ctx: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    gpu_layers: int | None = None
    kv_type: KvType = "f16"
    speculation: str | int = "auto"
    chat_template: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        spans = {"ctx": (8, None), "threads": (1, 1024), "threads_batch": (1, 1024)}
        for name, (low, high) in {**spans, "gpu_layers": (-1, None)}.items():
            if getattr(self, name) is not None:
                _set(self, name, _integer(name, getattr(self, name), low, high))
        _require(
            self.kv_type in KV_TYPES,
            f"kv_type must be one of {', '.join(KV_TYPES)}, got {self.kv_type!r}",
        )
        _set(self, "speculation", parse_speculation(self.speculation))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen from the model's distribution; temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    grammar: str | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        numbers = "temperature top_p min_p typical_p repeat_penalty presence_penalty"
        for name in (*numbers.split(), "frequency_penalty"):
            _set(self, name, _number(name, getattr(self, name)))
        for name in ("presence_penalty", "frequency_penalty"):
            _require(
                -2 <= getattr(self, name) <= 2,
                f"{name} must be from -2 to 2, got {getattr(self, name)}",
            )
        _require(self.temperature >= 0, f"temperature must be 0 or more, got {self.temperature}")
        if self.temperature < LEAST_TEMPERATURE:
            _set(self, "temperature", 0.0)
        _require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        _require(0 <= self.min_p <= 1, f"min_p must be in [0, 1], got {self.min_p}")
        _require(0 < self.typical_p <= 1, f"typical_p must be in (0, 1], got {self.typical_p}")
        _require(self.repeat_penalty > 0, f"repeat_penalty must be > 0, got {self.repeat_penalty}")
        _require(
            0.01 <= self.repeat_penalty <= 100,
            f"repeat_penalty must be from 0.01 to 100, got {self.repeat_penalty}",
        )
        for name in ("top_k", "penalty_last_n"):
            _set(self, name, _integer(name, getattr(self, name), 0))
        if self.seed is not None:
            _set(self, "seed", _integer("seed", self.seed, 0, 2**32 - 2))
        _set(self, "logit_bias", _checked_bias(self.logit_bias))
        if self.json_schema is not None and not isinstance(self.json_schema, str):
            _set(self, "json_schema", _as_json(self.json_schema))
        for name in ("grammar", "json_schema"):
            text = getattr(self, name)
            _require(text is None or isinstance(text, str), f"{name} must be text, got {text!r}")
            _require(text is None or text.strip() != "", f"{name} is empty")
        _require(
            self.grammar is None or self.json_schema is None,
            "grammar and json_schema cannot be used together; choose one",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How long an answer may get and where it stops; `max_tokens` None is up to the context."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    overflow: Overflow = "stop"

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _set(self, "max_tokens", _integer("max_tokens", self.max_tokens, 1))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        _require(isinstance(stop, Iterable), f"stop must be texts, got {stop!r}")
        stop = tuple(stop)
        _require(
            all(isinstance(text, str) and text for text in stop),
            f"stop must be texts that are not empty, got {stop!r}",
        )
        _set(self, "stop", stop)
        _require(
            self.overflow in OVERFLOWS,
            f"overflow must be one of {', '.join(OVERFLOWS)}, got {self.overflow!r}",
        )


def split_options(
    options: Mapping[str, Any], *configs: type[Any], aliases: Mapping[str, str] | None = None
) -> tuple[Any, ...]:
    """Builds one instance of each config class from keyword options.

    Raises ConfigError for a name that none of the classes has, with the nearest one.
    """
    renamed = {(aliases or {}).get(name, name): value for name, value in options.items()}
    owner = {item.name: config for config in configs for item in fields(config)}
    for name in renamed:
        if name not in owner:
            raise ConfigError(unknown_name("option", name, owner))
    return tuple(
        config(**{name: value for name, value in renamed.items() if owner[name] is config})
        for config in configs
    )


def unknown_name(kind: str, name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Says that a name is unknown and which known one is nearest."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint}"
