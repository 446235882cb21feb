"""Ctrl-C while an answer is written, and the end of the terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

EXIT_HANGUP = 129


@contextmanager
def cancel_on_interrupt(cancel: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C calls `cancel` within the block; yields a function that tells whether it came."""
    came = False

    def handle(number: int, frame: object) -> None:
        nonlocal came
        came = True
        cancel()

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:
        # Only the main thread hears of signals.
        yield lambda: came
        return
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, previous)


def exit_on_hangup() -> None:
    """SIGHUP ends the program as an exit would: files are whole, the terminal is as it was."""
    if not hasattr(signal, "SIGHUP"):
        return
    # nohup has asked for the opposite; and only the main thread may ask.
    with suppress(ValueError):
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, lambda number, frame: hang_up())


def hang_up() -> NoReturn:
    """Leaves; a terminal that is still there can be restored on the way out."""
    for stream in (sys.stdout, sys.stderr):
        # One that is gone says that it is no terminal, and Python flushes to it once more.
        with suppress(OSError, ValueError):
            if not os.isatty(stream.fileno()):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    sys.exit(EXIT_HANGUP)
