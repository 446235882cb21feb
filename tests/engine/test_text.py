"""TextAssembler: the same text whatever the grouping, whole characters, exact stop strings."""

from __future__ import annotations

import codecs
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.engine.text import TextAssembler
from sssd_local.errors import ConfigError

# Few letters, so that stop strings overlap each other and the text often.
LETTERS = "abé€😀"
TEXTS = st.text(alphabet=LETTERS, max_size=30)
STOPS = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=4)


def decode(data: bytes) -> str:
    """All whole characters of `data`; an unfinished one at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def reference(data: bytes, stops: list[str]) -> tuple[str, bool]:
    """The text up to the first stop string, by looking at every end of the whole text."""
    text = decode(data)
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


def longest_stop_beginning(text: str, stops: list[str]) -> int:
    """Length of the longest end of `text` that is the beginning of a longer stop string."""
    return max(
        (
            length
            for stop in stops
            for length in range(1, len(stop))
            if length <= len(text) and text.endswith(stop[:length])
        ),
        default=0,
    )


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(ends)]


def assemble(pieces: list[bytes], stops: list[str]) -> tuple[str, bool]:
    assembler = TextAssembler(stops)
    text = "".join(assembler.push(piece) for piece in pieces)
    return text + assembler.finish(), assembler.stopped


@settings(deadline=None)
@given(text=TEXTS, stops=STOPS, cuts=st.lists(st.integers(0, 200)))
def test_any_grouping_equals_the_reference(text: str, stops: list[str], cuts: list[int]) -> None:
    data = text.encode()
    assert assemble(split(data, cuts), stops) == reference(data, stops)


@settings(deadline=None)
@given(data=st.binary(max_size=40), stops=STOPS, cuts=st.lists(st.integers(0, 200)))
def test_any_bytes_equal_the_reference(data: bytes, stops: list[str], cuts: list[int]) -> None:
    assert assemble(split(data, cuts), stops) == reference(data, stops)


@settings(deadline=None)
@given(text=TEXTS, stops=STOPS)
def test_stop_strings_cut_from_the_text_are_found(text: str, stops: list[str]) -> None:
    stops = [*stops, text[len(text) // 2 :][:3] or "a"]
    data = text.encode()
    assert assemble([bytes([value]) for value in data], stops) == reference(data, stops)


@settings(deadline=None)
@given(text=TEXTS, stops=STOPS, cuts=st.lists(st.integers(0, 200)))
def test_exactly_the_longest_stop_beginning_is_held_back(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    assembler, released, seen = TextAssembler(stops), "", b""
    for piece in split(text.encode(), cuts):
        released += assembler.push(piece)
        seen += piece
        if assembler.stopped:
            return
        whole = decode(seen)
        assert released == whole[: len(whole) - longest_stop_beginning(whole, stops)]


@pytest.mark.parametrize("text", ["é", "€", "😀", "a😀b", "日本語 ✓ naïve 👩‍👩‍👧"])
def test_every_split_of_multi_byte_text_releases_whole_characters(text: str) -> None:
    data = text.encode()
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            assembler = TextAssembler()
            parts = [
                assembler.push(data[:first]),
                assembler.push(data[first:second]),
                assembler.push(data[second:]),
            ]
            assert "".join(parts) == text
            assert parts[0] == data[:first].decode("utf-8", "ignore")
            assert assembler.finish() == ""


def test_an_unfinished_character_is_held_and_dropped_at_the_end() -> None:
    assembler = TextAssembler()
    assert assembler.push("ab€".encode()[:-1]) == "ab"
    assert assembler.finish() == ""


def test_invalid_bytes_inside_become_replacement_characters() -> None:
    assembler = TextAssembler()
    assert assembler.push(b"a\xff") + assembler.push(b"b\xe2\x82") == "a\ufffdb"
    assert assembler.push(b"c") + assembler.finish() == "\ufffdc"


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    assembler = TextAssembler(["\nUser:"])
    pieces = [assembler.push(piece) for piece in (b"Hi", b"\n", b"Us", b"er:", b" more")]
    assert pieces == ["Hi", "", "", "", ""]
    assert assembler.stopped
    assert assembler.finish() == ""


def test_a_held_beginning_is_released_when_it_does_not_become_the_stop_string() -> None:
    assembler = TextAssembler(["\nUser:"])
    pieces = [assembler.push(piece) for piece in (b"Hi\nUs", b"ing\n")]
    assert pieces == ["Hi", "\nUsing"]
    assert not assembler.stopped
    assert assembler.finish() == "\n"
    assert assembler.finish() == ""


def test_the_stop_string_completed_first_wins() -> None:
    assert assemble([b"xabcd"], ["abcd", "bc"]) == ("xa", True)


def test_of_two_completed_together_the_longer_wins() -> None:
    assert assemble([b"xabc"], ["bc", "abc", "c"]) == ("x", True)


def test_a_stop_string_that_overlaps_itself_is_found() -> None:
    assert assemble([b"aa", b"ab"], ["aab"]) == ("a", True)


def test_a_stop_string_may_hold_part_of_a_character_in_each_token() -> None:
    data = "ok€!".encode()
    assert assemble([bytes([value]) for value in data], ["€!"]) == ("ok", True)


def test_without_stop_strings_everything_whole_is_released_at_once() -> None:
    assembler = TextAssembler()
    assert assembler.push(b"hello\n") == "hello\n"
    assert assembler.push(b"") == ""
    assert not assembler.stopped


def test_a_long_text_of_near_misses_is_linear() -> None:
    stop = "a" * 200 + "b"
    text = ("a" * 199 + "c") * 500
    assembler = TextAssembler([stop])
    steps = 0
    original = assembler._automaton._fallback

    class Counting(list[int]):
        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            nonlocal steps
            steps += 1
            return super().__getitem__(index)

    assembler._automaton._fallback = Counting(original)
    assert assembler.push(text.encode()) + assembler.finish() == text
    assert steps <= len(text)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be texts that are not empty"):
        TextAssembler(["a", ""])
