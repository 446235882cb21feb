"""What a chat prints, to the character."""

from __future__ import annotations

import io
from typing import Any

import pytest

from sssd_local.chat.render import (
    DRAFTED,
    STYLES,
    AnswerView,
    OutputClosed,
    Screen,
    legend,
    stats_line,
    visible,
)
from sssd_local.llm import Chunk
from sssd_local.stats import Stats


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


def chunk(*tokens: tuple[str, str]) -> Chunk:
    pieces = tuple(text for text, _ in tokens)
    sources = tuple(source for _, source in tokens)
    return Chunk("".join(pieces), (5,) * len(tokens), sources, pieces)


def shown(chunks: list[Chunk], *, styled: bool = False, **options: Any) -> str:
    output = io.StringIO()
    view = AnswerView(Screen(output, styled=styled), **options)
    for part in chunks:
        view.feed(part)
    view.finish()
    return output.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tab\tand\nline", "tab\tand\nline"),
        ("a\r\nb", "a\nb"),
        ("\x1b[2J\x07\r\x00", "␛[2J␇␍␀"),
        ("\x7f\x9b31m", "␡\\u009b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\ud800", "\\ud800"),
        ("héllo 你好 🎉👩‍👩‍👧", "héllo 你好 🎉👩‍👩‍👧"),
    ],
)
def test_text_cannot_steer_the_terminal(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_a_pipe_gets_no_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert not Screen(io.StringIO()).styled
    assert Screen(Terminal()).styled


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_not_want_styles(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    output = Terminal()
    screen = Screen(output)
    screen.error("it\nbroke")
    legend(screen)
    assert output.getvalue() == (
        "error: it broke\nmodel  prompt  output  datastore  memory  recycle\n"
        "no colours here: NO_COLOR is set, or this is no terminal\n"
    )


def test_an_empty_no_color_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    assert Screen(Terminal()).styled


def test_lines_begin_at_the_left() -> None:
    output = io.StringIO()
    screen = Screen(output, styled=True)
    screen.write("half")
    screen.note("a")
    screen.line("b")
    screen.fresh_line()
    assert output.getvalue() == "half\n\x1b[2ma\x1b[0m\nb\n"


def test_a_stream_that_is_gone() -> None:
    with pytest.raises(OutputClosed):
        Screen(Broken(OSError(5, "Input/output error"))).write("a")
    with pytest.raises(OutputClosed):
        Screen(Broken(ValueError("I/O operation on closed file"))).write("a")
    with pytest.raises(BrokenPipeError):
        Screen(Broken(BrokenPipeError())).write("a")


def test_a_console_without_the_character() -> None:
    data = io.BytesIO()
    screen = Screen(io.TextIOWrapper(data, encoding="ascii"))
    screen.write("a é b")
    assert data.getvalue() == b"a ? b"


def test_an_answer_loses_its_first_spaces_only_and_ends_its_line() -> None:
    chunks = [chunk((" ", "model")), chunk((" Hi", "model"), (" there", "prompt"))]
    assert shown(chunks) == "Hi there\n"
    assert shown([chunk(("a\n", "model"))]) == "a\n"
    assert shown([]) == ""


def test_every_source_has_a_colour_of_its_own_and_a_line() -> None:
    tokens = [(name[0], name) for name in ("model", *DRAFTED)]
    assert shown([chunk(*tokens)], styled=True, show_sources=True) == (
        "m\x1b[34;4mp\x1b[0m\x1b[36;4mo\x1b[0m\x1b[32;4md\x1b[0m\x1b[35;4mm\x1b[0m\x1b[33;4mr\x1b[0m\n"
    )
    assert shown([chunk(*tokens)], styled=True) == "mpodmr\n"
    assert len({STYLES[name] for name in DRAFTED}) == len(DRAFTED)


def test_a_last_piece_without_a_token_is_printed() -> None:
    last = Chunk("ab", (5,), ("prompt",), ("a", "b"), "stop")
    assert shown([last], styled=True, show_sources=True) == "\x1b[34;4ma\x1b[0mb\n"


THOUGHT = [chunk(("<think>hm", "model"), ("\n</think>", "prompt")), chunk(("\n\nYes", "model"))]


def test_thinking_is_dim() -> None:
    assert shown(THOUGHT, styled=True) == ("\x1b[2m<think>hm\x1b[0m\x1b[2m\n</think>\x1b[0m\nYes\n")
    assert shown(THOUGHT, styled=True, show_sources=True) == (
        "\x1b[2m<think>hm\x1b[0m\x1b[2;34;4m\n</think>\x1b[0m\nYes\n"
    )


def test_thinking_can_be_hidden() -> None:
    assert shown(THOUGHT, show_thinking=False) == "thinking …\nYes\n"
    opened = [chunk(("hm</think>", "model"), ("Yes", "model"))]
    assert shown(opened, show_thinking=False, inside_thinking=True) == "thinking …\nYes\n"


def test_sources_are_shown_without_markdown() -> None:
    assert shown([chunk(("**a**", "model"))], markdown=True, show_sources=True) == "**a**\n"


def made(**values: Any) -> Stats:
    given: dict[str, Any] = {
        "prompt_tokens": 3, "reused_tokens": 0, "prompt_ms": 1.0, "tokens": 412, "ms": 13290.0,
        "tokens_per_second": 31.0, "steps": 260, "tested": 300, "accepted": 174,
        "by_source": {"model": 238, "prompt": 123, "output": 51}, "plain_ms": 68.0, "speedup": 2.1,
        "draft_ms": 1.0, "step_overhead_ms": 0.1,
    }  # fmt: skip
    return Stats(**{**given, **values})


def test_the_line_after_an_answer() -> None:
    line = "412 tokens · 31 tok/s · 2.1× · 58 % accepted (prompt 41 · output 17)"
    assert stats_line(made()) == line
    assert stats_line(made(), "cancelled") == f"{line} · stopped"
    assert stats_line(made(), "length") == f"{line} · cut off: length limit"
    assert stats_line(made(speedup=1.04), "stop") == line.replace(" · 2.1×", "")
    assert stats_line(made(tested=0, accepted=0, by_source={"model": 412}, note="no drafts")) == (
        "412 tokens · 31 tok/s · 2.1× · no drafts"
    )


@pytest.mark.parametrize("counts", [(1, 1, 1), (7, 2, 1), (100, 1, 1)])
def test_shares_add_up(counts: tuple[int, int, int]) -> None:
    by_source = dict(zip(("prompt", "output", "memory"), counts, strict=True))
    line = stats_line(made(tested=150, accepted=sum(counts), by_source=by_source))
    numbers = [int(part.split()[-1]) for part in line.split("(")[1].rstrip(")").split(" · ")]
    assert sum(numbers) == round(100 * sum(counts) / 150)
