"""An answer on the terminal: what is read from stdin, what is shown meanwhile, what is written."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from sssd_local.cli_guard import discard_stdout
from sssd_local.cli_status import StatusLine, is_terminal
from sssd_local.errors import SSSDError

if TYPE_CHECKING:
    from sssd_local.llm import Chunk
    from sssd_local.stats import Stats

# Loading or reading a prompt that takes longer than this is reported on a terminal.
QUIET_SECONDS = 1.0


def print_answer(
    chunks: Iterator[Chunk], progress: Progress, stats: str | None, *, trim: bool
) -> None:
    """Writes an answer to stdout as it comes, then its statistics to stderr.

    `trim` leaves out spaces before it; `stats` as --stats, None for a line on a terminal.
    """
    answer = _Answer(trim=trim)
    final: Stats | None = None
    try:
        for chunk in chunks:
            progress.end()
            answer.write(chunk.text)
            final = chunk.stats
    finally:
        progress.end()
        answer.end_line()
    if final is not None:
        _print_stats(final, stats or ("line" if is_terminal(sys.stderr) else "none"))


class _Answer:
    """An answer on stdout."""

    def __init__(self, *, trim: bool) -> None:
        # Many templates leave it to the model to put a space before its answer.
        self._trim = trim
        self._line_is_open = False
        if sys.stdout is None:
            raise SSSDError("there is no output to write the answer to; stdout is closed")
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A console that lacks a character must not end the answer.
            sys.stdout.reconfigure(errors="replace")

    def write(self, text: str) -> None:
        """Writes and flushes; raises SSSDError when stdout takes no more (a full disk)."""
        text = text.lstrip() if self._trim else text
        if not text:
            return
        # Known before writing, as Ctrl-C may end that in the middle.
        self._trim, self._line_is_open = False, not text.endswith("\n")
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            # There is no line left to end.
            self._line_is_open = False
            if error.errno == errno.EPIPE:
                raise
            discard_stdout()
            raise SSSDError(f"the answer cannot be written: {error.strerror or error}") from error

    def end_line(self) -> None:
        """Writes a newline if the text lacks one."""
        if self._line_is_open:
            self.write("\n")


def _print_stats(stats: Stats, kind: str) -> None:
    if kind == "none":
        return
    is_json = kind == "json"
    text = json.dumps(stats.as_dict(), ensure_ascii=False) if is_json else stats.line()
    # The answer is complete; a full disk behind stderr makes it no failure.
    with suppress(OSError):
        click.echo(text, err=True)


def check_text(what: str, text: str) -> None:
    """Raises SSSDError for what came as bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SSSDError(
            f"{what} is not UTF-8 text (character {error.start}); check the terminal's encoding"
        ) from error


def with_stdin(prompt: str | None) -> str | None:
    """The prompt with what was piped before it; None when there is neither."""
    piped = _read_stdin()
    if not piped.strip():
        if prompt is not None and not prompt.strip():
            raise click.UsageError("PROMPT is empty; give some text")
        return prompt
    return piped if prompt is None else f"{piped.rstrip()}\n\n{prompt}"


def _read_stdin() -> str:
    stdin = sys.stdin
    if stdin is None or stdin.closed or stdin.isatty():
        return ""
    try:
        data = stdin.buffer.read()
    except (OSError, ValueError):
        # A descriptor that was closed or cannot be read is no input.
        return ""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SSSDError(
            f"stdin is not UTF-8 text (byte {error.start}); convert it first, or pass a file's text"
        ) from error


class Progress(StatusLine):
    """What an answer waits for."""

    def __init__(self) -> None:
        super().__init__(QUIET_SECONDS)

    def load(self, fraction: float) -> None:
        self.show(f"loading the model: {100 * fraction:.0f} %")

    def prompt(self, done: int, total: int) -> None:
        self.show(f"reading the prompt: {done} of {total} tokens")

    def end(self) -> None:
        self.wipe()
