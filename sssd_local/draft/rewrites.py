"""What an answer says in place of tokens of the passage that it copies."""

from __future__ import annotations

from sssd_local.draft.context import ContextIndex
from sssd_local.draft.tree import Int32Array

MAX_SEGMENT = 8
# Tokens that must come before what is added or left out, for it to be so again.
NUM_BEFORE = 2
MAX_REWRITES = 256
# Of the same first token the newest so many are kept.
MAX_ALIKE = 8
MAX_REWRITTEN = 64
# What is copied at length is rewritten by what came true so often.
LEAST_HITS = 2


class Rewrite:
    """Tokens of the passage, what the answer had for them, and how often it did and did not.

    `before`: the tokens that must come before them, none where a token replaces another.
    """

    __slots__ = ("before", "hits", "misses", "new", "old")

    def __init__(self, before: list[int], old: list[int], new: list[int], misses: int) -> None:
        self.before = before
        self.old = old
        self.new = new
        self.hits = 1
        self.misses = misses

    @property
    def is_proven(self) -> bool:
        """Whether it came true often enough to be expected in what is copied at length."""
        return LEAST_HITS <= self.hits > self.misses


class Rewrites:
    """The rewrites of one answer; positions are those of the context's history."""

    def __init__(self, context: ContextIndex) -> None:
        self._context = context
        # By the first token replaced, and of what was added or left out by the token before.
        self._replaced: dict[int, list[Rewrite]] = {}
        self._changed: dict[int, list[Rewrite]] = {}
        self._num_rewrites = 0
        # Their keys, as far as one there is proven.
        self._proven_replaced: set[int] = set()
        self._proven_changed: set[int] = set()

    def __len__(self) -> int:
        return self._num_rewrites

    @property
    def has_proven(self) -> bool:
        """Whether there is anything to expect in what is copied at length."""
        return bool(self._proven_replaced or self._proven_changed)

    def count(self, rewrite: Rewrite, *, is_hit: bool) -> None:
        """Takes in that a rewrite came true once more, or did not."""
        rewrite.hits += is_hit
        rewrite.misses += not is_hit
        self._note(rewrite)

    def learn(self, begin: int, old: list[int], new: list[int], answer: Int32Array) -> None:
        """Keeps that the answer has `new` for the tokens `old` at a position.

        `answer` int32 [n]: what was written before that; the tokens as they were in it speak
        against the rewrite.
        """
        while old and new and old[0] == new[0]:
            begin, old, new = begin + 1, old[1:], new[1:]
        if not (old or new) or max(len(old), len(new)) > MAX_SEGMENT:
            return
        before: list[int] = []
        if not (old and new):
            before = self._context.tokens[max(0, begin - NUM_BEFORE) : begin].tolist()
        rewrite = Rewrite(before, old, new, 0)
        key, table, _ = self._place_of(rewrite)
        known = table.setdefault(key, [])
        for index, other in enumerate(known):
            if (other.before, other.old, other.new) == (before, old, new):
                rewrite = known.pop(index)
                rewrite.hits += 1
                break
        else:
            # What comes before is in the answer right here, too.
            rewrite.misses = max(0, _occurrences(before + old, answer) - (not old))
            self._num_rewrites += 1
        known.append(rewrite)
        if len(known) > MAX_ALIKE:
            del known[0]
            self._num_rewrites -= 1
        self._note(rewrite)
        if self._num_rewrites > MAX_REWRITES:
            self._drop()

    def _place_of(self, rewrite: Rewrite) -> tuple[int, dict[int, list[Rewrite]], set[int]]:
        """Its key, the table that has it, and the proven keys of that."""
        if rewrite.old and rewrite.new:
            return rewrite.old[0], self._replaced, self._proven_replaced
        return rewrite.before[-1], self._changed, self._proven_changed

    def _note(self, rewrite: Rewrite) -> None:
        """Keeps track of the proven keys once a rewrite has changed."""
        key, table, proven = self._place_of(rewrite)
        if any(other.is_proven for other in table.get(key, ())):
            proven.add(key)
        else:
            proven.discard(key)

    def _drop(self) -> None:
        """Makes room: what came true once is forgotten, or everything where that is little."""
        for table in (self._replaced, self._changed):
            for key, known in list(table.items()):
                table[key] = [rewrite for rewrite in known if rewrite.hits >= LEAST_HITS]
                if not table[key]:
                    del table[key]
        kept = [*self._replaced.values(), *self._changed.values()]
        self._num_rewrites = sum(map(len, kept))
        if 2 * self._num_rewrites > MAX_REWRITES:
            self._replaced.clear()
            self._changed.clear()
            self._proven_replaced.clear()
            self._proven_changed.clear()
            self._num_rewrites = 0

    def at(self, position: int) -> Rewrite | None:
        """What is known to stand for the tokens at a position; the longest, then the newest."""
        tokens, best = self._context.tokens, None
        known = self._replaced.get(tokens[position], ())
        if self._changed and position:
            known = [*known, *self._changed.get(tokens[position - 1], ())]
        for rewrite in known:
            first, end = position - len(rewrite.before), position + len(rewrite.old)
            if best is not None and len(rewrite.old) < len(best.old):
                continue
            if rewrite.hits <= rewrite.misses or first < 0 or end >= self._context.length:
                continue
            if tokens[first:end].tolist() == rewrite.before + rewrite.old:
                best = rewrite
        return best

    def rewritten(self, position: int) -> list[int]:
        """How the text at a position would go on, rewritten where that is proven.

        MAX_REWRITTEN tokens or a little more.
        """
        replaced, changed = self._proven_replaced, self._proven_changed
        first, end = max(0, position - 1), min(self._context.length, position + MAX_REWRITTEN)
        text: list[int] = self._context.tokens[first:end].tolist()
        index = position - first
        if replaced.isdisjoint(text) and changed.isdisjoint(text):
            return text[index:]
        found: list[int] = []
        while index < len(text):
            token = text[index]
            if token in replaced or (changed and index and text[index - 1] in changed):
                known = self.at(first + index)
                if known is not None and known.is_proven:
                    found += known.new
                    index += len(known.old)
                    if known.old:
                        continue
            found.append(token)
            index += 1
        return found

    def replaced(self, position: int) -> tuple[Rewrite, list[int]] | None:
        """The rewrite of the text at a position and how it would go on, where that differs."""
        if not self._num_rewrites or position >= self._context.length:
            return None
        known = self.at(position)
        if known is None:
            return None
        here, after = self._context.tokens[position], position + len(known.old)
        if not known.old:
            going_on = [*known.new, here, *self.rewritten(position + 1)]
        else:
            going_on = known.new + self.rewritten(after)
        return (known, going_on) if going_on and going_on[0] != here else None


def _occurrences(tokens: list[int], text: Int32Array) -> int:
    """How often some tokens stand in a text, int32 [n]."""
    if len(text) < len(tokens):
        return 0
    found = text[: len(text) - len(tokens) + 1] == tokens[0]
    for offset, token in enumerate(tokens[1:], start=1):
        found &= text[offset : len(text) - len(tokens) + 1 + offset] == token
    return int(found.sum())
