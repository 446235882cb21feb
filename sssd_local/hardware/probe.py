"""The quick probe: what verify batches of several widths cost on this machine, in seconds.

Order matters more than number: the budget may end anywhere, so the widths a slow machine can
use come first, and one-token steps in between show how fast the machine runs at the moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sssd_local.config import MAX_WIDTH

# While a model loads: 1.5 s or 8 steps, less what the estimate of a step's time may be off.
LOAD_SECONDS = 1.45
LOAD_STEPS = 7.6
MAX_REPEATS = 5
WARM_UP_STEPS = 5

# 1 is the anchor. A second sample of the narrow widths tells a stall from a dear width.
COARSE = (1, 1, 4, 2, 8, 3, 1, 16, 6, 12, 4, 2, 1, 8, 3, 32, 1, 16)
FINE = (5, 7, 10, 1, 20, 24, 1, 48, 64, 1)
REST = (9, 11, 1, 13, 14, 15, 1)

# Repeats of a width this close to each other are averaged; otherwise the faster one is right.
AGREEMENT = 1.15
# A sample this many times dearer than expected was held up, unless another is just as dear.
STALL = 3.0
# No kernel is this much dearer than narrower batches in a row; a busy machine can be.
IMPOSSIBLE = 10.0
# A machine that runs hot is this much slower at most while it is probed.
MAX_THROTTLE = 1.3
# What two samples of a width differ by when nothing is known about it yet.
TYPICAL_SPREAD = 0.05
LEAST_SPREAD = 0.01
RELIABLE_ERROR = 0.15


@dataclass(frozen=True, slots=True)
class ProbePoint:
    """A verify batch of `width` tokens after `context_length` tokens takes `seconds`.

    `error` is the relative standard error of `seconds` against the one-token step.
    """

    context_length: int
    width: int
    seconds: float
    error: float = TYPICAL_SPREAD

    def __post_init__(self) -> None:
        for name, low, high in (("context_length", 0, math.inf), ("width", 1, MAX_WIDTH)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number of {low} to {high}, got {value!r}")
        for name in ("seconds", "error"):
            value = getattr(self, name)
            if not isinstance(value, float) or not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {value!r}")


def run_probe(
    decode: Callable[[int], None],
    clock: Callable[[], float] = time.perf_counter,
    *,
    max_width: int,
    should_stop: Callable[[], bool] = lambda: False,
    context_length: int = 0,
    max_seconds: float = LOAD_SECONDS,
    max_steps: float = LOAD_STEPS,
) -> list[ProbePoint]:
    """Measures widths 1 to `max_width` for so many seconds or one-token steps, what is longer.

    `decode(width)` evaluates one verify batch after `context_length` tokens and rolls it back.
    The first step and one stalled sample are on top of that, or a hiccup would cost all drafts.
    Returns points in order of width: fewer when time is short, none when stopped at once.
    """
    probe = _Probe(decode, clock, should_stop, (max_seconds, max_steps))
    probe.warm_up()
    for width in _plan(min(max_width, MAX_WIDTH)):
        if should_stop():
            break
        if not probe.is_settled(width) and not probe.is_hopeless(width) and probe.affords(width):
            probe.measure(width)
    return probe.points(context_length)


def warm_up(step: Callable[[], float], should_stop: Callable[[], bool]) -> float:
    """Runs one-token steps until they stop getting faster; page faults and clocks settle.

    `step` runs one and returns its seconds. Returns those of the fastest, inf when stopped at once.
    """
    before = math.inf
    for _ in range(WARM_UP_STEPS):
        if should_stop():
            break
        seconds = step()
        if seconds > before / AGREEMENT:
            return min(seconds, before)
        before = seconds
    return before


def is_reliable(points: list[ProbePoint], max_width: int) -> bool:
    """True when the points are worth keeping: no stalls cut the probe short, no noise drowned it.

    Where it is False the machine was busy; probe again another time. A slow machine has time for
    the narrow widths only; use fills in the others.
    """
    seconds = {point.width: point.seconds for point in points if point.error <= RELIABLE_ERROR}
    if len(seconds) < len(points) or 1 not in seconds:
        return False
    left = max(LOAD_SECONDS, LOAD_STEPS * seconds[1]) / 2
    for width in COARSE:
        if width > min(max_width, 16):
            continue
        if width not in seconds:
            return left < width * seconds[1]
        left -= seconds[width]
    return True


def _plan(max_width: int) -> Iterator[int]:
    """Every width in the order it is due; the widest last, as nothing wider is ever drafted."""
    first = [width for width in (*COARSE, *FINE, *REST) if width <= max_width]
    yield from first
    if max_width not in first:
        yield max_width
    for _ in range(MAX_REPEATS - 1):
        for width in sorted({*first, max_width} - {1}):
            if width % 4 == 0:
                yield 1
            yield width
    # The last samples need one-token steps after them, too.
    yield from (1, 1)


class _Probe:
    """The samples so far, in the order they were taken."""

    def __init__(
        self,
        decode: Callable[[int], None],
        clock: Callable[[], float],
        should_stop: Callable[[], bool],
        limits: tuple[float, float],
    ) -> None:
        self._max_seconds, self._max_steps = limits
        self._decode = decode
        self._clock = clock
        self._should_stop = should_stop
        self._begin = clock()
        self._fastest = math.inf
        self._forgiven = 0.0
        self._order: list[tuple[int, float]] = []
        self._samples: dict[int, list[float]] = {}

    def warm_up(self) -> None:
        """The budget begins after the first step, which may have to read the model from disk."""
        self._fastest = warm_up(self._first, self._should_stop)

    def _first(self) -> float:
        seconds = self._time(1)
        if math.isinf(self._fastest):
            self._begin, self._fastest = self._clock(), seconds
        return seconds

    def measure(self, width: int) -> None:
        """Takes a sample. A stalled one counts only for a new width, and if it repeats itself."""
        ceiling = STALL * self._expect(width)
        stalled: list[float] = []
        while len(stalled) < 3 and (not stalled or self.affords(width)):
            seconds = self._time(width)
            if seconds <= ceiling:
                self._keep(width, seconds)
                return
            self._forgiven = self._forgiven or seconds
            if width in self._samples:
                return
            # Dear kernels take the same time again, stalls any time.
            again = any(seconds / AGREEMENT < before < seconds * AGREEMENT for before in stalled)
            if again and seconds < ceiling * IMPOSSIBLE / STALL:
                self._keep(width, seconds)
                return
            stalled.append(seconds)

    def _keep(self, width: int, seconds: float) -> None:
        self._order.append((width, seconds))
        self._samples.setdefault(width, []).append(seconds)

    def _time(self, width: int) -> float:
        start = self._clock()
        self._decode(width)
        return max(self._clock() - start, 1e-9)

    def affords(self, width: int) -> bool:
        """True when a sample fits into what is left of the budget."""
        limit = max(self._max_seconds, self._max_steps * self._expect(1))
        spent = self._clock() - self._begin - min(self._forgiven, 2 * limit)
        doubt = 1.0 if width in self._samples else 1.5
        return spent + doubt * self._expect(width) <= limit

    def _expect(self, width: int) -> float:
        """Seconds of a sample: as before, or in pieces of the widest measured width below."""
        below = max((known for known in self._samples if known <= width), default=0)
        if not below:
            return width * self._fastest
        return width / below * middle(self._samples[below])

    def is_settled(self, width: int) -> bool:
        """True when more samples of a width would tell nothing new; the anchor always tells."""
        return width > 1 and len(self._samples.get(width, ())) >= MAX_REPEATS

    def is_hopeless(self, width: int) -> bool:
        """True for a wide width that can never pay, as 16 and 32 show.

        Expected tokens E are concave in the width, so a width with less width / T than a narrower
        one has also less E / T. If that still rises from 16 to 32, the cliff may be behind.
        """
        if width <= 16 or width in COARSE or not {16, 32} <= self._samples.keys():
            return False
        rates = {known: known / middle(seen) for known, seen in self._samples.items()}
        ceiling = max(rates[known] for known in rates if known < 16) / AGREEMENT
        return rates[16] < ceiling and rates[32] < min(ceiling, rates[16] * AGREEMENT)

    def points(self, context_length: int) -> list[ProbePoint]:
        """The middle sample of each width, as a multiple of the one-token steps near it."""
        if 1 not in self._samples:
            return []
        step = middle(self._samples[1])
        anchors = np.array([place for place, (width, _) in enumerate(self._order) if width == 1])
        ratios: dict[int, list[float]] = {}
        for place, (width, seconds) in enumerate(self._order):
            nearest = anchors[np.argsort(abs(anchors - place), kind="stable")[:3]]
            anchor = middle([self._order[near][1] for near in nearest])
            # A stalled anchor must not make others look cheap: drafts would be too wide for good.
            anchor = step if width == 1 else min(anchor, MAX_THROTTLE * step)
            ratios.setdefault(width, []).append(seconds / anchor)
        spread = _spread(list(ratios.values()))
        return [
            ProbePoint(
                context_length,
                width,
                middle(seen) * step,
                spread * math.sqrt(1 / len(seen) + 1 / len(anchors)),
            )
            for width, seen in sorted(ratios.items())
        ]


def middle(samples: list[float]) -> float:
    """The median; of an even number that disagree the lower one, for delays only ever add."""
    ordered = sorted(samples)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return (low + high) / 2 if high <= low * AGREEMENT else low


def _spread(samples: list[list[float]]) -> float:
    """Relative standard deviation of one sample, from how successive ones of a width differ."""
    differences = [abs(np.diff(np.log(seen))) for seen in samples if len(seen) > 1]
    if not differences:
        return TYPICAL_SPREAD
    # The median of |a - b| of two normal variables is 0.954 standard deviations.
    return max(LEAST_SPREAD, float(np.median(np.concatenate(differences))) / 0.954)
