"""Lines that are never kept: found through the tokens' bytes, and cut out whole."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.errors import ConfigError
from sssd_local.store.memory_ignore import IgnoredLines
from tests.store.memories import ids

CONTROL = 0
WORDS = [
    b"",
    b"\n",
    b"key",
    b" is",
    b" x",
    b"y",
    b"\r\n",
    b"a\nk",
    b"ey",
    b"\n\n",
    b"\xc3",
    b"\xa4",
]


def piece(token: int) -> bytes:
    return WORDS[token]


def text_of(tokens: list[int]) -> bytes:
    return b"".join(map(piece, tokens))


def rest(patterns: list[str], tokens: list[int], start: int = 0) -> list[list[int]]:
    runs = IgnoredLines(patterns).rest(ids(tokens), start, piece)
    return [run.tolist() for run in runs]


def test_without_patterns_there_is_nothing_to_do() -> None:
    assert not IgnoredLines()
    assert IgnoredLines(["a"])
    assert rest([], [4, 1, 5]) == [[4, 1, 5]]


@pytest.mark.parametrize(
    ("pattern", "tokens", "kept"),
    [
        # y⏎ key is x ⏎y: the line goes, the text on both sides is cut apart.
        ("key is", [5, 1, 2, 3, 4, 1, 5], [[5, 1], [1, 5]]),
        ("^key is x$", [5, 1, 2, 3, 4, 6, 5], [[5, 1], [5]]),
        ("^key is x$", [5, 2, 3, 4, 1, 5], [[5, 2, 3, 4, 1, 5]]),
        # A control token ends a line.
        ("^key is x$", [5, CONTROL, 2, 3, 4, CONTROL, 5], [[5, CONTROL], [CONTROL, 5]]),
        # A token that has some of the line goes with it, whatever else it says.
        ("key", [5, 7, 8, 4, 1, 5], [[5], [1, 5]]),
        ("^ya$", [5, 7, 8, 1, 5], [[8, 1, 5]]),
        ("(?i)KEY", [2, 1, 4, 1, 2], [[1, 4, 1]]),
        ("ä", [10, 11, 1, 5], [[1, 5]]),
        (".", [2, 1, 4], [[1]]),
        ("", [2, 9, 4], [[9]]),
        ("nowhere", [2, 1, 4], [[2, 1, 4]]),
        ("key", [2], []),
        ("key", [], []),
    ],
)
def test_what_is_left(pattern: str, tokens: list[int], kept: list[list[int]]) -> None:
    assert rest([pattern], tokens) == kept
    assert rest(["nowhere", pattern], tokens) == kept


def test_a_line_is_judged_from_its_beginning() -> None:
    tokens = [5, 1, 2, 3, 4, 1, 5]
    assert rest(["key"], tokens, 4) == [[1, 5]]
    assert rest(["key"], tokens, 6) == [[5]]
    assert rest(["key"], [2, CONTROL, 4, 5], 3) == [[5]]
    # The token that ended the line before has the first letter of this one.
    assert rest(["^key"], [5, 7, 8, 4, 1, 5], 3) == [[1, 5]]


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=20), st.data())
def test_no_run_has_a_part_of_an_ignored_line(tokens: list[int], data: st.DataObject) -> None:
    pattern = data.draw(st.sampled_from(["key", "x", "^y", "s$"]))
    start = data.draw(st.integers(0, len(tokens)))
    runs = rest([pattern], tokens, start)
    text = b"".join(piece(token) or b"\n" for token in tokens)
    ends = [len(b"".join(piece(t) or b"\n" for t in tokens[: i + 1])) for i in range(len(tokens))]
    bad: set[int] = set()
    for line in re.finditer(rb"[^\n]+", text):
        if re.search(pattern, line[0].rstrip(b"\r").decode(errors="replace")):
            bad |= set(range(*line.span()))
    expected: list[list[int]] = []
    goes_on = False
    for index in range(start, len(tokens)):
        is_kept = not bad & set(range(ends[index - 1] if index else 0, ends[index]))
        if is_kept and goes_on:
            expected[-1].append(tokens[index])
        elif is_kept:
            expected.append([tokens[index]])
        goes_on = is_kept
    assert runs == expected


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "[z-a]", "(?P<x>"])
def test_what_is_no_expression_is_named(pattern: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{pattern!r} is no regular expression: ")):
        IgnoredLines(["fine", pattern])
