"""Blocks are printed once, when they are finished."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest

pytest.importorskip("rich")

from sssd_local.chat.markdown import MarkdownBlocks, render_block
from sssd_local.chat.render import Screen


def printed(pieces: list[str]) -> list[str]:
    """What stands on the screen after each piece and at the end, only what is new."""
    output = io.StringIO()
    blocks = MarkdownBlocks(Screen(output))
    states = [""]
    for piece in pieces:
        blocks.feed(piece)
        states.append(output.getvalue())
    blocks.finish()
    states.append(output.getvalue())
    for before, after in pairwise(states):
        assert after.startswith(before)
    return [after[len(before) :] for before, after in pairwise(states)]


def test_a_paragraph_waits_for_the_next_one() -> None:
    assert printed(["some **bold** ", "text\n", "\n", "more"]) == [
        "",
        "",
        "",
        "",
        "some bold text\n\nmore\n",
    ]
    assert printed(["one\n\ntwo\n", "\nthree\n"]) == ["one\n", "\ntwo\n", "\nthree\n"]


def test_code_comes_line_by_line_and_unchanged() -> None:
    text = ["see\n```python\n", "a  =  '**b**'\n", "\n", "````\n", "after\n"]
    assert printed(text) == [
        "see\n\n```python\n",
        "a  =  '**b**'\n",
        "\n",
        "````\n",
        "",
        "\nafter\n",
    ]


def test_a_heading_is_finished_at_once() -> None:
    first, last = printed(["## Title\n", ""])[0], printed(["## Title\n"])[-1]
    assert first.strip() == "Title"
    assert last == ""


def test_an_indented_line_goes_on_with_its_list() -> None:
    whole = "".join(printed(["1. one\n\n   more\n2. two\n\nend"]))
    assert [line.split() for line in whole.splitlines() if line.strip()] == [
        ["1", "one"],
        ["more"],
        ["2", "two"],
        ["end"],
    ]


def test_an_unfinished_fence_is_printed_too() -> None:
    assert "".join(printed(["```\nx = 1"])) == "```\nx = 1\n"


def test_a_link_shows_its_address_and_no_text_steers_the_terminal() -> None:
    screen = Screen(io.StringIO(), styled=True)
    shown = render_block("[bank](http://evil.example) \x1b]0;title\x07", screen)
    assert "http://evil.example" in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Use List<String> and vector<int>", "Use List<String> and vector<int>"),
        ("<div>\nhello\n</div>", "<div> hello </div>"),
        ("x <think> y", "x <think> y"),
        ("before\n<!-- c -->", "before <!-- c -->"),
        ("[foo]: http://example.com", "[foo]: http://example.com"),
        ("call __init__ and __main__ now", "call __init__ and __main__ now"),
        ("call `__init__` now", "call __init__ now"),
        ("call ``a ` __init__`` now", "call a ` __init__ now"),
        (r"so \(x\) and \[y\] hold", r"so \(x\) and \[y\] hold"),
        ("**bold** and __two words__", "bold and two words"),
    ],
)
def test_no_text_is_lost(text: str, shown: str) -> None:
    assert " ".join(render_block(text, Screen(io.StringIO())).split()) == shown


def test_a_table_keeps_its_html() -> None:
    shown = render_block("| a | b |\n|---|---|\n| <i>2</i> | x |", Screen(io.StringIO()))
    assert "<i>2</i>" in shown
