"""One line on a terminal's stderr about work that takes long, wiped when it is done."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

import click


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is there and somebody looks at it."""
    return stream is not None and not stream.closed and stream.isatty()


class StatusLine:
    """Shows nothing where nobody looks, and nothing of what takes less than `quiet_seconds`."""

    def __init__(self, quiet_seconds: float = 0.0) -> None:
        self._quiet_seconds = quiet_seconds
        self._shown = False
        self._start = time.monotonic()

    def show(self, text: str) -> None:
        """Puts a text in the place of the one before it."""
        is_due = time.monotonic() - self._start >= self._quiet_seconds
        if is_due and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
            # A line that wraps could not be wiped.
            columns = shutil.get_terminal_size().columns
            click.echo(f"\r\x1b[K{text[: columns - 1]}", nl=False, err=True)
            self._shown = True

    def wipe(self) -> None:
        """Removes the line; other work begins now."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
        self._shown, self._start = False, time.monotonic()
