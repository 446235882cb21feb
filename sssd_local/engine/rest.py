"""Plain steps in a row that drafter, sizer and governor hear of together, when they are over.

A very small model takes a step in 0.2 ms. Where its drafts do not pay, telling tables and cost
model of each step would cost more than the now and then of looking again.
"""

from __future__ import annotations


class Rest:
    """How many more steps are plain without anyone being asked, and what those so far yielded."""

    def __init__(self) -> None:
        self._left = 0
        self.is_on = False
        self.tokens: list[int] = []
        self.seconds: list[float] = []

    def begin(self, num_steps: int) -> None:
        """This step and the next ones, `num_steps` in all, are plain."""
        self._left = num_steps - 1
        self.is_on = True

    def goes_on(self) -> bool:
        """Whether the step that begins now is one of them; to be asked once a step."""
        self.is_on = self._left > 0
        if self.is_on:
            self._left -= 1
        return self.is_on

    def note(self, token: int, seconds: float) -> None:
        """Takes in a step's token and the seconds it was decoded in."""
        self.tokens.append(token)
        self.seconds.append(seconds)

    def end(self) -> tuple[list[int], list[float]]:
        """Ends the rest; tokens and seconds of its steps, once."""
        self._left = 0
        self.is_on = False
        found = self.tokens, self.seconds
        self.tokens, self.seconds = [], []
        return found
