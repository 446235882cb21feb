"""Filters and tests of the sandbox: Jinja's results for ordinary values, limits for others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from sssd_local.chat.filters import FILTERS, TESTS
from sssd_local.chat.limits import RenderLimits
from sssd_local.chat.template import ChatTemplate, TemplateError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)

VALUES: dict[str, Any] = {
    "text": "  one Two\nthree two  ",
    "numbers": [3, 1, 2, 3],
    "words": ["b", "A", "c", "a"],
    "table": {"b": 1, "A": 2},
    "rows": [{"n": 2, "on": True}, {"n": 1, "on": False}],
    "nothing": None,
}

# Each is rendered by Jinja itself as well.
SAME_AS_JINJA = [
    "text|trim",
    "text|trim(' o')",
    "text|upper",
    "text|lower",
    "text|title",
    "text|capitalize",
    "text|wordcount",
    "text|length",
    "text|replace('two', '2')",
    "text|replace('o', '0', 1)",
    "text|indent",
    "text|indent(2, true)",
    "text|indent('> ')",
    "text|truncate(8)",
    "text|truncate(8, true, '')",
    "text|reverse",
    "text|first|string",
    "numbers|sort|join(', ')",
    "numbers|sort(reverse=true)|list",
    "numbers|unique|list",
    "numbers|sum",
    "numbers|min",
    "numbers|max",
    "numbers|first",
    "numbers|last",
    "numbers|count",
    "numbers|reverse|list",
    "numbers|select('gt', 1)|list",
    "numbers|reject('odd')|list",
    "numbers|map('string')|join",
    "words|sort|join",
    "words|sort(case_sensitive=true)|join",
    "words|map('upper')|list",
    "rows|map(attribute='n')|list",
    "rows|selectattr('on')|list",
    "rows|rejectattr('on')|list",
    "rows|selectattr('n', 'equalto', 2)|list",
    "rows|sort(attribute='n')|list",
    "rows|sum('n')",
    "rows|join('-', 'n')",
    "table|dictsort",
    "table|items|list",
    "table|list",
    "missing|default('x')",
    "''|default('x', true)",
    "missing|d('y')",
    "'12'|int + 1",
    "'z'|int(7)",
    "'ff'|int(base=16)",
    "'1.5'|float",
    "1.25|round(1)",
    "-3|abs",
    "'%s-%03d'|format('a', 7)",
    "nothing|string",
    "5|trim",
    "[1, [2]]|string",
    "1 is odd, 2 is even, 9 is divisibleby 3",
    "1 is eq 1, 1 is ne 1, 1 is lt 2, 1 is ge 2, 'a' is in 'ab', 1 is in [2]",
    "'a' is string, 1 is number, 1.0 is float, 1 is integer, true is boolean, nothing is none",
    "table is mapping, numbers is sequence, text is iterable, missing is defined, 1 is iterable",
    "missing is undefined, missing is iterable, true is true, false is false, 1 is sameas 1",
    "'ab' is lower, 'AB' is upper, range is callable, 'trim' is filter, 'odd' is test",
]


def render(expression: str, **values: Any) -> str:
    return ChatTemplate("{{ " + expression + " }}").render([], **values)


@pytest.mark.parametrize("expression", SAME_AS_JINJA)
def test_ordinary_values_as_in_jinja(expression: str) -> None:
    expected = Environment().from_string("{{ " + expression + " }}").render(**VALUES)
    assert render(expression, **VALUES) == expected


def test_every_filter_and_test_is_tried() -> None:
    tried = " ".join(SAME_AS_JINJA)
    untried = {"e", "escape", "safe", "tojson"}
    assert {name for name in FILTERS if f"|{name}" not in tried} == untried
    operators = {"==", "!=", "<", "<=", ">", ">=", "greaterthan", "lessthan", "le"}
    assert {name for name in TESTS if f"is {name}" not in tried} - operators == {"gt", "equalto"}


@settings(deadline=None)
@given(value=JSON)
def test_tojson_is_json_dumps(value: Any) -> None:
    assert render("value|tojson", value=value) == json.dumps(value, ensure_ascii=False)
    expected = json.dumps(value, indent=2, sort_keys=True, separators=(",", ":"))
    arguments = "indent=2, sort_keys=true, separators=(',', ':'), ensure_ascii=true"
    assert render(f"value|tojson({arguments})", value=value) == expected


def test_tojson_does_not_escape_html() -> None:
    assert render("'<é>'|tojson") == '"<é>"'


def test_escape_and_safe_give_plain_text() -> None:
    assert render("'<a>'|e") == "&lt;a&gt;"
    assert render("'<a>'|safe ~ '<b>'") == "<a><b>"


@pytest.mark.parametrize(
    ("expression", "cause"),
    [
        ("'%1000000000d'|format(1)", "pads to more than 999"),
        ("'a'|indent(1000000000)", "indenting by more than 999"),
        ("[1]|tojson(indent=1000000000)", "indenting by more than 16"),
        ("[1]|batch(1000000000, 'x')|list", "No filter named 'batch'"),
        ("1.5|round(1000000000, 'ceil')", "rounding to more than 20"),
        ("('a' * 9999)|replace('a', 'b' * 9999)", "builds a value of 99980001"),
        ("('b' * 999)|join('a' * 999)", "it builds"),
        ("('a' * 9999)|list", "builds a value of 639936"),
        ("('\n' * 5000)|indent(900)", "it builds"),
        ("([[1] * 500] * 500) is eq 1", "too many parts"),
        ("([[1] * 500] * 500)|sort", "too many parts"),
        ("([[1] * 500] * 500)|max", "too many parts"),
        ("([[1] * 1000] * 1000)|sum(start=[])", "it builds"),
        ("'%1000000000d' is odd", "a whole number is needed, not a str"),
        ("'%1000000000d' is divisibleby 1", "a whole number is needed, not a str"),
        ("messages|attr('__class__')", "No filter named 'attr'"),
        ("messages|pprint", "No filter named 'pprint'"),
    ],
)
def test_what_could_grow_or_escape_is_refused(expression: str, cause: str) -> None:
    limits = RenderLimits(seconds=60, max_characters=100_000)
    with pytest.raises(TemplateError, match=cause):
        ChatTemplate("{{ " + expression + " }}", limits=limits).render([])


def test_a_long_number_is_not_read() -> None:
    assert render("('9' * 500)|int(default=-1)") == "-1"
