"""Every option of the package, as frozen dataclasses that validate themselves."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, cast, get_args

from sssd_local.errors import ConfigError

KvType = Literal["f32", "f16", "q8_0"]
Overflow = Literal["drop-oldest", "shift", "stop"]

KV_TYPES: tuple[str, ...] = get_args(KvType)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)
MAX_WIDTH = 64

Config = TypeVar("Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_number(name: str, value: object) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _require(good, f"{name} must be a finite number, got {value!r}")


def _require_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    span = f"at least {low}" if high is None else f"from {low} to {high}"
    good = isinstance(value, int) and not isinstance(value, bool) and value >= low
    _require(
        good and (high is None or cast(int, value) <= high),
        f"{name} must be a whole number {span}, got {value!r}",
    )


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
        if self.ctx is not None:
            _require_integer("ctx", self.ctx, 8)
        if self.threads is not None:
            _require_integer("threads", self.threads, 1, 1024)
        if self.threads_batch is not None:
            _require_integer("threads_batch", self.threads_batch, 1, 1024)
        if self.gpu_layers is not None:
            _require_integer("gpu_layers", self.gpu_layers, -1)
        _require(
            self.kv_type in KV_TYPES,
            f"kv_type must be one of {', '.join(KV_TYPES)}, got {self.kv_type!r}",
        )
        object.__setattr__(self, "speculation", parse_speculation(self.speculation))


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
        for name in ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"):
            _require_number(name, getattr(self, name))
        for name in ("presence_penalty", "frequency_penalty"):
            _require_number(name, getattr(self, name))
            _require(
                -2 <= getattr(self, name) <= 2,
                f"{name} must be from -2 to 2, got {getattr(self, name)}",
            )
        _require(self.temperature >= 0, f"temperature must be 0 or more, got {self.temperature}")
        _require_integer("top_k", self.top_k, 0)
        _require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p}")
        _require(0 <= self.min_p <= 1, f"min_p must be in [0, 1], got {self.min_p}")
        _require(0 < self.typical_p <= 1, f"typical_p must be in (0, 1], got {self.typical_p}")
        _require(self.repeat_penalty > 0, f"repeat_penalty must be > 0, got {self.repeat_penalty}")
        _require_integer("penalty_last_n", self.penalty_last_n, 0)
        if self.seed is not None:
            _require_integer("seed", self.seed, 0, 2**32 - 2)
        for token, bias in self.logit_bias.items():
            _require_integer("logit_bias token", token, 0)
            good = isinstance(bias, int | float) and not math.isnan(bias) and bias != math.inf
            _require(good, f"logit_bias of token {token} must be a number, got {bias!r}")
        for name in ("grammar", "json_schema"):
            text = getattr(self, name)
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
            _require_integer("max_tokens", self.max_tokens, 1)
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        _require(
            all(isinstance(text, str) and text for text in stop),
            f"stop must be texts that are not empty, got {stop!r}",
        )
        object.__setattr__(self, "stop", stop)
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
