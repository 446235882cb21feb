"""The sandbox against hostile templates: every attack ends in a TemplateError, quickly."""

from __future__ import annotations

import threading
from itertools import product
from typing import Any

import pytest
from jinja2 import Environment

from sssd_local.chat.limits import RenderLimits
from sssd_local.chat.sandbox import MAX_NODES, MAX_SOURCE_BYTES
from sssd_local.chat.template import ChatTemplate, TemplateError

# Long enough for a busy machine, so that only the limit under test ends a rendering.
LIMITS = RenderLimits(seconds=60, compile_seconds=60, max_characters=1 << 18)
SHORT = RenderLimits(seconds=0.1, compile_seconds=60)
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
BRANCHING = (
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}"
)
MESSAGES = [{"role": "user", "content": "hi"}]
# A value that is small in memory and astronomically large when written, compared or hashed.
DOUBLED = (
    "{% set ns = namespace(s=(1, 2)) %}"
    "{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}"
)


def render(source: str, **values: Any) -> str:
    return ChatTemplate(source, limits=LIMITS).render(MESSAGES, **values)


def refusal(source: str, limits: RenderLimits = LIMITS) -> str:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source, limits=limits).render(MESSAGES)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("the chat template ")
    return message


@pytest.mark.parametrize(
    "body",
    [
        ENDLESS,
        "{% set x %}" + ENDLESS + "{% endset %}",
        "{% macro m() %}" + ENDLESS + "{% endmacro %}{{ m() }}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ '' }}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' if range(9999)|map('abs')|sum < 0 }}{% endfor %}",
        BRANCHING,
        DOUBLED + "{{ ns.s|tojson }}",
    ],
)
def test_endless_work_runs_out_of_time(body: str) -> None:
    assert "it ran longer than 0.1 s" in refusal(body, SHORT)


@pytest.mark.parametrize(
    "body",
    [
        "{{ 'a' * 10**10 }}",
        "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}",
        "{% set s = 'a' * 262000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
        "{% set ns.l = [ns.l, s ~ i] %}{% endfor %}",
        "{% set s = 'a' * 262000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
        "{% set ns.l = [ns.l, s[1:]] %}{% endfor %}",
        "{% set s = 'a' * 262000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}"
        "{% set ns.l = [ns.l, s.upper()] %}{% endfor %}",
        "{% set x %}{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
        "{% macro m() %}{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}{% endmacro %}"
        "{{ m() }}",
        "{{ ('a b ' * 99999).split() }}",
        "{{ ('{0}' * 9999).format('a' * 9999) }}",
    ],
)
def test_memory_is_limited(body: str) -> None:
    assert "it builds" in refusal(body)


def test_the_output_is_limited() -> None:
    assert "its text is longer than 262144 characters" in refusal(
        "{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}"
    )
    assert len(render("{{ 'x' * 262144 }}")) == 1 << 18


@pytest.mark.parametrize(
    "use",
    [
        "{{ ns.s }}",
        "{{ ns.s ~ '' }}",
        "{{ ns.s|string }}",
        "{{ ns.s|join }}",
        "{{ ns.s == (ns.s, 1) }}",
        "{{ ns.s in [1, 2] }}",
        "{{ [ns.s] is in [1] }}",
        "{{ {}.get(ns.s) }}",
        "{{ [ns.s, ns.s]|unique|list }}",
        "{{ [ns.s, ns.s]|sort }}",
        "{{ [1].index(ns.s) }}",
        "{{ '%s' % ns.s }}",
        "{{ '%s'|format(ns.s) }}",
        "{{ '{}'.format(ns.s) }}",
        "{{ '{!r}'.format(ns.s) }}",
        "{% for x in [1, 2] %}{{ loop.changed(ns.s) }}{% endfor %}",
        "{{ raise_exception(ns.s) }}",
    ],
)
def test_values_that_explode_when_visited_are_refused(use: str) -> None:
    assert "too many parts" in refusal(DOUBLED + use)


