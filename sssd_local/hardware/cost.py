"""What a verify batch costs: T(width, context length) in seconds, of any shape."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

import numpy as np
from numpy.typing import NDArray

from sssd_local.config import MAX_WIDTH
from sssd_local.hardware.probe import ProbePoint

Float64Array = NDArray[np.float64]

NOMINAL_SECONDS = 1.0

# Relative standard deviations, and how far they drift: the machine from step to step (clock speed,
# other programs, a longer context), a width against the others with each look at it.
STEP_NOISE = 0.06
MACHINE_PRIOR = 0.15
MACHINE_DRIFT = 0.017
SLOPE_PRIOR = 0.05
SLOPE_DRIFT = 0.01
WIDTH_DRIFT = 0.006
LEAST_ERROR = 0.01
# How much of its known cost an extra token might have, for trying what does not seem to pay.
HOPE = 0.6
STALE_STEPS = 128
# A width unseen for so long may cost again what the probe found.
RECALL_STEPS = 256
# Log of how much dearer a width may be kept than it was when the program started.
MOST_DEARER = math.log(2)
# A width that was never measured is known from its neighbours this well.
UNMEASURED_ERROR = 0.15
UNMEASURED_PRIOR = 0.5

# A step this many times dearer than predicted was held up; so many in a row are news.
STALL = 3.0
STALLS_BELIEVED = 8
# One step moves the estimate by no more than this, in log space: noise has a long upper tail.
MAX_SURPRISE = 0.35
MAX_RELIEF = 1.0
CONTEXT_GRAIN = 256
# So many steps in a row, each off by so many standard deviations to the same side, are a shift.
SHIFT_STEPS = 3
SHIFT_DEVIATIONS = 1.5


class CostModel:
    """T(width, context length) from probe points, refined by the time of every real step.

    Hidden state z: for each known width, log of T over its probed value. An observation of one
    width is a Kalman update of all of z: the widths share the machine's drift (their covariance),
    so a machine that slows down moves the whole curve at once, while a width that alone got
    dearer moves alone. `relative_error` falls out of the same covariance.
    """

    def __init__(self, points: Iterable[ProbePoint] = ()) -> None:
        """Raises ValueError if the points of a context length lack width 1.

        Without points only plain decoding is offered; the first such step sets its cost, and until
        then `is_measured` is False and a step costs a nominal second.
        """
        ordered = sorted(points, key=lambda point: (point.context_length, point.width))
        self.is_measured = bool(ordered)
        self._contexts = sorted({point.context_length for point in ordered}) or [0]
        self._widths = sorted({point.width for point in ordered}) or [1]
        self._base = _tabulate(ordered, self._contexts, self._widths)
        self._state = np.zeros(len(self._widths))
        worst = dict.fromkeys(self._widths, LEAST_ERROR)
        for point in ordered:
            worst[point.width] = max(worst[point.width], point.error)
        # Errors are against the one-token step, which itself is off only as the machine is.
        worst[1] = 0.0
        self._covariance = np.diag([worst[width] ** 2 for width in self._widths])
        self._covariance += MACHINE_PRIOR**2
        self._slope_covariance = _slope_covariance(self._base[0])
        self._covariance += self._slope_covariance * SLOPE_PRIOR**2
        self._run: list[float] = []
        # Observed steps so far, and which of them was the last of each width.
        self._num_seen = 0
        self._last_seen = np.full(MAX_WIDTH, -STALE_STEPS - 1)
        self._stalls: list[int] = []
        self._stalls_of: dict[int, list[float]] = {}
        self._curve: Float64Array | None = None
        self._curve_grain = 0
        self._index()

    @classmethod
    def from_points(cls, points: Iterable[ProbePoint]) -> CostModel:
        """The model that kept points describe; the inverse of `points`."""
        return cls(points)

    def points(self) -> list[ProbePoint]:
        """What is known, to be kept: the probe's one-token time, the other widths as learned.

        How fast the machine runs today is left out; it is learned anew within a few steps. So is
        what got dearer beyond MOST_DEARER: that may have been today's, and would not be tried soon.
        """
        if not self.is_measured:
            return []
        learned = self._state - self._state[0]
        left_out = np.maximum(learned - MOST_DEARER, 0.0)
        seconds = self._base * np.exp(learned - left_out)
        error = {
            width: max(LEAST_ERROR, self.relative_error(width), left_out.item(column))
            for width, column in self._column_of.items()
        }
        return [
            ProbePoint(
                context_length, width, seconds.item(row, self._column_of[width]), error[width]
            )
            for row, context_length in enumerate(self._contexts)
            for width in sorted(self._widths)
        ]

    def curve(self, context_length: int) -> Float64Array:
        """Seconds of a step for widths 1 to 64, float64 [64], read-only; inf is not offered."""
        grain = context_length // CONTEXT_GRAIN if len(self._contexts) > 1 else 0
        if self._curve is None or grain != self._curve_grain:
            known = self._known
            np.multiply(self._base_at(grain), np.exp(self._state), out=known[:-1])
            # The dearer neighbour: what was never measured must not look like a bargain.
            self._curve = np.maximum(known[self._below], known[self._above])
            self._curve.flags.writeable = False
            self._curve_grain = grain
        return self._curve

    def hopeful(self, context_length: int) -> Float64Array:
        """Seconds a step might take at best, float64 [64]: what is worth a try now and then.

        Widths seen lately as they are, others with extra tokens at HOPE of their known cost, after
        RECALL_STEPS at no more than the probe's, and no dearer than wider ones; beyond the widest
        known, growing with the root of the width. inf where width ÷ T is 1 or less as measured, and
        as probed where that is recalled: no draft, however good, could pay there.
        """
        known = self.curve(context_length)
        plain, widest = known.item(0), max(self._widths)
        widths = np.arange(1, MAX_WIDTH + 1)
        hoped = np.minimum(self._known[self._below], self._known[self._above])
        # Of an unmeasured width, since a neighbour was seen.
        last = np.append(self._last_seen[np.array(self._widths) - 1], -RECALL_STEPS)
        unseen = self._num_seen - np.maximum(last[self._below], last[self._above])
        hoped = np.where(unseen > STALE_STEPS, plain + HOPE * (hoped - plain), hoped)
        probed = self._base_at(context_length // CONTEXT_GRAIN)
        probed = np.append(probed * (plain / probed[0]), math.inf)
        probed = np.maximum(probed[self._below], probed[self._above])
        recalled = np.where(unseen > RECALL_STEPS, probed, math.inf)
        hoped = np.minimum(hoped, recalled)
        hoped[widest:] = hoped[widest - 1] * np.sqrt(widths[widest:] / widest)
        hoped = np.minimum.accumulate(hoped[::-1])[::-1]
        hopeless = np.minimum(known, recalled) >= plain * widths
        alike = np.append(hopeless[np.array(self._widths) - 1], False)
        hoped[alike[self._below] & alike[self._above]] = math.inf
        hoped[0] = plain
        return hoped

    @property
    def has_gaps(self) -> bool:
        """True while widths up to 16 that drafts often have are known from neighbours only."""
        return not {2, 3, 4, 6, 8, 12, 16} <= self._column_of.keys()

    def seconds(self, width: int, context_length: int) -> float:
        """Seconds of a step of `width` (1 to 64) tokens; inf for a width that is not offered."""
        return self.curve(context_length).item(width - 1)

    def probed_seconds(self, width: int, context_length: int) -> float:
        """Seconds of a step as first measured, of the next wider known width; never inf."""
        base = self._base_at(context_length // CONTEXT_GRAIN)
        return base.item(min(int(self._above[width - 1]), len(base) - 1))

    def relative_error(self, width: int) -> float:
        """Standard error of T(width) / T(1), relative; inf for a width that is not offered."""
        below, above = int(self._below[width - 1]), int(self._above[width - 1])
        if above == len(self._widths):
            return math.inf
        error = max(self._error(below), self._error(above))
        return error if below == above else error + UNMEASURED_ERROR

    def observe(self, width: int, context_length: int, seconds: float) -> None:
        """Takes in the time of a real step; impossible times and widths are ignored.

        Nothing is learned from wider steps before a one-token step is known.
        """
        if not (1 <= width <= MAX_WIDTH and 0 < seconds < math.inf):
            return
        if not self.is_measured:
            if width == 1:
                self._base[0, 0], self.is_measured, self._curve = seconds, True, None
            return
        expected = self.expected_seconds(width, context_length)
        surprise = math.log(seconds / expected)
        if surprise > math.log(STALL) and not self._is_news(width, surprise):
            return
        column = self._column_of.get(width)
        if column is None:
            column = self._add(width, context_length, expected)
        if surprise > math.log(STALL):
            surprise = self._believe(column, width)
        else:
            self._stalls_of.pop(width, None)
        self._stalls.clear()
        self._num_seen += 1
        self._last_seen[width - 1] = self._num_seen
        self._update(column, surprise)

    def expected_seconds(self, width: int, context_length: int) -> float:
        """Seconds of a step of `width` tokens, never inf: as in `expected_curve`."""
        seconds = self.seconds(width, context_length)
        if seconds < math.inf:
            return seconds
        return self.expected_curve(context_length).item(width - 1)

    def expected_curve(self, context_length: int) -> Float64Array:
        """Seconds of a step for widths 1 to 64, float64 [64]; beyond the widest known as many
        batches of that as it takes."""
        known, widest = self.curve(context_length), max(self._widths)
        beyond = known[widest - 1] / widest * np.arange(1, MAX_WIDTH + 1)
        return np.where(np.isfinite(known), known, beyond)

    def _is_news(self, width: int, surprise: float) -> bool:
        """Counts a stalled step; True once so many came in a row, of this width or of any."""
        self._stalls.append(width)
        own = self._stalls_of.setdefault(width, [])
        own.append(surprise)
        return max(len(own), len(self._stalls)) >= STALLS_BELIEVED

    def _believe(self, column: int, width: int) -> float:
        """Opens the covariance for a jump and returns its size in log space."""
        jump = median(self._stalls_of[width])
        whole_machine = len(self._stalls) >= STALLS_BELIEVED
        if whole_machine:
            self._covariance += jump**2
        if not whole_machine or (width > 1 and set(self._stalls) == {width}):
            # Seen on one wide step only it may be that width's alone; the next plain step tells.
            self._covariance[column, column] += jump**2
        self._stalls_of.clear()
        return jump

    def _update(self, column: int, surprise: float) -> None:
        """Kalman update of all widths by one observation of one of them."""
        covariance = self._covariance
        covariance += MACHINE_DRIFT**2
        if column:
            covariance[column, column] += WIDTH_DRIFT**2
            covariance += self._slope_covariance * SLOPE_DRIFT**2
        self._open(column, surprise)
        row = covariance[column].copy()
        variance = row.item(column) + STEP_NOISE**2
        limit = 3 * math.sqrt(variance)
        # Delays only ever add: a fast step is always true.
        surprise = min(max(surprise, -max(MAX_RELIEF, limit)), max(MAX_SURPRISE, limit))
        gain = row / variance
        self._state += gain * surprise
        covariance -= gain[:, None] * row
        self._curve = None

    def _open(self, column: int, surprise: float) -> None:
        """Widens the covariance when surprises in a row point one way: a lasting shift."""
        deviation = math.sqrt(self._covariance.item(column, column) + STEP_NOISE**2)
        if abs(surprise) < SHIFT_DEVIATIONS * deviation or surprise * sum(self._run) < 0:
            self._run.clear()
            if abs(surprise) < SHIFT_DEVIATIONS * deviation:
                return
        self._run.append(surprise)
        if len(self._run) < SHIFT_STEPS:
            return
        shift = median(self._run) ** 2
        self._covariance += shift
        if column:
            self._covariance += self._slope_covariance * shift
            self._covariance[column, column] += shift / 4
        self._run.clear()

    def _error(self, column: int) -> float:
        item = self._covariance.item
        return math.sqrt(max(0.0, item(0, 0) + item(column, column) - 2 * item(0, column)))

    def _base_at(self, grain: int) -> Float64Array:
        """Probed seconds of each known width, linear between the context lengths measured."""
        if len(self._contexts) == 1:
            only: Float64Array = self._base[0]
            return only
        middle = (grain + 0.5) * CONTEXT_GRAIN
        place = float(np.interp(middle, self._contexts, np.arange(len(self._contexts))))
        low = min(int(place), len(self._contexts) - 2)
        base: Float64Array = self._base[low] + (place - low) * (
            self._base[low + 1] - self._base[low]
        )
        return base

    def _add(self, width: int, context_length: int, seconds: float) -> int:
        """Makes a width known that was never probed; returns its column."""
        column = len(self._widths)
        ratio = seconds / self.seconds(1, context_length)
        self._widths.append(width)
        self._base = np.column_stack((self._base, self._base[:, 0] * ratio))
        self._state = np.append(self._state, self._state[0])
        near = min(range(column), key=lambda known: abs(self._widths[known] - width))
        self._covariance = np.pad(self._covariance, (0, 1))
        self._covariance[column] = self._covariance[near]
        self._covariance[:, column] = self._covariance[:, near]
        self._covariance[column, column] = self._covariance[near, near] + UNMEASURED_PRIOR**2
        self._slope_covariance = _slope_covariance(self._base[0])
        self._index()
        return column

    def _index(self) -> None:
        """Columns of the nearest known widths at or below and at or above widths 1 to 64."""
        self._column_of = {width: column for column, width in enumerate(self._widths)}
        known, every = np.array(sorted(self._widths)), np.arange(1, MAX_WIDTH + 1)
        # One more column, beyond the widest: it costs inf.
        columns = np.array([*(self._column_of[width] for width in known.tolist()), len(known)])
        self._below = columns[np.searchsorted(known, every, side="right") - 1]
        self._above = columns[np.searchsorted(known, every, side="left")]
        self._known = np.full(len(columns), math.inf)


def _slope_covariance(seconds: Float64Array) -> Float64Array:
    """The covariance of the widths' logs where the log cost of an extra token has variance 1."""
    share = 1.0 - np.minimum(1.0, seconds[0] / seconds)
    covariance: Float64Array = np.outer(share, share)
    return covariance


def _tabulate(points: list[ProbePoint], contexts: list[int], widths: list[int]) -> Float64Array:
    """Seconds [contexts, widths]; a gap is taken from the nearest context length, by ratio."""
    if not points:
        return np.full((1, 1), NOMINAL_SECONDS)
    table = {(point.context_length, point.width): point.seconds for point in points}
    for context_length in contexts:
        if (context_length, 1) not in table:
            raise ValueError(f"width 1 was not measured at context length {context_length}")
    rows = []
    for here in contexts:
        near = sorted(contexts, key=lambda there: abs(there - here))
        homes = [next(there for there in near if (there, width) in table) for width in widths]
        rows.append(
            [
                table[there, width] * table[here, 1] / table[there, 1]
                for there, width in zip(homes, widths, strict=True)
            ]
        )
    return np.array(rows)
