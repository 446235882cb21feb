"""Operators and methods: Python's results within limits, a refusal beyond them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Undefined
from jinja2.exceptions import SecurityError, UndefinedError

from sssd_local.chat import operations
from sssd_local.chat.limits import Budget, RenderLimitError

LIMIT = 10_000
NUMBERS = st.integers(-50, 50) | st.floats(-50, 50)
SYMBOLS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}


@pytest.fixture(autouse=True)
def _budget() -> Iterator[None]:
    with Budget(60, LIMIT).enforced(lines=False):
        yield


@settings(deadline=None)
@given(left=NUMBERS, right=NUMBERS, symbol=st.sampled_from(sorted(SYMBOLS)))
def test_numbers_as_in_python(left: Any, right: Any, symbol: str) -> None:
    try:
        expected = SYMBOLS[symbol](left, right)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            operations.binary(symbol, left, right)
        return
    assert operations.binary(symbol, left, right) == expected


@pytest.mark.parametrize(
    ("left", "symbol", "right", "expected"),
    [
        ("ab", "+", "c", "abc"),
        ([1], "+", [2], [1, 2]),
        ((1,), "+", (2,), (1, 2)),
        ("ab", "*", 3, "ababab"),
        (2, "*", [1], [1, 1]),
        ("ab", "*", -1, ""),
        ("%s is %d", "%", ("x", 5), "x is 5"),
        ("%(a)s", "%", {"a": 1}, "1"),
        ("%5.2f%%", "%", 1.5, " 1.50%"),
        (2, "**", 10, 1024),
        (2, "**", -1, 0.5),
        (10, "**", 100, 10**100),
    ],
)
def test_binary(left: Any, symbol: str, right: Any, expected: Any) -> None:
    assert operations.binary(symbol, left, right) == expected


@pytest.mark.parametrize(
    ("left", "symbol", "right"),
    [
        ("a", "*", 10**10),
        (10**10, "*", "a"),
        ([1], "*", LIMIT),
        ("a" * LIMIT, "+", "a"),
        ([1] * 1000, "+", [1] * 1000),
        ("%s" * 100, "%", ("x",) * 100),
    ],
)
def test_large_results_are_refused_before_they_exist(left: Any, symbol: str, right: Any) -> None:
    with pytest.raises(RenderLimitError, match="it builds"):
        operations.binary(symbol, left, right)


@pytest.mark.parametrize(
    ("left", "symbol", "right"),
    [
        (10, "**", 10**10),
        (2, "**", 5000),
        (-3, "**", 9999),
        (2**4000, "*", 2**4000),
        (1, "//", 1 << 5000),
    ],
)
def test_large_numbers_are_refused(left: int, symbol: str, right: int) -> None:
    with pytest.raises(SecurityError, match="more than 4096 bits"):
        operations.binary(symbol, left, right)


@pytest.mark.parametrize(
    "text",
    [
        "%1000000000d",
        "%*d",
        "%-0+*d",
        "%.1000000000f",
        "%.*f",
        "%(a)9999d",
        "%(a(b))9999d",
        "% 12345s",
    ],
)
def test_formats_that_pad_widely_are_refused(text: str) -> None:
    assert operations.pads_widely(text)
    with pytest.raises(SecurityError, match="pads"):
        operations.binary("%", text, Undefined())


@pytest.mark.parametrize(
    "text", ["%d", "%999d", "**%s**", "in 2024 %s", "100% of 12345", "%(a1234)s"]
)
def test_other_formats_are_not(text: str) -> None:
    assert not operations.pads_widely(text)


@pytest.mark.parametrize("symbol", sorted(SYMBOLS))
def test_other_types_are_refused(symbol: str) -> None:
    with pytest.raises(TypeError, match="does not work on dict_keys and list"):
        operations.binary(symbol, {}.keys(), [1])


def test_undefined_fails_as_in_jinja() -> None:
    with pytest.raises(UndefinedError):
        operations.binary("+", Undefined(name="x"), 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1, "eq", 1), True),
        ((1, "lt", 2, "lt", 3), True),
        ((1, "lt", 2, "gt", 3), False),
        (("a", "in", "abc"), True),
        (("a", "notin", ["a"]), False),
        (("a", "in", {"a": 1}), True),
        ((2, "in", range(3)), True),
        (("a", "in", {"b": "a"}.values()), True),
        (({"a": [1]}, "eq", {"a": [1]}), True),
        (("a", "in", Undefined()), False),
    ],
)
def test_compare(arguments: tuple[Any, ...], expected: bool) -> None:
    assert operations.compare(*arguments) is expected


def test_comparing_what_is_large_written_out_is_refused() -> None:
    left: list[Any] = []
    right: list[Any] = []
    for _ in range(60):
        left, right = [left, left], [right, right]
    for name in ("eq", "lt", "in"):
        with pytest.raises(RenderLimitError, match="too many parts"):
            operations.compare(left, name, right)
    with pytest.raises(RenderLimitError, match="too many parts"):
        operations.compare("x" * 5000, "in", ["x" * 5000] * 1000)


def test_a_key_is_a_text_a_number_or_nothing() -> None:
    assert [operations.key(value) for value in ("a", 1, None)] == ["a", 1, None]
    with pytest.raises(SecurityError, match="a tuple as a key"):
        operations.key((1,))


@settings(deadline=None)
@given(
    text=st.text("ab", max_size=8),
    old=st.text("ab", max_size=2),
    new=st.text("abc", max_size=3),
    count=st.integers(-1, 3),
)
def test_replace_as_in_python(text: str, old: str, new: str, count: int) -> None:
    assert operations.replace(text, old, new, count) == text.replace(old, new, count)


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("a b".split, (), ["a", "b"]),
        ("a,b,c".split, (",", 1), ["a", "b,c"]),
        ("a,b,c".rsplit, (",", 1), ["a,b", "c"]),
        ("a\nb".splitlines, (), ["a", "b"]),
        ("-".join, (["a", "b"],), "a-b"),
        ("7".zfill, (3,), "007"),
        ("7".ljust, (3, "."), "7.."),
        ("aXa".replace, ("a", "b"), "bXb"),
        ("abc".startswith, (("x", "a"),), True),
        ("Ab".swapcase, (), "aB"),
        ({"a": 1}.get, ("b", 2), 2),
        ([1, 2, 1].count, (1,), 2),
    ],
)
def test_methods(method: Any, arguments: tuple[Any, ...], expected: Any) -> None:
    assert operations.call_method(method, *arguments) == expected


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (("a" * 500).replace, ("a", "b" * 500)),
        (("a" * 500).replace, ("", "b" * 500)),
        (("b" * 500).join, (["a"] * 100,)),
        (("a " * 1000).split, ()),
        ("x".startswith, (("a" * 500,) * 100,)),
        ([1] * 5000, ()),
    ],
)
def test_methods_with_large_results_or_arguments_are_refused(
    method: Any, arguments: tuple[Any, ...]
) -> None:
    if isinstance(method, list):
        method, arguments = method.index, (2,)
    with pytest.raises(RenderLimitError):
        operations.call_method(method, *arguments)


@pytest.mark.parametrize("name", ["center", "ljust", "rjust", "zfill"])
def test_wide_padding_is_refused(name: str) -> None:
    with pytest.raises(SecurityError, match="padding to more than 999"):
        operations.call_method(getattr("a", name), 10**9)


def test_a_tuple_is_no_key_for_get() -> None:
    with pytest.raises(SecurityError):
        operations.call_method({}.get, (1, 2))


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("{} {}", (1, "b"), "1 b"),
        ("{1}{0}", (1, 2), "21"),
        ("{:>5}|{!r}", (1, "x"), "    1|'x'"),
        ("{{}}", (), "{}"),
        ("{:.2f}", (1.234,), "1.23"),
        ("{:{}}", (1, 3), "  1"),
    ],
)
def test_format(text: str, arguments: tuple[Any, ...], expected: str) -> None:
    assert operations.formatter(text, "format")(*arguments) == expected


def test_format_map() -> None:
    assert operations.formatter("{a}-{b}", "format_map")({"a": 1, "b": 2}) == "1-2"


@pytest.mark.parametrize("text", ["{:1000000000d}", "{0:{1}}", "{0.real}", "{0[0]}", "{:.99999f}"])
def test_dangerous_formats_are_refused(text: str) -> None:
    with pytest.raises(SecurityError):
        operations.formatter(text, "format")(1, 10**9)


def test_a_repeated_format_field_adds_up() -> None:
    with pytest.raises(RenderLimitError, match="it builds values of more than"):
        operations.formatter("{0}" * 1000, "format")("a" * 1000)
