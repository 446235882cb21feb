"""Which passage of the context an answer copies, where it departs from it and where it returns.

An edited text follows the old one, writes something else for a few tokens, and follows it again.
N-grams notice the return some tokens late. The alignment expects it at once: after as many tokens
as were left out, or before the first of them. What stood for what is kept as a rewrite, so that a
name replaced once is replaced in all that is copied after.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sssd_local.draft.context import ContextIndex
from sssd_local.draft.rewrites import Rewrite, Rewrites

# Tokens that agree before a passage counts as followed, and before a departure from it counts.
LEAST_MATCH = 3
LEAST_RUN = 8
# A departure of more tokens than this is the end of the copy.
MAX_DEPARTURE = 24
# Tokens after a departure while a return to its place is offered that no token announces.
MAX_BLIND = 1
# So many tokens after a rewrite began or went on, what follows is said though nothing departed.
MAX_FRESH = 2

# How a return is expected: in place of as many tokens, before the first token left out, or after
# a token that both texts have.
IN_PLACE, BEFORE, AFTER = range(3)


class Return(NamedTuple):
    """A place where the answer may follow its passage again.

    `tokens`: how it would go on; `position`: where the first of them stands; `num_written`: tokens
    since the departure; `is_seen`: whether one token agreed again; `run`: tokens that agreed
    before.
    """

    kind: int
    tokens: list[int]
    position: int
    num_written: int
    is_seen: bool
    run: int


class Alignment:
    """The passage one answer follows; positions are those of the context's history."""

    def __init__(self, context: ContextIndex) -> None:
        self._context = context
        self.reset()

    def reset(self) -> None:
        """Starts an answer: nothing is followed, and nothing known of what is replaced."""
        self._begin = len(self._context)
        # The position of the token expected next, -1 while nothing is followed.
        self._position = -1
        self._run = 0
        # What a rewrite that began still has to say before that, where it began and what it said.
        self._rest: list[int] = []
        self._begun_at = -1
        self._said: list[int] = []
        # The history's length when a token of a rewrite came last.
        self._rewritten_at = -MAX_FRESH - 1
        # The first position that was not followed, -1 for none, and the history's length then.
        self._departed = -1
        self._departed_at = 0
        self.rewrites = Rewrites(self._context)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is followed, so that tokens without a match change nothing."""
        return self._position < 0 and self._departed < 0

    @property
    def expects_return(self) -> bool:
        """Whether the answer may return to a passage."""
        return self._departed >= 0 or self._has_just_rewritten()

    def _has_just_rewritten(self) -> bool:
        """Whether n-grams cannot know yet that a rewrite came true and the passage goes on."""
        return self._position >= 0 and self._context.length - self._rewritten_at <= MAX_FRESH

    def take(self, token: int, position: int = -1, size: int = 0) -> None:
        """Takes in the next token, before the history does.

        `position`: where the token stands after the longest earlier match of `size` tokens that
        names it; -1 if none does.
        """
        if self._position >= 0 and self._follows(token):
            return
        if self._departed >= 0 and self._returns(token):
            return
        if position >= 0 and size >= LEAST_MATCH:
            self._position, self._run, self._departed = position + 1, size + 1, -1

    def _follows(self, token: int) -> bool:
        """Whether the token is the next one of the passage or of a rewrite."""
        position, tokens = self._position, self._context.tokens
        if self._rest:
            if token == self._rest[0]:
                self._said.append(self._rest.pop(0))
                self._rewritten_at = self._context.length
                return True
            self._rest = []
        elif position < self._context.length:
            self._begun_at, self._said = -1, []
            rewrite = self.rewrites.at(position)
            if rewrite is not None and self._takes_up(rewrite, token):
                return True
            if rewrite is not None:
                self.rewrites.count(rewrite, is_hit=False)
            if token == tokens[position]:
                self._position += 1
                self._run += 1
                return True
        self._departed = position if self._run >= LEAST_RUN else -1
        self._departed_at = self._context.length
        self._position = -1
        return False

    def _takes_up(self, rewrite: Rewrite, token: int) -> bool:
        """Whether the token begins what stands for the tokens at the position."""
        after = self._position + len(rewrite.old)
        if rewrite.new:
            if token != rewrite.new[0]:
                return False
            self._rest = rewrite.new[1:]
            if not rewrite.old:
                # Then the token before which it was added, so that it is not added again.
                self._rest.append(self._context.tokens[after])
                after += 1
        elif after < self._context.length and token == self._context.tokens[after]:
            after += 1
        else:
            return False
        self.rewrites.count(rewrite, is_hit=True)
        self._rewritten_at = self._context.length
        self._begun_at, self._said = self._position, [token]
        self._position = after
        self._run += 1
        return True

    def _returns(self, token: int) -> bool:
        """Whether the last two tokens stand in the passage too; learns what was replaced."""
        tokens, length = self._context.tokens, self._context.length
        written = length - self._departed_at
        if written < 1:
            return False
        if written > MAX_DEPARTURE:
            self._departed = -1
            return False
        place = self._place_of(tokens[length - 1], token)
        if place < 0:
            return False
        # A rewrite that began and went on otherwise is part of what was replaced.
        begin = self._departed if self._begun_at < 0 else self._begun_at
        written_for = tokens[self._departed_at : length - 1].tolist()
        answer = self._context.history()[self._begin : self._departed_at]
        self.rewrites.learn(begin, tokens[begin:place].tolist(), self._said + written_for, answer)
        self._begun_at, self._said = -1, []
        self._position, self._run, self._departed = place + 2, LEAST_RUN, -1
        return True

    def _place_of(self, *sought: int) -> int:
        """Where these tokens stand in the passage after the departure, -1 if nowhere.

        The first of them is the history's last; of several places the one in its stead counts most.
        """
        tokens, size = self._context.tokens, len(sought)
        end = min(self._departed + MAX_DEPARTURE, self._departed_at) - size + 1
        usual = self._departed + self._context.length - self._departed_at - 1
        places = [
            place
            for place in range(self._departed, end)
            if tokens[place] == sought[0] and (size == 1 or tokens[place + 1] == sought[1])
        ]
        return min(places, key=lambda place: abs(place - usual), default=-1)

    def returns(self) -> Iterator[Return]:
        """Where the answer may follow its passage again, the likeliest first."""
        if self._departed < 0:
            if self._has_just_rewritten() and self._position < self._context.length:
                going_on = self._rest + self.rewrites.rewritten(self._position)
                yield Return(AFTER, going_on, self._position, 1, False, self._run)
            return
        tokens, length = self._context.tokens, self._context.length
        written = length - self._departed_at
        seen = self._place_of(tokens[length - 1])
        places = [(AFTER, seen + 1)] if seen >= 0 else []
        if written <= MAX_BLIND:
            places += [(IN_PLACE, self._departed + written), (BEFORE, self._departed)]
        for kind, place in places:
            if place < self._departed_at:
                # Not what was known to stand there: the answer has just written something else.
                going_on = [tokens[place], *self.rewrites.rewritten(place + 1)]
                yield Return(kind, going_on, place, written, seen >= 0, self._run)
