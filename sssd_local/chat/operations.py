"""Operators, methods and formatting of chat templates, with the size of the result limited."""

from __future__ import annotations

import operator
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from sssd_local.chat.limits import (
    ITEM_COST,
    TEXT_COST,
    as_text,
    charge,
    charge_result,
    measure,
)

MAX_PADDING = 999
MAX_INTEGER_BITS = 4096

_SCALARS = (str, int, float, type(None), Undefined)
# A width or precision of four digits or more, or one taken from the arguments.
_WIDE_PERCENT = re.compile(r"[%)][^a-zA-Z%()]*\d{4}|%[#0\-+ .\d]*\*")
_WIDE_FORMAT = re.compile(r"\d{4}")

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
BINARY_OPERATORS = frozenset(_BINARY)

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda item, container: item in container,
    "notin": lambda item, container: item not in container,
}


def binary(symbol: str, left: Any, right: Any) -> Any:
    """`left symbol right`; raises RenderLimitError before a result that is too large."""
    if symbol == "%" and isinstance(left, str):
        return percent(left, right)
    if isinstance(left, Undefined) or isinstance(right, Undefined):
        return _BINARY[symbol](left, right)
    if isinstance(left, int | float) and isinstance(right, int | float):
        _limit_number(symbol, left, right)
    elif symbol == "+" and isinstance(left, str | list | tuple):
        charge(_length(left) + _length(right))
    elif symbol == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
        charge(_length(left) * max(right, 0))
    elif symbol == "*" and isinstance(right, str | list | tuple) and isinstance(left, int):
        charge(_length(right) * max(left, 0))
    else:
        names = f"{type(left).__name__} and {type(right).__name__}"
        raise TypeError(f"{symbol} does not work on {names}")
    return _BINARY[symbol](left, right)


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    return ITEM_COST * len(value) if isinstance(value, list | tuple) else 0


def _limit_number(symbol: str, left: float, right: float) -> None:
    if not (isinstance(left, int) and isinstance(right, int)):
        return
    bits = max(left.bit_length(), right.bit_length())
    if symbol == "*":
        bits = left.bit_length() + right.bit_length()
    elif symbol == "**" and abs(left) > 1:
        bits = left.bit_length() * abs(right)
    if bits > MAX_INTEGER_BITS:
        raise SecurityError(f"a number of more than {MAX_INTEGER_BITS} bits")


def pads_widely(text: str) -> bool:
    """Whether a `%` format has a width of more than MAX_PADDING or one from its arguments."""
    return _WIDE_PERCENT.search(text) is not None


def percent(text: str, arguments: Any) -> str:
    """`text % arguments` without directives that pad without limit."""
    if pads_widely(text):
        raise SecurityError(f"a format that pads to more than {MAX_PADDING} characters")
    size = measure(arguments, for_text=True)
    charge(len(text) + text.count("%") * (MAX_PADDING + size))
    return str(text % arguments)


def compare(left: Any, *operators_and_values: Any) -> bool:
    """A chain of comparisons, `left op value op value …`, of values that are not too large."""
    for name, right in zip(operators_and_values[::2], operators_and_values[1::2], strict=True):
        if not _compare(name, left, right):
            return False
        left = right
    return True


def _compare(name: str, left: Any, right: Any) -> bool:
    if name in ("in", "notin") and not isinstance(right, (*_SCALARS, Mapping, list, tuple, range)):
        right = list(right)
        charge_result(right)
    if not isinstance(left, _SCALARS):
        measure(left)
    looks_up = isinstance(right, Mapping) and name in ("in", "notin")
    if not isinstance(right, _SCALARS) and not looks_up:
        measure(right)
    return bool(_COMPARISONS[name](left, right))


def concatenate(values: Sequence[Any]) -> str:
    """The `~` operator: the texts of all values, one after the other."""
    return join_texts([as_text(value) for value in values])


def join_texts(parts: Sequence[str], separator: str = "") -> str:
    """`separator.join(parts)`."""
    charge(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def cut(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """`value[start:stop:step]` of a text or list."""
    part = value[slice(start, stop, step)]
    charge(_length(part))
    return part


def key(value: Any) -> Any:
    """A key of a dict; raises SecurityError for anything but a text, number or nothing."""
    if not isinstance(value, _SCALARS):
        raise SecurityError(f"a {type(value).__name__} as a key")
    return value


def literal(value: Any) -> Any:
    """A list, tuple or dict that the template spells out."""
    charge(ITEM_COST * len(value))
    return value


# --- methods ----------------------------------------------------------------------------------


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """`str.replace`."""
    times = text.count(old) if count < 0 else min(text.count(old), count)
    charge(len(text) + times * max(len(new) - len(old), 0))
    return text.replace(old, new, count)


def _pad(name: str) -> Callable[..., str]:
    def pad(text: str, width: int, *fill: str) -> str:
        if width > MAX_PADDING:
            raise SecurityError(f"padding to more than {MAX_PADDING} characters")
        charge(len(text) + MAX_PADDING)
        return str(getattr(str, name)(text, width, *fill))

    return pad


def _join(separator: str, parts: Any) -> str:
    return join_texts(list(parts), separator)


def _split(name: str) -> Callable[..., list[str]]:
    def split(text: str, *arguments: Any, **named: Any) -> list[str]:
        pieces = getattr(str, name)(text, *arguments, **named)
        charge(len(text) + TEXT_COST * len(pieces))
        return list(pieces)

    return split


_TEXT_METHODS: dict[str, Callable[..., Any]] = {
    "replace": replace,
    "join": _join,
    **{name: _pad(name) for name in ("center", "ljust", "rjust", "zfill")},
    **{name: _split(name) for name in ("split", "rsplit", "splitlines")},
}


def call_method(method: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
    """Calls a bound method of a text, list or dict."""
    owner, name = method.__self__, method.__name__  # type: ignore[attr-defined]
    for argument in (*args, *named.values()):
        if not isinstance(argument, _SCALARS):
            measure(argument)
    if isinstance(owner, str) and name in _TEXT_METHODS:
        return _TEXT_METHODS[name](owner, *args, **named)
    if isinstance(owner, Mapping):
        key(args[0] if args else None)
        return method(*args, **named)
    if isinstance(owner, list | tuple):
        measure(owner)
    result = method(*args, **named)
    charge_result(result)
    return result


class _Formatter(string.Formatter):
    """`str.format` with plain field names and limited widths."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if "." in field_name or "[" in field_name:
            raise SecurityError(f"the format field {field_name!r}")
        name = int(field_name) if field_name.isdecimal() else field_name
        return self.get_value(name, args, kwargs), name

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            charge(measure(value, for_text=True))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if _WIDE_FORMAT.search(format_spec):
            raise SecurityError(f"a format that pads to more than {MAX_PADDING} characters")
        charge(measure(value, for_text=True) + MAX_PADDING)
        return format(value, format_spec)


def formatter(text: str, name: str) -> Callable[..., str]:
    """What stands for `text.format` and `text.format_map`."""

    def format_text(*args: Any, **named: Any) -> str:
        charge(len(text))
        if name == "format_map":
            (values,) = args
            return _Formatter().vformat(text, (), values)
        return _Formatter().vformat(text, args, named)

    return format_text