@pytest.mark.parametrize("use", ["{{ {ns.s: 1} }}", "{{ {}[ns.s] }}", "{{ ns.s[ns.s] }}"])
def test_tuples_are_no_keys(use: str) -> None:
    assert "a tuple as a key is not allowed" in refusal(DOUBLED + use)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "''.__class__.__mro__",
        "''['__class__']",
        "messages.__class__.__base__.__subclasses__()",
        "raise_exception.__globals__",
        "strftime_now.__globals__['sys']",
        "namespace.__init__.__globals__",
        "self._TemplateReference__context",
        "messages.append(1)",
        "messages[0].update({'a': 1})",
        "messages[0].pop('role')",
        "'a'.encode()",
        "'a'.expandtabs(1000000000)",
        "'a'.translate({97: 'x'})",
        "(5).to_bytes(1000000000, 'big')",
        "'{0.__class__}'.format(1)",
        "'{0.__class__}'.format_map({'0': 1})",
        "strftime_now('%1000000000d')",
        "strftime_now('%Y' * 100)",
        "loop_of.__class__",
    ],
)
def test_escapes_are_not_allowed(expression: str) -> None:
    body = "{% for x in [1] %}{% set loop_of = loop %}{{ " + expression + " }}{% endfor %}"
    assert "is not allowed" in refusal(body)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("lipsum(n=5)", "'lipsum' is undefined"),
        ("cycler('a')", "'cycler' is undefined"),
        ("dict.fromkeys([1])", "has no attribute 'fromkeys'"),
        ("dict([(1, 2)])", "dict() takes names and values"),
        ("self", "cannot be written as text"),
    ],
)
def test_names_that_are_not_needed_are_missing(expression: str, reason: str) -> None:
    assert reason in refusal("{{ " + expression + " }}")


@pytest.mark.parametrize(
    "body",
    ["{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}"],
)
def test_other_files_are_not_loaded(body: str) -> None:
    assert "loading another template (line 1) is not allowed" in refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "not " * 3000 + "1 }}",
        "{{ " + "+".join(["1"] * 3000) + " }}",
        "{% if a %}" * 300 + "{% endif %}" * 300,
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(3000) %}{% set ns.l = [ns.l] %}"
        "{% endfor %}{{ ns.l }}",
    ],
)
def test_deep_nesting_is_an_error(body: str) -> None:
    assert "it is nested too deeply" in refusal(body)


