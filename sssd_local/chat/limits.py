"""What rendering a chat template may cost: time, size of one value, memory in all.

Templates come with downloaded models, so they are run as code of a stranger. Every operation that
can build something large asks `charge` first; a trace function looks at the clock between lines.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jinja2 import Undefined

# Allocations of one rendering may add up to this many times the largest output.
WORK_FACTOR = 16
# What an item of a list and a text in a list cost beside their characters, in bytes.
ITEM_COST = 8
TEXT_COST = 64


class RenderLimitError(BaseException):
    """A limit was hit; no Exception, so that nothing inside the template engine swallows it."""


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """`seconds` for one rendering, `compile_seconds` for reading a template once, and the most
    characters of a rendered text and of any text made on the way."""

    seconds: float = 2.0
    compile_seconds: float = 5.0
    max_characters: int = 4 << 20


class Budget:
    """What one rendering has left; enforced in the thread that renders."""

    def __init__(self, seconds: float, max_characters: int) -> None:
        self.max_characters = max_characters
        self._seconds = seconds
        self._deadline = math.inf
        self._quiet = False
        self._left = WORK_FACTOR * max_characters

    def check_time(self) -> None:
        """Raises RenderLimitError when the time is over."""
        if time.perf_counter() > self._deadline:
            self._quiet = True
            raise RenderLimitError(f"it ran longer than {self._seconds:g} s")

    def charge(self, units: int) -> None:
        """Accounts for a value of about `units` bytes that is going to be made."""
        self.check_time()
        if units > self.max_characters:
            raise RenderLimitError(f"it builds a value of {units} characters")
        self._left -= units
        if self._left < 0:
            raise RenderLimitError(
                f"it builds values of more than {WORK_FACTOR * self.max_characters} characters"
            )

    @contextmanager
    def enforced(self, *, lines: bool) -> Iterator[Budget]:
        """Looks at the clock at every call and, with `lines`, at every line of Python.

        Python drops a trace function that raises, and only prints what is raised while a generator
        or another object is thrown away. So the tracer is quiet once the clock has been heeded,
        and `charge` and `tick`, which every loop of a template calls, look at the clock too, as
        does the end: a limit that was hit is always raised.
        """

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if event in ("call", "line") and not self._quiet:
                self.check_time()
            return trace if lines and frame.f_code.co_filename != __file__ else None

        before = sys.gettrace()
        token = _ACTIVE.set(self)
        self._deadline = time.perf_counter() + self._seconds
        sys.settrace(trace)
        try:
            yield self
            self.check_time()
        finally:
            sys.settrace(before)
            _ACTIVE.reset(token)


_ACTIVE: ContextVar[Budget] = ContextVar("budget")


def charge(units: int) -> None:
    """Accounts for `units` bytes in the rendering that runs; raises RenderLimitError."""
    _ACTIVE.get().charge(units)


def tick(value: object = None) -> object:
    """Looks at the clock of the rendering that runs; raises RenderLimitError."""
    _ACTIVE.get().check_time()
    return value


def charge_result(value: object) -> None:
    """Accounts for a text or list that was just made from values of limited size."""
    if isinstance(value, str | bytes):
        charge(len(value))
    elif isinstance(value, list | tuple):
        charge(TEXT_COST * len(value))


def measure(value: object, *, for_text: bool = False) -> int:
    """About how many characters a value has when everything in it is written out.

    Parts that occur several times count as often, because comparing, sorting or writing a value
    visits them as often. Raises RenderLimitError when that is too much, and TypeError with
    `for_text` when something has no text.
    """
    limit = _ACTIVE.get().max_characters
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        total += len(item) if isinstance(item, str) else ITEM_COST
        if not isinstance(item, _LEAVES):
            waiting.extend(_parts(item, for_text))
        if total + ITEM_COST * len(waiting) > limit:
            raise RenderLimitError("it works on a value of too many parts")
    return total


_LEAVES = (str, int, float, type(None), Undefined)


def _parts(value: object, for_text: bool) -> Iterable[object]:
    if isinstance(value, list | tuple | range):
        return value
    if isinstance(value, Mapping):
        return (*value.keys(), *value.values())
    if for_text:
        raise TypeError(f"a {type(value).__name__} cannot be written as text")
    return ()


def as_text(value: object) -> str:
    """The text of a value, as Jinja writes it; raises TypeError for what has none."""
    if isinstance(value, str):
        return value
    charge(measure(value, for_text=True))
    return str(value)
