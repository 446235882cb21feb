"""The full probe: widths × context lengths × threads, coarse first, then where it matters.

Every block of measurements is framed by an anchor, the one-token step of an empty context: a block
between two anchors that disagree was measured on a machine that changed, and is thrown away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sssd_local.hardware.probe import AGREEMENT, ProbePoint, middle, run_probe, warm_up

# Enough for the grid on a machine with a one-token step of 20 ms; slower ones get more.
MAX_SECONDS = 9.0
MAX_STEPS = 450
# The share of the curve after an empty context.
FIRST_SHARE = 0.4

THREAD_ROUNDS = 3
# A thread count must be this much faster than the usual one to be preferred.
THREAD_GAIN = 0.03
THREAD_WIDTHS = (4, 8)
# Widths whose cost may depend on the context length differently; the best ones are added.
DEEP_WIDTHS = (2, 4, 8, 16)
NUM_BEST = 2
MAX_DEEP_WIDTH = 32
DEEP_ROUNDS = 3
TREE_WIDTHS = (4, 8)
TREE_ROUNDS = 3
ANCHOR_STEPS = 3
FLASH_WIDTHS = (1, 4, 8)
FLASH_ROUNDS = 2
# Flash attention must save this share of a step after a long context, and one-token steps with it
# may not be slower by more.
FLASH_GAIN = 0.03


class Rig(Protocol):
    """What the survey may do with a loaded model."""

    def fill(self, context_length: int) -> bool:
        """Empties the cache and puts a state of so many tokens into it; False if it cannot."""

    def set_threads(self, threads: int, threads_batch: int) -> None:
        """Threads of one-token steps and of wider ones from now on."""

    def set_flash_attention(self, on: bool) -> bool:
        """Makes the context anew, empty, with or without it; False if it cannot."""

    def decode(self, width: int) -> None:
        """Evaluates a chain of `width` tokens after the filled context, and rolls it back."""

    def decode_tree(self, width: int) -> None:
        """The same for a tree with as many leaves as allowed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: widths up to `max_width`, context lengths from 0 up, and thread counts.

    The first of `threads` and `threads_batch` is the usual count; one each measures nothing.
    `flash_attention`: it is tried; the rig begins without.
    """

    max_width: int
    context_lengths: tuple[int, ...] = (0,)
    threads: tuple[int, ...] = (1,)
    threads_batch: tuple[int, ...] = (1,)
    trees: bool = True
    flash_attention: bool = False

    def __post_init__(self) -> None:
        if self.context_lengths[:1] != (0,) or list(self.context_lengths) != sorted(
            set(self.context_lengths)
        ):
            raise ValueError("context lengths must rise from 0")
        if not self.threads or not self.threads_batch or self.max_width < 1:
            raise ValueError("a plan needs a width and a thread count of each kind")


@dataclass(frozen=True, slots=True)
class Findings:
    """What a survey found; `branch_seconds` is what a tree costs over a chain of its width."""

    points: tuple[ProbePoint, ...]
    threads: int
    threads_batch: int
    branch_seconds: float = 0.0
    dropped_blocks: int = 0
    is_complete: bool = True
    flash_attention: bool = False


@dataclass(slots=True)
class Survey:
    """One full probe of a rig; `run` may be cut short by `should_stop` and keeps what is known."""

    rig: Rig
    plan: Plan
    clock: Callable[[], float] = time.perf_counter
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[[float, str], None] = lambda fraction, doing: None
    dropped_blocks: int = 0
    _points: list[ProbePoint] = field(default_factory=list)
    _step: float = math.inf
    _begin: float = 0.0

    def run(self) -> Findings:
        """Measures what the plan says within the budget, most useful things first."""
        plan = self.plan
        self.rig.set_threads(plan.threads[0], plan.threads_batch[0])
        self.rig.fill(0)
        self._step = warm_up(lambda: self._time(1), self.should_stop)
        self._begin = self.clock()
        threads = self._best_threads(plan.threads, (1,), lambda count: (count, count), "threads")
        threads_batch = self._best_threads(
            plan.threads_batch,
            tuple(width for width in THREAD_WIDTHS if width <= plan.max_width),
            lambda count: (threads, count),
            "threads of batches",
        )
        self.rig.set_threads(threads, threads_batch)
        flash_attention = plan.flash_attention and self._prefers_flash_attention()
        self._measure_first()
        for number, context_length in enumerate(plan.context_lengths[1:]):
            self._progress(f"after {context_length} tokens")
            if not self._stopped():
                left = self._begin + self._budget - self.clock()
                self._measure_deep(context_length, left / (len(plan.context_lengths) - number))
        self.rig.fill(0)
        branch = self._branch_seconds() if plan.trees else 0.0
        self.progress(1.0, "done")
        measured = {point.context_length for point in self._points}
        return Findings(
            tuple(self._points),
            threads,
            threads_batch,
            branch,
            self.dropped_blocks,
            bool(measured) and measured == set(plan.context_lengths) and not self.should_stop(),
            flash_attention,
        )

    def _time(self, width: int, decode: Callable[[int], None] | None = None) -> float:
        start = self.clock()
        (decode or self.rig.decode)(width)
        return max(self.clock() - start, 1e-9)

    @property
    def _budget(self) -> float:
        return max(MAX_SECONDS, MAX_STEPS * self._step)

    def _stopped(self) -> bool:
        return self.should_stop() or self.clock() - self._begin > self._budget

    def _progress(self, doing: str) -> None:
        self.progress(min(0.99, (self.clock() - self._begin) / self._budget), doing)

    def _best_threads(
        self,
        counts: Sequence[int],
        widths: Sequence[int],
        setting: Callable[[int], tuple[int, int]],
        doing: str,
    ) -> int:
        """The count with the least seconds at the widths; interleaved, so that drift hits all."""
        samples: dict[int, list[float]] = {count: [] for count in counts}
        if len(counts) == 1 or not widths:
            return counts[0]
        for number in range(THREAD_ROUNDS):
            self._progress(doing)
            # Every second round backwards: none is always the one after the slowest.
            for count in counts if number % 2 == 0 else reversed(counts):
                if self._stopped():
                    return counts[0]
                self.rig.set_threads(*setting(count))
                self._time(1)
                samples[count].append(sum(self._time(width) for width in widths))
        seconds = {count: middle(seen) for count, seen in samples.items()}
        best = min(counts, key=lambda count: seconds[count])
        return best if seconds[best] < (1 - THREAD_GAIN) * seconds[counts[0]] else counts[0]

    def _prefers_flash_attention(self) -> bool:
        """Whether it is faster after the longest context; leaves the rig with what is faster."""
        self._progress("flash attention")
        tried = self.rig.set_flash_attention(True)
        with_it = self._flash_block() if tried else []
        # The usual way last: mostly the rig can stay with it.
        self.rig.set_flash_attention(False)
        without = self._flash_block() if with_it else []
        self.rig.fill(0)
        if not with_it or not without or self._stopped():
            return False
        ratios = [a / b for a, b in zip(with_it, without, strict=True)]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        is_better = mean < 1 - FLASH_GAIN and ratios[0] < 1 + FLASH_GAIN
        return is_better and self.rig.set_flash_attention(True)

    def _flash_block(self) -> list[float]:
        """Anchor steps that widths take after the longest context that can be filled.

        Empty where none can be, or where the machine changed meanwhile.
        """
        widths = [width for width in FLASH_WIDTHS if width <= self.plan.max_width]
        if self._stopped():
            return []
        before = self._anchor()
        if not any(map(self.rig.fill, reversed(self.plan.context_lengths[1:]))):
            return []
        self._time(1)
        samples = [[self._time(width) for width in widths] for _ in range(FLASH_ROUNDS)]
        after = self._anchor()
        if max(before, after) > AGREEMENT * min(before, after):
            return []
        return [min(seen) / math.sqrt(before * after) for seen in zip(*samples, strict=True)]

    def _measure_first(self) -> None:
        """All widths after an empty context."""
        self._progress("widths")
        self._points += run_probe(
            self.rig.decode,
            self.clock,
            max_width=self.plan.max_width,
            should_stop=self.should_stop,
            max_seconds=FIRST_SHARE * MAX_SECONDS,
            max_steps=FIRST_SHARE * MAX_STEPS,
        )
        self._step = next((point.seconds for point in self._points), self._step)

    def _branch_seconds(self) -> float:
        """Seconds a tree costs over a chain of its width, the middle over widths; at least 0."""
        extra: list[float] = []
        for width in TREE_WIDTHS:
            if width > self.plan.max_width:
                break
            pairs = []
            for _ in range(TREE_ROUNDS):
                if self._stopped():
                    return 0.0
                self._progress("trees")
                pairs.append((self._time(width), self._time(width, self.rig.decode_tree)))
            chain, tree = zip(*pairs, strict=True)
            extra.append(middle(list(tree)) - middle(list(chain)))
        return max(0.0, sorted(extra)[len(extra) // 2]) if extra else 0.0

    def _measure_deep(self, context_length: int, seconds: float) -> None:
        """The informative widths after a filled context, once more if the machine changed."""
        for _ in range(2):
            block = self._deep_block(context_length, seconds / 2)
            if block is not None:
                self._points += block
                return
            self.dropped_blocks += 1
            if self._stopped():
                return

    def _deep_block(self, context_length: int, seconds: float) -> list[ProbePoint] | None:
        before = self._anchor()
        if not self.rig.fill(context_length):
            return []
        self._time(1)
        samples = self._sample_deep(self.clock() + seconds)
        after = self._anchor()
        if max(before, after) > AGREEMENT * min(before, after):
            return None
        # What the machine's speed moved since the first block is divided out.
        speed = self._step / math.sqrt(before * after)
        return [
            ProbePoint(context_length, width, middle(seen) * speed)
            for width, seen in sorted(samples.items())
        ]

    def _anchor(self) -> float:
        self.rig.fill(0)
        self._time(1)
        return middle([self._time(1) for _ in range(ANCHOR_STEPS)])

    def _sample_deep(self, end: float) -> dict[int, list[float]]:
        """Seconds of the informative widths, narrow ones first; each once at least if it fits."""
        known = {point.width: point.seconds for point in self._points if not point.context_length}
        ranked = sorted(known, key=lambda width: known[width] / width)
        best = [width for width in ranked if width <= MAX_DEEP_WIDTH][:NUM_BEST]
        widths = sorted({1, *(width for width in DEEP_WIDTHS if width in known), *best})
        samples: dict[int, list[float]] = {}
        for _ in range(DEEP_ROUNDS):
            for width in widths:
                late = self.clock() + known.get(width, self._step) > end
                if samples.get(1) and (late or self.should_stop()):
                    return samples
                samples.setdefault(width, []).append(self._time(width))
        return samples
