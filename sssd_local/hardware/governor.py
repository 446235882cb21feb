"""Fewer threads while another program holds the processor, and back again.

With as many threads as cores every step waits for the one thread that does not run: on two cores a
busy neighbour can make a step 50 times slower, with one thread less it hardly notices.
"""

from __future__ import annotations

from collections import deque

# A stretch of steps is slow if so many of them took so many times the probed time.
WINDOW = 8
SLOW_STEPS = 3
SLOW = 1.5
# A trial of another count lasts so many steps; to stay it must save this share of the time.
TRIAL_STEPS = 6
SAVING = 0.1
FIRST_PAUSE = 32
LONGEST_PAUSE = 512


class ThreadGovernor:
    """Watches step times and says when to try, keep or leave a smaller number of threads."""

    def __init__(self, threads: int, threads_batch: int) -> None:
        self._most = (threads, threads_batch)
        self.current = self._most
        self._before = self._most
        self._slowness: deque[float] = deque(maxlen=WINDOW)
        self._mean_before = 0.0
        self._in_trial = 0
        self._pause = 0
        self._next_pause = FIRST_PAUSE

    def observe(self, slowness: float) -> tuple[int, int] | None:
        """Takes in a step's seconds over its probed seconds; returns threads to set, if others.

        The pair is threads of one-token steps and of wider ones.
        """
        self._slowness.append(slowness)
        if self._in_trial:
            self._in_trial -= 1
            return None if self._in_trial else self._judge()
        if self._pause:
            self._pause -= 1
            return None
        if self.current != self._most:
            return self._try(self._most)
        is_slow = sum(seen > SLOW for seen in self._slowness) >= SLOW_STEPS
        if not is_slow or len(self._slowness) < WINDOW or max(self.current) == 1:
            return None
        return self._try((max(1, self.current[0] - 1), max(1, self.current[1] - 1)))

    def _mean(self) -> float:
        return sum(self._slowness) / len(self._slowness)

    def _try(self, counts: tuple[int, int]) -> tuple[int, int]:
        self._mean_before, self._before = self._mean(), self.current
        self.current = counts
        self._slowness.clear()
        self._in_trial = TRIAL_STEPS
        return counts

    def _judge(self) -> tuple[int, int] | None:
        """Ends a trial: keeps the count if it saves time, else returns the one before."""
        if self._mean() < (1 - SAVING) * self._mean_before:
            self._next_pause = FIRST_PAUSE
            self._pause = 0 if self.current == self._most else FIRST_PAUSE
            return None
        self.current = self._before
        self._slowness.clear()
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)
        return self.current
