"""Thinking told from the answer, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.chat.reasoning import Segment, ThinkSplitter, opens_thinking


def split(pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    """The thinking and the answer of a text in pieces."""
    splitter = ThinkSplitter(inside=inside)
    segments = [segment for piece in pieces for segment in splitter.feed(piece, "model")]
    segments += splitter.finish()
    thought = "".join(segment.text for segment in segments if segment.thinking)
    return thought, "".join(segment.text for segment in segments if not segment.thinking)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("plain", "", "plain"),
        ("<think>a</think>b", "<think>a</think>", "b"),
        ("\n <think>a", "\n <think>a", ""),
        ("<thin ice", "", "<thin ice"),
        ("<thi", "", "<thi"),
        ("no <think>tag</think>", "", "no <think>tag</think>"),
        ("<think>a</th</think>b</think>", "<think>a</th</think>", "b</think>"),
        ("", "", ""),
        ("  ", "", "  "),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_only_the_beginning_is_thinking(text: str, thought: str, answer: str, size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert split(pieces) == (thought, answer)


def test_the_prompt_may_have_opened_the_tag() -> None:
    assert split(["a</thi", "nk>b"], inside=True) == ("a</think>", "b")
    assert opens_thinking("<|assistant|>\n<think>\n")
    assert not opens_thinking("<think></think>\n")


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "/", "a", "\n"])))
def test_nothing_is_lost_and_pieces_do_not_matter(pieces: list[str]) -> None:
    whole = "".join(pieces)
    thought, answer = split(pieces)
    assert thought + answer == whole
    assert split(list(whole)) == (thought, answer)


def test_text_is_released_as_soon_as_it_is_sure_and_keeps_its_source() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("<thi", "model") == []
    assert splitter.feed("nk>ab</", "prompt") == [
        Segment("<thi", "model", True),
        Segment("nk>ab", "prompt", True),
    ]
    assert splitter.feed("think>c", "output") == [
        Segment("</", "prompt", True),
        Segment("think>", "output", True),
        Segment("c", "output", False),
    ]
    assert splitter.feed("d", "model") == [Segment("d", "model")]
