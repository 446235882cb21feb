"""The filters and tests a chat template may use: Jinja's common ones, with limited results."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import Environment, Undefined, pass_environment
from jinja2 import tests as jinja_tests
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter

from sssd_local.chat import operations
from sssd_local.chat.limits import ITEM_COST, TEXT_COST, as_text, charge, measure

JINJA_TESTS: Mapping[str, Any] = jinja_tests.TESTS
MAX_INTEGER_TEXT = 400
MAX_INDENT = 16


def _of_text(change: Callable[[str], str]) -> Callable[[Any], str]:
    def filter_text(value: Any) -> str:
        text = as_text(value)
        charge(len(text))
        return change(text)

    return filter_text


def _trim(value: Any, chars: str | None = None) -> str:
    text = as_text(value).strip(chars)
    charge(len(text))
    return text


def _escape(value: Any) -> str:
    text = as_text(value)
    charge(len(text) * len("&quot;"))
    return html.escape(text)


def _whole(value: Iterable[Any]) -> list[Any]:
    """All items as a list that may be sorted and compared."""
    items = _list(value)
    charge(measure(items))
    return items


def _of_whole(name: str) -> Callable[..., Any]:
    """A filter of Jinja that compares items with each other."""

    @pass_environment
    def filter_whole(environment: Environment, value: Any, *args: Any, **named: Any) -> Any:
        return JINJA_FILTERS[name](environment, _whole(value), *args, **named)

    return filter_whole


def _list(value: Iterable[Any]) -> list[Any]:
    if isinstance(value, str):
        charge(TEXT_COST * len(value))
    items = list(value)
    charge(ITEM_COST * len(items))
    return items


def _dictsort(value: Mapping[Any, Any], *args: Any, **named: Any) -> Any:
    charge(measure(value))
    return JINJA_FILTERS["dictsort"](value, *args, **named)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return operations.replace(
        as_text(value), as_text(old), as_text(new), -1 if count is None else count
    )


@pass_environment
def _join(environment: Environment, value: Any, d: Any = "", attribute: Any = None) -> str:
    items = _list(value)
    if attribute is not None:
        items = list(map(make_attrgetter(environment, attribute), items))
    return operations.join_texts([as_text(item) for item in items], as_text(d))


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = as_text(value)
    margin = len(width) if isinstance(width, str) else width
    if margin > operations.MAX_PADDING:
        raise SecurityError(f"indenting by more than {operations.MAX_PADDING} characters")
    charge(len(text) + margin * (len(text.splitlines()) + 2))
    return str(JINJA_FILTERS["indent"](text, width, first, blank))


@pass_environment
def _truncate(environment: Environment, value: Any, *args: Any, **named: Any) -> str:
    text = as_text(value)
    charge(len(text))
    return str(JINJA_FILTERS["truncate"](environment, text, *args, **named))


def _format(value: Any, *args: Any, **named: Any) -> str:
    return operations.percent(as_text(value), named or args)


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    if isinstance(value, str) and len(value) > MAX_INTEGER_TEXT:
        return default
    return JINJA_FILTERS["int"](value, default, base)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > 20:
        raise SecurityError("rounding to more than 20 digits")
    return JINJA_FILTERS["round"](value, precision, method)


@pass_environment
def _sum(environment: Environment, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    items = _list(value)
    if attribute is not None:
        items = list(map(make_attrgetter(environment, attribute), items))
    for item in items:
        start = operations.binary("+", start, item)
    return start


def _reverse(value: Any) -> Any:
    return operations.cut(value, None, None, -1) if isinstance(value, str) else _list(value)[::-1]


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As `json.dumps`; Jinja's own would escape HTML (transformers, chat_template_utils.py)."""
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    margin = len(indent) if isinstance(indent, str) else indent or 0
    if margin > MAX_INDENT:
        raise SecurityError(f"indenting by more than {MAX_INDENT} characters")
    parts: list[str] = []
    for part in encoder.iterencode(value):
        charge(len(part))
        parts.append(part)
    return operations.join_texts(parts)


FILTERS: dict[str, Callable[..., Any]] = {
    **{
        name: JINJA_FILTERS[name]
        for name in (
            "abs",
            "count",
            "d",
            "default",
            "first",
            "float",
            "items",
            "last",
            "length",
            "map",
            "reject",
            "rejectattr",
            "select",
            "selectattr",
        )
    },
    "capitalize": _of_text(str.capitalize),
    "dictsort": _dictsort,
    "e": _escape,
    "escape": _escape,
    "format": _format,
    "indent": _indent,
    "int": _int,
    "join": _join,
    "list": _list,
    "lower": _of_text(str.lower),
    "max": _of_whole("max"),
    "min": _of_whole("min"),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "safe": as_text,
    "sort": _of_whole("sort"),
    "string": as_text,
    "sum": _sum,
    "title": _of_text(JINJA_FILTERS["title"]),
    "tojson": _tojson,
    "trim": _trim,
    "truncate": _truncate,
    "unique": _of_whole("unique"),
    "upper": _of_text(str.upper),
    "wordcount": lambda value: len(as_text(value).split()),
}


def _comparing(name: str) -> Callable[[Any, Any], bool]:
    return lambda value, other: operations.compare(value, name, other)


def _whole_number(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a whole number is needed, not a {type(value).__name__}")
    return value


TESTS: dict[str, Callable[..., Any]] = {
    **{
        name: JINJA_TESTS[name]
        for name in (
            "boolean",
            "callable",
            "defined",
            "false",
            "filter",
            "float",
            "integer",
            "mapping",
            "none",
            "number",
            "sameas",
            "string",
            "test",
            "true",
            "undefined",
        )
    },
    **{name: _comparing("eq") for name in ("eq", "equalto", "==")},
    **{name: _comparing("ne") for name in ("ne", "!=")},
    **{name: _comparing("lt") for name in ("lt", "lessthan", "<")},
    **{name: _comparing("lteq") for name in ("le", "<=")},
    **{name: _comparing("gt") for name in ("gt", "greaterthan", ">")},
    **{name: _comparing("gteq") for name in ("ge", ">=")},
    "in": _comparing("in"),
    "divisibleby": lambda value, by: _whole_number(value) % _whole_number(by) == 0,
    "even": lambda value: _whole_number(value) % 2 == 0,
    "odd": lambda value: _whole_number(value) % 2 == 1,
    "iterable": lambda value: isinstance(value, Iterable | Undefined),
    "lower": lambda value: as_text(value).islower(),
    "sequence": lambda value: isinstance(value, str | list | tuple | Mapping | range | Undefined),
    "upper": lambda value: as_text(value).isupper(),
}
