"""Every option of the package, as frozen dataclasses that validate themselves."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, cast, get_args

from sssd_local.errors import ConfigError

KvType = Literal["f32", "f16", "q8_0"]
FlashAttention = Literal["auto", "on", "off"]
Overflow = Literal["drop-oldest", "shift", "stop"]

KV_TYPES: tuple[str, ...] = get_args(KvType)
FLASH_ATTENTIONS: tuple[str, ...] = get_args(FlashAttention)
OVERFLOWS: tuple[str, ...] = get_args(Overflow)
MAX_WIDTH = 64
LARGEST = 2**31 - 1
# Colder than this is greedy: the odds of any other token are below what a float32 holds.
LEAST_TEMPERATURE = 1e-4
LARGEST_BIAS = 1e6
MAX_GPUS = 256
MAX_THREADS = 1024

Config = TypeVar("Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _float(value: object) -> float:
    """A number as float; one that no float holds is infinite."""
    try:
        return float(cast(float, value))
    except OverflowError:
        return math.inf


def _short(value: object) -> str:
    """A value for a message. Python refuses to write very long whole numbers in digits."""
    if isinstance(value, int) and not -(10**40) < value < 10**40:
        return "a number of very many digits"
    return repr(value)


def _number(name: str, value: object) -> float:
    good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(_float(value))
    _require(good, f"{name} must be a finite number, got {_short(value)}")
    return float(cast(float, value))


def _integer(name: str, value: object, low: int, high: int | None = None) -> int:
    span = f"at least {low}" if high is None else f"from {low} to {high}"
    good = isinstance(value, Integral) and not isinstance(value, bool)
    number = int(cast(int, value)) if good else low - 1
    _require(
        number >= low and (high is None or number <= high),
        f"{name} must be a whole number {span}, got {_short(value)}",
    )
    # llama.cpp takes 32 bits and would wrap around silently.
    _require(number <= (high or LARGEST), f"{name} is too large: {_short(number)}")
    return number


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _set(config: object, name: str, value: object) -> None:
    """Stores a canonical value in a frozen config."""
    object.__setattr__(config, name, value)


def _checked_bias(bias: object) -> dict[int, float]:
    _require(isinstance(bias, Mapping), f"logit_bias must map token ids to numbers, got {bias!r}")
    checked: dict[int, float] = {}
    for token, value in cast(Mapping[object, object], bias).items():
        good = isinstance(value, Real) and not isinstance(value, bool)
        number = _float(value) if good else math.nan
        good = number == -math.inf or abs(number) <= LARGEST_BIAS
        _require(good, f"logit_bias of token {token} must be a number, got {_short(value)}")
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


def parse_adapters(value: object) -> tuple[tuple[str, float], ...]:
    """LoRA adapters as (path, scale): from paths, `path=scale` texts, pairs or a list of these."""
    if value is None:
        return ()
    if isinstance(value, (str, os.PathLike)) or _is_pair(value):
        value = (value,)
    _require(isinstance(value, Iterable), f"lora must be paths of LoRA adapters, got {value!r}")
    return tuple(_adapter(item) for item in cast(Iterable[object], value))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Real)


def _adapter(item: object) -> tuple[str, float]:
    path, scale = cast(tuple[object, object], item) if _is_pair(item) else (item, 1.0)
    _require(isinstance(path, (str, os.PathLike)), f"lora must be a path, got {path!r}")
    text = os.fspath(cast(str, path))
    if isinstance(item, str) and "=" in text:
        # A path may have a "=" of its own.
        front, _, back = text.rpartition("=")
        with contextlib.suppress(ValueError):
            text, scale = front, float(back)
    _require(bool(text), "lora names no file")
    return text, _number(f"the scale of {text}", scale)


def parse_datastores(value: object) -> tuple[str, ...]:
    """Names of datastores, each once: from a name or a list of names."""
    names = (value,) if isinstance(value, str) else () if value is None else value
    _require(isinstance(names, Iterable), f"datastores must be names, got {value!r}")
    names = tuple(cast(Iterable[object], names))
    good = all(isinstance(name, str) and name for name in names)
    _require(good, f"datastores must be names that are not empty, got {value!r}")
    return tuple(dict.fromkeys(cast(tuple[str, ...], names)))


def parse_split(value: object) -> tuple[float, ...]:
    """Shares of the model for each GPU: numbers, or a text like `3,1`."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else value
    _require(isinstance(parts, Iterable), f"tensor_split must be numbers like 3,1, got {value!r}")
    try:
        shares = tuple(float(cast(float, part)) for part in cast(Iterable[object], parts))
    except (TypeError, ValueError):
        raise ConfigError(f"tensor_split must be numbers like 3,1, got {value!r}") from None
    good = all(math.isfinite(share) and share >= 0 for share in shares)
    _require(
        not shares or (good and sum(shares) > 0 and len(shares) <= MAX_GPUS),
        f"tensor_split must be shares of 0 or more, and not all 0, got {value!r}",
    )
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """How a model is loaded; `None` means chosen for this machine.

    `kv_type_v` is the type of the values alone, `kv_type` without it; `swa_full` keeps all of the
    cache of layers with a sliding window; `lora` becomes (path, scale) pairs; `datastores` are the
    names of stores that drafts are taken from.
    """

    ctx: int | None = None
    threads: int | None = None
    threads_batch: int | None = None
    gpu_layers: int | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    kv_type: KvType = "f16"
    kv_type_v: KvType | None = None
    flash_attention: FlashAttention = "auto"
    swa_full: bool | None = None
    lora: tuple[tuple[str, float], ...] = ()
    speculation: str | int = "auto"
    chat_template: str | None = None
    datastores: tuple[str, ...] = ()
    verbose: bool = False

    def __post_init__(self) -> None:
        spans: dict[str, tuple[int, int | None]] = {"ctx": (8, None)}
        spans |= {"threads": (1, MAX_THREADS), "threads_batch": (1, MAX_THREADS)}
        spans |= {"gpu_layers": (-1, None), "main_gpu": (0, MAX_GPUS - 1)}
        for name, (low, high) in spans.items():
            if getattr(self, name) is not None:
                _set(self, name, _integer(name, getattr(self, name), low, high))
        _one_of("kv_type", self.kv_type, KV_TYPES)
        if self.kv_type_v is not None:
            _one_of("kv_type_v", self.kv_type_v, KV_TYPES)
        _one_of("flash_attention", self.flash_attention, FLASH_ATTENTIONS)
        # llama.cpp stores quantised values in rows that only flash attention reads.
        _require(
            self.flash_attention != "off" or self.value_type != "q8_0",
            "quantised values (kv_type q8_0) need flash attention; use flash_attention auto or on, "
            "or kv_type_v f16",
        )
        _require(
            self.swa_full is None or isinstance(self.swa_full, bool),
            f"swa_full must be true, false or left out, got {self.swa_full!r}",
        )
        _require(
            self.chat_template is None or isinstance(self.chat_template, str),
            f"chat_template must be a text, got {self.chat_template!r}",
        )
        _require(
            isinstance(self.verbose, bool), f"verbose must be true or false, got {self.verbose!r}"
        )
        _set(self, "tensor_split", parse_split(self.tensor_split))
        _set(self, "lora", parse_adapters(self.lora))
        _set(self, "speculation", parse_speculation(self.speculation))
        _set(self, "datastores", parse_datastores(self.datastores))

    @property
    def value_type(self) -> KvType:
        """The type of the values in the KV cache."""
        return self.kv_type_v or self.kv_type


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
