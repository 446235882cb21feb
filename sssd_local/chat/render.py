"""What a chat prints: text made harmless, styles, answers coloured by source, the line after."""

from __future__ import annotations

import dataclasses
import os
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol, TextIO

from sssd_local.chat.markdown import MarkdownBlocks
from sssd_local.chat.reasoning import Segment, ThinkSplitter

if TYPE_CHECKING:
    from sssd_local.llm import Chunk
    from sssd_local.stats import Stats

# SGR codes. Drafted text is underlined too, for those who do not see the colours.
STYLES = {
    "plain": "",
    "model": "",
    "prompt": "34;4",
    "output": "36;4",
    "datastore": "32;4",
    "memory": "35;4",
    "recycle": "33;4",
    "note": "2",
    "code": "36",
    "error": "31",
}
DRAFTED = ("prompt", "output", "datastore", "memory", "recycle")
DEFAULT_WIDTH = 80


def _harmless() -> dict[int, str]:
    """Characters that steer a terminal or reorder its text, and what is shown for them."""
    shown = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    shown[0x7F] = "\u2421"
    unprintable = [*range(0x80, 0xA0), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029]
    unprintable += [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)]
    return shown | {code: f"\\u{code:04x}" for code in unprintable}


_HARMLESS = _harmless()


def visible(text: str) -> str:
    """The text with control characters made visible; line ends and tabs stay."""
    return text.replace("\r\n", "\n").translate(_HARMLESS)


class OutputClosed(Exception):  # noqa: N818 - an outcome, not a mistake
    """Nothing can be printed any more."""


class PromptProgress(Protocol):
    """Shows that a long prompt is being read."""

    def prompt(self, done: int, total: int) -> None:
        """`done` of `total` tokens were evaluated."""

    def end(self) -> None:
        """Wipes what was shown."""


class Screen:
    """An output stream with styles, which are left out where they would be noise.

    `styled` None: on a terminal that is not dumb, unless NO_COLOR is set. Every write raises
    OutputClosed when the stream is gone; a closed pipe stays BrokenPipeError.
    """

    def __init__(self, stream: TextIO, *, styled: bool | None = None) -> None:
        self._stream = stream
        self._at_line_start = True
        self.is_terminal = stream.isatty()
        self.styled = self._wants_styles() if styled is None else styled

    def _wants_styles(self) -> bool:
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return self.is_terminal and not plain

    @property
    def width(self) -> int:
        """Columns of the terminal as it is now."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or DEFAULT_WIDTH
        except (OSError, ValueError):
            return DEFAULT_WIDTH

    def write(self, text: str, style: str = "plain", *, dim: bool = False) -> None:
        """Prints text from anywhere, control characters made visible."""
        text = visible(text)
        codes = ";".join(part for part in ("2" if dim else "", STYLES[style]) if part)
        if text and codes and self.styled:
            text = f"\x1b[{codes}m{text}\x1b[0m"
        self.write_rendered(text)

    def write_rendered(self, text: str) -> None:
        """Prints text whose control characters are our own."""
        if not text:
            return
        self._at_line_start = text.removesuffix("\x1b[0m").endswith("\n")
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write_rendered(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError) as error:
            raise OutputClosed(str(error)) from error

    def line(self, text: str = "", style: str = "plain") -> None:
        """Prints a line of its own."""
        self.fresh_line()
        self.write(text, style)
        self.write_rendered("\n")

    def note(self, text: str) -> None:
        """Prints something of ours, dim."""
        self.line(text, "note")

    def error(self, text: str) -> None:
        """Prints what went wrong in one line."""
        self.line("error: " + " ".join(text.split()), "error")

    def fresh_line(self) -> None:
        """Ends the present line if something stands on it."""
        if not self._at_line_start:
            self.write_rendered("\n")

    def taken(self) -> None:
        """The user's Enter has ended the line."""
        self._at_line_start = True


class AnswerView:
    """Prints one answer while it is written, each character once."""

    def __init__(
        self,
        screen: Screen,
        *,
        show_thinking: bool = True,
        markdown: bool = False,
        show_sources: bool = False,
        inside_thinking: bool = False,
    ) -> None:
        """Sources and Markdown exclude each other: where sources are shown, the text is plain."""
        self._screen = screen
        self._splitter = ThinkSplitter(inside=inside_thinking)
        self._show_thinking = show_thinking
        self._show_sources = show_sources
        self._blocks = MarkdownBlocks(screen) if markdown and not show_sources else None
        self._thought = self._begun = False

    def feed(self, chunk: Chunk) -> None:
        """Prints what the chunk releases."""
        for text, source in zip_longest(chunk.pieces, chunk.sources, fillvalue=""):
            self._show_all(self._splitter.feed(text, source or "model"))

    def finish(self) -> None:
        """Prints the rest and ends the line."""
        self._show_all(self._splitter.finish())
        if self._blocks is not None:
            self._blocks.finish()
        self._screen.fresh_line()

    def _show_all(self, segments: list[Segment]) -> None:
        for segment in segments:
            if segment.thinking:
                self._think(segment)
            else:
                self._answer(segment)

    def _think(self, segment: Segment) -> None:
        if not self._show_thinking:
            if not self._thought:
                self._screen.note("thinking …")
            self._thought = True
            return
        text = segment.text if self._thought else segment.text.lstrip()
        self._thought = self._thought or bool(text)
        self._screen.write(text, self._style(segment), dim=True)

    def _answer(self, segment: Segment) -> None:
        text = segment.text
        if not self._begun:
            # Many templates leave it to the model to put a space before its answer.
            text = text.lstrip()
            if not text:
                return
            self._begun = True
            self._screen.fresh_line()
        if self._blocks is not None:
            self._blocks.feed(text)
        else:
            self._screen.write(text, self._style(segment))

    def _style(self, segment: Segment) -> str:
        return segment.source if self._show_sources and segment.source in STYLES else "plain"


def stats_line(stats: Stats, finish_reason: str | None = None) -> str:
    """`412 tokens · 31 tok/s · 2.1× · 58 % accepted (prompt 41 · output 17)`.

    The numbers in brackets are shares of the tested tokens and add up to the whole.
    """
    parts = [dataclasses.replace(stats, note="").line() + _shares(stats)]
    parts += [stats.note] if stats.note else []
    ends = {"cancelled": "stopped", "length": "cut off: length limit"}
    parts += [ends[finish_reason]] if finish_reason in ends else []
    return " · ".join(parts)


def _shares(stats: Stats) -> str:
    counts = {name: stats.by_source.get(name, 0) for name in DRAFTED}
    counts = {name: count for name, count in counts.items() if count}
    accepted = sum(counts.values())
    if not stats.tested or not accepted:
        return ""
    total = round(100 * stats.accepted / stats.tested)
    exact = {name: total * count / accepted for name, count in counts.items()}
    shares = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return " (" + " · ".join(f"{name} {share}" for name, share in shares.items()) + ")"


def legend(screen: Screen) -> None:
    """Prints which style stands for which source."""
    screen.fresh_line()
    screen.write("model")
    for name in DRAFTED:
        screen.write("  ")
        screen.write(name, name)
    screen.write_rendered("\n")
    if not screen.styled:
        screen.note("no colours here: NO_COLOR is set, or this is no terminal")
