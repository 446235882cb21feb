"""Options that validate themselves: every default, every bound, every message."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.config import (
    KV_TYPES,
    MAX_WIDTH,
    OVERFLOWS,
    GenerationConfig,
    ModelConfig,
    SamplingConfig,
    parse_speculation,
    split_options,
    unknown_name,
)
from sssd_local.errors import ConfigError, SSSDError

CONFIGS = (ModelConfig, SamplingConfig, GenerationConfig)


def test_defaults() -> None:
    assert dataclasses.asdict(ModelConfig()) == {
        "ctx": None,
        "threads": None,
        "threads_batch": None,
        "gpu_layers": None,
        "main_gpu": None,
        "tensor_split": (),
        "kv_type": "f16",
        "kv_type_v": None,
        "flash_attention": "auto",
        "swa_full": None,
        "lora": (),
        "speculation": "auto",
        "chat_template": None,
        "datastores": (),
        "verbose": False,
    }
    assert dataclasses.asdict(SamplingConfig()) == {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "penalty_last_n": 64,
        "logit_bias": {},
        "seed": None,
        "grammar": None,
        "json_schema": None,
    }
    assert dataclasses.asdict(GenerationConfig()) == {
        "max_tokens": None,
        "stop": (),
        "overflow": "stop",
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_are_frozen_and_take_keywords_only(config: Any) -> None:
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config(), name, 1)
    with pytest.raises(TypeError):
        config(1)


GOOD: list[tuple[Any, str, Any]] = [
    (ModelConfig, "chat_template", "{{ messages }}"),
    (ModelConfig, "verbose", True),
    (ModelConfig, "ctx", 8),
    (ModelConfig, "threads", 1),
    (ModelConfig, "threads", 1024),
    (ModelConfig, "threads_batch", 1024),
    (ModelConfig, "gpu_layers", -1),
    (ModelConfig, "gpu_layers", 0),
    (ModelConfig, "main_gpu", 0),
    (ModelConfig, "tensor_split", (3.0, 0.0, 1.5)),
    *((ModelConfig, "kv_type", name) for name in ("f32", "f16", "q8_0")),
    *((ModelConfig, "kv_type_v", name) for name in ("f32", "f16", "q8_0")),
    *((ModelConfig, "flash_attention", name) for name in ("auto", "on", "off")),
    *((ModelConfig, "swa_full", value) for value in (True, False)),
    (ModelConfig, "lora", (("a.gguf", 0.5), ("b.gguf", -1.0))),
    (ModelConfig, "speculation", "off"),
    (ModelConfig, "speculation", 64),
    (ModelConfig, "datastores", ("code", "notes")),
    (SamplingConfig, "temperature", 0),
    (SamplingConfig, "temperature", 100.0),
    (SamplingConfig, "top_k", 0),
    (SamplingConfig, "top_p", 1),
    (SamplingConfig, "top_p", 1e-9),
    (SamplingConfig, "min_p", 0),
    (SamplingConfig, "min_p", 1),
    (SamplingConfig, "typical_p", 0.5),
    (SamplingConfig, "repeat_penalty", 0.1),
    (SamplingConfig, "presence_penalty", -2),
    (SamplingConfig, "frequency_penalty", 2),
    (SamplingConfig, "penalty_last_n", 0),
    (SamplingConfig, "logit_bias", {0: -math.inf, 5: 1}),
    (SamplingConfig, "seed", 0),
    (SamplingConfig, "seed", 2**32 - 2),
    (SamplingConfig, "grammar", 'root ::= "a"'),
    (SamplingConfig, "json_schema", "{}"),
    (GenerationConfig, "max_tokens", 1),
    (GenerationConfig, "stop", ("a", " ")),
    *((GenerationConfig, "overflow", name) for name in ("drop-oldest", "shift", "stop")),
]


@pytest.mark.parametrize(("config", "name", "value"), GOOD)
def test_values_at_the_bounds_are_kept(config: Any, name: str, value: Any) -> None:
    assert getattr(config(**{name: value}), name) == value


BAD: list[tuple[Any, str, Any, str]] = [
    (ModelConfig, "ctx", 7, "ctx must be a whole number at least 8, got 7"),
    (ModelConfig, "ctx", 8.0, "ctx must be a whole number at least 8, got 8.0"),
    (ModelConfig, "ctx", True, "ctx must be a whole number at least 8, got True"),
    (ModelConfig, "threads", 0, "threads must be a whole number from 1 to 1024, got 0"),
    (ModelConfig, "threads", 1025, "threads must be a whole number from 1 to 1024, got 1025"),
    (ModelConfig, "chat_template", 5, "chat_template must be a text, got 5"),
    (ModelConfig, "verbose", 1, "verbose must be true or false, got 1"),
    (ModelConfig, "threads_batch", "2", "must be a whole number from 1 to 1024, got '2'"),
    (ModelConfig, "gpu_layers", -2, "gpu_layers must be a whole number at least -1, got -2"),
    (ModelConfig, "main_gpu", -1, "main_gpu must be a whole number from 0 to 255, got -1"),
    (ModelConfig, "tensor_split", "3,x", "tensor_split must be numbers like 3,1, got '3,x'"),
    (ModelConfig, "tensor_split", 3, "tensor_split must be numbers like 3,1, got 3"),
    (ModelConfig, "tensor_split", (0, 0), "must be shares of 0 or more, and not all 0"),
    (ModelConfig, "tensor_split", (2, -1), "must be shares of 0 or more, and not all 0"),
    (ModelConfig, "tensor_split", (math.nan,), "must be shares of 0 or more, and not all 0"),
    (ModelConfig, "kv_type", "q4_0", "kv_type must be one of f32, f16, q8_0, got 'q4_0'"),
    (ModelConfig, "kv_type_v", "q4_0", "kv_type_v must be one of f32, f16, q8_0, got 'q4_0'"),
    (ModelConfig, "flash_attention", True, "must be one of auto, on, off, got True"),
    (ModelConfig, "swa_full", 1, "swa_full must be true, false or left out, got 1"),
    (ModelConfig, "lora", 3, "lora must be paths of LoRA adapters, got 3"),
    (ModelConfig, "lora", [3], "lora must be a path, got 3"),
    (ModelConfig, "lora", "", "lora names no file"),
    (ModelConfig, "datastores", 3, "datastores must be names, got 3"),
    (ModelConfig, "datastores", [3], "datastores must be names that are not empty, got"),
    (ModelConfig, "datastores", "", "datastores must be names that are not empty, got ''"),
    (ModelConfig, "lora", "=0.5", "lora names no file"),
    (ModelConfig, "lora", "a=nan", "the scale of a must be a finite number, got nan"),
    (ModelConfig, "speculation", 0, "speculation must be auto, off or a width from 1 to 64, got 0"),
    (SamplingConfig, "temperature", -0.1, "temperature must be 0 or more, got -0.1"),
    (SamplingConfig, "temperature", math.nan, "temperature must be a finite number, got nan"),
    (SamplingConfig, "temperature", math.inf, "temperature must be a finite number, got inf"),
    (SamplingConfig, "temperature", "1", "temperature must be a finite number, got '1'"),
    (SamplingConfig, "temperature", False, "temperature must be a finite number, got False"),
    (SamplingConfig, "temperature", 10**400, "a finite number, got a number of very many digits"),
    (SamplingConfig, "logit_bias", {1: 10**400}, "logit_bias of token 1 must be a number"),
    (SamplingConfig, "top_k", 10**4000, "top_k is too large: a number of very many digits"),
    (SamplingConfig, "top_k", -1, "top_k must be a whole number at least 0, got -1"),
    (SamplingConfig, "top_k", 1.5, "top_k must be a whole number at least 0, got 1.5"),
    (SamplingConfig, "top_p", 0, "top_p must be in (0, 1], got 0"),
    (SamplingConfig, "top_p", 1.3, "top_p must be in (0, 1], got 1.3"),
    (SamplingConfig, "min_p", -0.1, "min_p must be in [0, 1], got -0.1"),
    (SamplingConfig, "min_p", 1.1, "min_p must be in [0, 1], got 1.1"),
    (SamplingConfig, "typical_p", 0, "typical_p must be in (0, 1], got 0"),
    (SamplingConfig, "repeat_penalty", 0, "repeat_penalty must be > 0, got 0"),
    (SamplingConfig, "presence_penalty", 2.1, "presence_penalty must be from -2 to 2, got 2.1"),
    (SamplingConfig, "frequency_penalty", -3, "frequency_penalty must be from -2 to 2, got -3"),
    (SamplingConfig, "frequency_penalty", None, "must be a finite number, got None"),
    (SamplingConfig, "penalty_last_n", -1, "penalty_last_n must be a whole number at least 0"),
    (SamplingConfig, "logit_bias", {-1: 1.0}, "logit_bias token must be a whole number"),
    (SamplingConfig, "logit_bias", {"a": 1.0}, "logit_bias token must be a whole number"),
    (SamplingConfig, "logit_bias", {1: math.inf}, "logit_bias of token 1 must be a number"),
    (SamplingConfig, "logit_bias", {1: math.nan}, "logit_bias of token 1 must be a number"),
    (SamplingConfig, "logit_bias", {1: "x"}, "logit_bias of token 1 must be a number, got 'x'"),
    (SamplingConfig, "seed", -1, "seed must be a whole number from 0 to 4294967294, got -1"),
    (SamplingConfig, "seed", 2**32 - 1, "seed must be a whole number from 0 to 4294967294"),
    (SamplingConfig, "grammar", " \n", "grammar is empty"),
    (SamplingConfig, "json_schema", "", "json_schema is empty"),
    (GenerationConfig, "max_tokens", 0, "max_tokens must be a whole number at least 1, got 0"),
    (GenerationConfig, "stop", ("a", ""), "stop must be texts that are not empty, got ('a', '')"),
    (GenerationConfig, "stop", "", "stop must be texts that are not empty, got ('',)"),
    (GenerationConfig, "stop", [1], "stop must be texts that are not empty, got (1,)"),
    (GenerationConfig, "overflow", "drop", "overflow must be one of drop-oldest, shift, stop"),
]


@pytest.mark.parametrize(("config", "name", "value", "message"), BAD)
def test_impossible_values_say_what_is_wrong(
    config: Any, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{name: value})
    assert message in str(caught.value)


def test_every_field_has_a_good_and_a_bad_value_above() -> None:
    names = {item.name for config in CONFIGS for item in dataclasses.fields(config)}
    assert {name for _, name, _ in GOOD} == names
    assert {name for _, name, _, _ in BAD} == names


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), ()),
        (None, ()),
        ("a.gguf", (("a.gguf", 1.0),)),
        (Path("a.gguf"), (("a.gguf", 1.0),)),
        ("a.gguf=0.5", (("a.gguf", 0.5),)),
        ("x=y/a.gguf", (("x=y/a.gguf", 1.0),)),
        ("x=y/a.gguf=2", (("x=y/a.gguf", 2.0),)),
        (("a.gguf", 3), (("a.gguf", 3.0),)),
        (["a", "b=0.25", ("c", 2)], (("a", 1.0), ("b", 0.25), ("c", 2.0))),
        # A path object is never taken apart.
        ([Path("a=2")], (("a=2", 1.0),)),
    ],
)
def test_adapters_are_named_in_several_ways(given: Any, kept: Any) -> None:
    assert ModelConfig(lora=given).lora == kept


@pytest.mark.parametrize("given", ["code", ["code"], ("code", "code"), iter(["code"])])
def test_datastores_are_a_name_or_names_each_once(given: Any) -> None:
    assert ModelConfig(datastores=given).datastores == ("code",)
    assert ModelConfig(datastores=None).datastores == ()  # type: ignore[arg-type]


def test_shares_are_read_from_text() -> None:
    assert ModelConfig(tensor_split=None).tensor_split == ()  # type: ignore[arg-type]
    assert ModelConfig(tensor_split="3, 1").tensor_split == (3.0, 1.0)  # type: ignore[arg-type]
    assert ModelConfig(tensor_split=[1, 2]).tensor_split == (1.0, 2.0)  # type: ignore[arg-type]


def test_quantised_values_need_flash_attention() -> None:
    for options in ({"kv_type": "q8_0"}, {"kv_type_v": "q8_0"}):
        with pytest.raises(ConfigError, match="need flash attention; use flash_attention auto"):
            ModelConfig(flash_attention="off", **options)  # type: ignore[arg-type]
        assert ModelConfig(flash_attention="on", **options).value_type == "q8_0"  # type: ignore[arg-type]
    keys_only = ModelConfig(flash_attention="off", kv_type="q8_0", kv_type_v="f16")
    assert (keys_only.kv_type, keys_only.value_type) == ("q8_0", "f16")
    assert ModelConfig(kv_type="f32").value_type == "f32"


def test_grammar_and_json_schema_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="cannot be used together; choose one"):
        SamplingConfig(grammar="root ::= [a-z]", json_schema="{}")


def test_stop_takes_one_text_or_several() -> None:
    assert GenerationConfig(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert GenerationConfig(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("auto", "auto"), (" OFF ", "off"), ("8", 8), (1, 1), ("064", 64), (64, 64)],
)
def test_speculation_has_one_spelling(value: str | int, expected: str | int) -> None:
    assert parse_speculation(value) == expected
    assert ModelConfig(speculation=value).speculation == expected


@pytest.mark.parametrize("value", ["", "on", "0", "65", "-1", "1.0", "²", "٣", True, None, 3.0])
def test_speculation_of_another_kind_is_an_error(value: Any) -> None:
    with pytest.raises(ConfigError, match="speculation must be auto, off or a width from 1 to 64"):
        parse_speculation(value)


@given(st.one_of(st.text(), st.integers()))
def test_speculation_is_canonical_or_an_error(value: str | int) -> None:
    try:
        parsed = parse_speculation(value)
    except ConfigError:
        return
    assert parsed in ("auto", "off") or parsed in range(1, MAX_WIDTH + 1)
    assert parse_speculation(parsed) == parsed


@given(st.floats())
def test_a_probability_is_kept_or_an_error(value: float) -> None:
    if 0 < value <= 1:
        assert SamplingConfig(top_p=value).top_p == value
    else:
        with pytest.raises(ConfigError):
            SamplingConfig(top_p=value)


def test_options_go_to_the_config_that_has_them() -> None:
    options = {"ctx": 512, "stop": "END", "top_k": 3}
    model, sampling, generation = split_options(options, *CONFIGS)
    assert model == ModelConfig(ctx=512)
    assert sampling == SamplingConfig(top_k=3)
    assert generation == GenerationConfig(stop=("END",))
    assert split_options({}, *CONFIGS) == tuple(config() for config in CONFIGS)


def test_aliases_are_other_names_of_fields() -> None:
    (sampling,) = split_options({"temp": 0.1}, SamplingConfig, aliases={"temp": "temperature"})
    assert sampling == SamplingConfig(temperature=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temprature", "unknown option 'temprature'; did you mean 'temperature'?"),
        ("zzz", "unknown option 'zzz'"),
        # A field of a config that is not asked for is as unknown as any other.
        ("max_tokens", "unknown option 'max_tokens'"),
    ],
)
def test_unknown_options_are_errors(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_options({name: 1}, ModelConfig, SamplingConfig)
    assert str(caught.value) == message


def test_unknown_names_of_any_kind() -> None:
    assert unknown_name("command", "/hlep", ["/help"]) == (
        "unknown command '/hlep'; did you mean '/help'?"
    )
    assert unknown_name("command", "/x", []) == "unknown command '/x'"


def test_a_wrong_option_is_both_kinds_of_error() -> None:
    with pytest.raises(SSSDError):
        ModelConfig(ctx=0)
    with pytest.raises(ValueError, match="ctx"):
        ModelConfig(ctx=0)


def test_the_names_for_choices_are_those_of_the_types() -> None:
    assert KV_TYPES == ("f32", "f16", "q8_0")
    assert OVERFLOWS == ("drop-oldest", "shift", "stop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 2**32 + 1}, "top_k is too large: 4294967297"),
        ({"penalty_last_n": 2**31}, "penalty_last_n is too large"),
        ({"repeat_penalty": 1e-40}, "repeat_penalty must be from 0.01 to 100"),
        ({"logit_bias": {5: 3.5e38}}, "logit_bias of token 5 must be a number"),
        ({"logit_bias": [5]}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": None}, "logit_bias must map token ids to numbers"),
        ({"grammar": 5}, "grammar must be text, got 5"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema cannot be written as JSON"),
    ],
)
def test_what_would_wrap_or_crash_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**options)


@pytest.mark.parametrize("stop", [None, 5])
def test_stop_must_be_texts(stop: Any) -> None:
    with pytest.raises(ConfigError, match="stop must be texts"):
        GenerationConfig(stop=stop)


def test_a_context_beyond_32_bits_is_refused() -> None:
    with pytest.raises(ConfigError, match="ctx is too large: 4294967304"):
        ModelConfig(ctx=2**32 + 8)


def test_values_are_stored_in_their_plain_form() -> None:
    config = SamplingConfig(temperature=1e-40, json_schema={"type": "object"})  # type: ignore[arg-type]
    assert config.temperature == 0.0
    assert config.json_schema == '{"type": "object"}'
