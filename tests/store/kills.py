"""Writers that die at any line of the store's code."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

WATCHED = ("sssd_local/store/", "sssd_local/files.py")
# Writes something and calls what it is given after each commit.
History = Callable[[Callable[[], None]], None]


class Killer:
    """Counts executed lines of the store's code; kills the process at one of them."""

    def __init__(self, last_line: int) -> None:
        self.lines = 0
        self._last_line = last_line

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename.replace(os.sep, "/")
        return self.line if any(name in path for name in WATCHED) else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.lines += 1
        if self.lines == self._last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.line


def run_traced(history: History, last_line: int, committed: Callable[[], None]) -> int:
    """Runs a history that dies at a line (-1: lives); returns how many lines it has."""
    killer = Killer(last_line)
    sys.settrace(killer.enter)
    try:
        history(committed)
    finally:
        sys.settrace(None)
    return killer.lines


def killed_after(history: History, last_line: int) -> int:
    """Runs a history in a child that dies at a line; returns how often it had committed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run_traced(history, last_line, lambda: os.write(writer, b"x") and None)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        commits = len(pipe.read())
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return commits


def moments(num_lines: int, num_kills: int) -> Iterator[int]:
    """Lines to die at: each part of a history, as long as the others, has one of its own."""
    numbers = random.Random(0)
    for index in range(num_kills):
        low, high = (num_lines * at // num_kills for at in (index, index + 1))
        yield numbers.randint(low + 1, high)