def test_large_sources_are_refused() -> None:
    assert "a template of more than 1 MiB is not allowed" in refusal("x" * (MAX_SOURCE_BYTES + 1))
    assert "a template of more than 1 MiB" in refusal("é" * (MAX_SOURCE_BYTES // 2 + 1))
    assert f"more than {MAX_NODES} parts" in refusal("{{a}}" * MAX_NODES)


def test_reading_a_template_is_limited_in_time() -> None:
    limits = RenderLimits(compile_seconds=0.001)
    with pytest.raises(TemplateError, match=r"was stopped: it ran longer than 0\.001 s"):
        ChatTemplate("{{a}}" * 5000, limits=limits)


def test_chained_comparisons_do_not_multiply_the_code() -> None:
    body = "{{ " + "(" * 25 + "1" + " < 2 < 3)" * 25 + " }}"
    assert render(body) == "True"


def test_the_clock_is_looked_at_without_the_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.settrace", lambda function: None)
    assert "it ran longer" in refusal(ENDLESS, SHORT)
    assert "it ran longer" in refusal(
        BRANCHING,
        SHORT,
    )


def test_limits_hold_in_another_thread() -> None:
    messages: list[str] = []
    thread = threading.Thread(target=lambda: messages.append(refusal(ENDLESS, SHORT)))
    thread.start()
    thread.join()
    assert "it ran longer than 0.1 s" in messages[0]


SAME_AS_JINJA = [
    "{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 == 1.0 != 2 }} {{ 'a' not in 'bc' }}",
    "{{ 'a' ~ 1 ~ none ~ [2] ~ missing }}",
    "{{ rows[1:] }} {{ rows[::-1] }} {{ 'abc'[:2] }} {{ rows[-1]['n'] }} {{ (1, 2)[0] }}",
    "{{ {'a': 1, 'b': [2]} }} {{ {rows[0].n: 1}[1] }} {{ [1, 'x', none, true] }} {{ (1, 2) }}",
    "{{ [0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7] }}",
    "{{ 7 // 2 }} {{ 7 % 2 }} {{ 2 ** 3 }} {{ 7 / 2 }} {{ -1 }} {{ 1.5 * 2 }} {{ '-' * 3 }}",
    "{% for r in rows if r.n > 1 %}{{ loop.index }}/{{ loop.length }} {{ r.n }},{% endfor %}",
    "{% for r in rows %}{{ loop.first }}{{ loop.last }}{{ loop.cycle('a', 'b') }}"
    "{{ loop.previtem is defined }}{{ loop.nextitem is defined }}"
    "{{ loop.changed(r.n) }};{% else %}none{% endfor %}",
    "{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}",
    "{% for r in tree recursive %}{{ r.n }}({{ loop(r.sub) }}){% endfor %}",
    "{% macro tag(name, close=false) %}<{{ '/' if close }}{{ name }}>{{ caller() if caller }}"
    "{% endmacro %}{{ tag('a') }}{{ tag('b', close=true) }}{% call tag('c') %}in{% endcall %}",
    "{% set x %}block {{ 1 }}{% endset %}{{ x|upper }}",
    "{% set ns = namespace(found=false) %}{% for r in rows %}{% set ns.found = r.n %}{% endfor %}"
    "{{ ns.found }}",
    "{% filter upper %}abc{{ 1 }}{% endfilter %}",
    "{% if missing is defined and missing %}a{% elif not missing %}b{% endif %}",
    "{{ 'yes' if rows else 'no' }}{{ rows[9] is defined }}{{ rows[0].nope is defined }}",
    "{{ 'a-b'.split('-')|last }}{{ ' x '.strip() }}{{ 'Ab'.lower().startswith('a') }}",
    "{{ 'items' in {'items': 1} }}",
    "{% raw %}{{ x }}{% endraw %}{# comment #}{%- if true -%}  y  {%- endif -%}",
    "{{ dict(a=1) }}{{ dict({'b': 2}, a=1).a }}",
    "{% with a = 1 %}{{ a }}{% endwith %}",
    "{{ '{}:{}'.format('a', 1) }}{{ '%s' % 'b' }}",
]


@pytest.mark.parametrize("body", SAME_AS_JINJA)
def test_ordinary_templates_as_in_jinja(body: str) -> None:
    values: dict[str, Any] = {
        "rows": [{"n": 1}, {"n": 2}, {"n": 2}],
        "tree": [{"n": 1, "sub": [{"n": 2, "sub": []}]}],
    }
    assert render(body, **values) == Environment().from_string(body).render(**values)


OPERATORS = ("==", "!=", "<", "<=", ">", ">=")
CHAINS = "".join(f"{{{{ a {one} b {two} c }}}}" for one in OPERATORS for two in OPERATORS)


def test_chained_comparisons_as_in_jinja() -> None:
    ours, jinjas = ChatTemplate(CHAINS, limits=LIMITS), Environment().from_string(CHAINS)
    for left, right, other in product(range(3), repeat=3):
        values: dict[str, Any] = {"a": left, "b": right, "c": other}
        assert ours.render([], **values) == jinjas.render(**values)


def test_loop_controls_and_generation_tags() -> None:
    body = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% generation %}answer{% endgeneration %}"
    )
    assert render(body) == "023answer"


def test_blocks_take_their_lines_with_them() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_strftime_now_gives_the_date() -> None:
    year = render("{{ strftime_now('%Y') }}")
    assert len(year) == 4
    assert year.isdecimal()
