"""Markdown printed block by block: each block once it is finished, nothing painted twice."""

from __future__ import annotations

import importlib.util
import io
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

    from sssd_local.chat.render import Screen

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
# Code between backticks, or a name between double underscores.
_KEPT = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)|\b__\w+__\b")
_HEADING = re.compile(r" {0,3}#{1,6}(\s|$)")


def can_render() -> bool:
    """Whether rich is installed, which lays out the blocks."""
    return importlib.util.find_spec("rich") is not None


class MarkdownBlocks:
    """Takes text as it is written and prints paragraphs, lists and tables when they end.

    Lines of code between fences are printed as they come, unchanged.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._line: list[str] = []
        self._block: list[str] = []
        self._blank_after = False
        self._fence = ""
        self._printed = False

    def feed(self, text: str) -> None:
        """Prints the blocks that the text finishes."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._line.append(line)
            self._take("".join(self._line))
            self._line.clear()
        if rest:
            self._line.append(rest)

    def finish(self) -> None:
        """Prints what is there, finished or not."""
        if self._line:
            self._take("".join(self._line))
            self._line.clear()
        self._flush()

    def _take(self, line: str) -> None:
        fence = _FENCE.match(line)
        if self._fence:
            closes = fence is not None and fence[1].startswith(self._fence)
            if closes and fence is not None and not line[fence.end() :].strip():
                self._fence = ""
                self._screen.write(line + "\n", "note")
            else:
                self._screen.write(line + "\n", "code")
        elif fence is not None:
            self._flush()
            self._space()
            self._fence = fence[1]
            self._screen.write(line + "\n", "note")
        elif not line.strip():
            self._blank_after = bool(self._block)
        else:
            self._take_text(line)

    def _take_text(self, line: str) -> None:
        if self._blank_after and line[0] in " \t":
            # An indented line goes on with the list item before the blank line.
            self._block.append("")
        elif self._blank_after:
            self._flush()
        self._blank_after = False
        self._block.append(line)
        if len(self._block) == 1 and _HEADING.match(line):
            self._flush()

    def _flush(self) -> None:
        if not self._block:
            return
        text = "\n".join(self._block)
        self._block, self._blank_after = [], False
        self._space()
        self._screen.write_rendered(render_block(text, self._screen) + "\n")

    def _space(self) -> None:
        if self._printed:
            self._screen.write_rendered("\n")
        self._printed = True


@cache
def _parser() -> MarkdownIt:
    """Markdown whose reading loses no text: no HTML, no definitions of links, no escapes."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    # `\(x\)` is mathematics far more often than an escaped bracket.
    return parser.disable(["reference", "escape"])


def _keep_names(text: str) -> str:
    """Names like __init__ are no bold text; in code they are left alone."""
    return "\n".join(
        line if line.startswith(("    ", "\t")) else _KEPT.sub(_entities, line)
        for line in text.split("\n")
    )


def _entities(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("`") else found[0].replace("_", "&#95;")


def render_block(text: str, screen: Screen) -> str:
    """A block laid out for the screen's present width, with its styles."""
    from rich.console import Console
    from rich.markdown import Markdown

    from sssd_local.chat.render import visible

    console = Console(
        file=io.StringIO(),
        width=screen.width,
        force_terminal=screen.styled,
        color_system="standard" if screen.styled else None,
        no_color=not screen.styled,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    # Without hyperlinks: an address is shown rather than hidden behind other text.
    document = Markdown("", hyperlinks=False)
    document.markup = visible(text)
    document.parsed = _parser().parse(_keep_names(document.markup))
    with console.capture() as capture:
        console.print(document)
    lines = capture.get().strip("\n").split("\n")
    return "\n".join(line.rstrip(" ") for line in lines)
