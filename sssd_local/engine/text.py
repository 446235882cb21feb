"""Tokens to text: whole UTF-8 characters only, and stop strings found across token borders."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

from sssd_local.errors import ConfigError


class TextAssembler:
    """Joins the bytes of tokens into text that is safe to show.

    `push` takes one token's bytes and returns the text that it releases, "" while everything is
    held back. Held back are the bytes of an unfinished character and the longest end of the text
    that may still become one of the `stop` strings. The released text depends only on the bytes,
    not on how they are grouped. The stop string completed first wins; of two completed by the
    same character the longer one. Raises ConfigError for an empty stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._automaton = _StopAutomaton(stop)
        self._has_stop = bool(stop)
        self._state = 0
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete; nothing is released afterwards."""
        return self._stopped

    def push(self, piece: bytes) -> str:
        """Text released by the next token, whose bytes are `piece`; bad UTF-8 becomes U+FFFD."""
        if self._stopped:
            return ""
        text = self._decoder.decode(piece)
        return self._until_stop(text) if self._has_stop else text

    def finish(self) -> str:
        """Text still held back at the end of the answer, without an unfinished character."""
        rest, self._held, self._state = self._held, "", 0
        self._decoder.reset()
        return rest

    def _until_stop(self, text: str) -> str:
        state, step, matched = self._state, self._automaton.step, self._automaton.matched
        for index, character in enumerate(text):
            state = step(state, character)
            if matched[state]:
                seen = self._held + text[: index + 1]
                self._stopped, self._held = True, ""
                return seen[: len(seen) - matched[state]]
        seen = self._held + text
        released = len(seen) - self._automaton.depth[state]
        self._state, self._held = state, seen[released:]
        return seen[:released]


class _StopAutomaton:
    """Aho–Corasick automaton: a state is the longest end of the text that begins a stop string.

    `depth[state]` is the length of that end and `matched[state]` the length of the longest stop
    string that is complete at its last character, 0 for none (Aho & Corasick 1975, CACM 18(6)).
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self.depth = [0]
        self.matched = [0]
        for text in stop:
            self._insert(text)
        self._link()

    def step(self, state: int, character: str) -> int:
        """The state after one more character; amortised O(1)."""
        children = self._children
        while state and character not in children[state]:
            state = self._fallback[state]
        return children[state].get(character, 0)

    def _insert(self, text: str) -> None:
        if not text:
            raise ConfigError("stop must be texts that are not empty, got ''")
        state = 0
        for character in text:
            following = self._children[state].get(character)
            if following is None:
                following = len(self._children)
                self._children[state][character] = following
                self._children.append({})
                self._fallback.append(0)
                self.depth.append(self.depth[state] + 1)
                self.matched.append(0)
            state = following
        self.matched[state] = len(text)

    def _link(self) -> None:
        waiting = deque(self._children[0].values())
        while waiting:
            state = waiting.popleft()
            for character, child in self._children[state].items():
                self._fallback[child] = self.step(self._fallback[state], character)
                self.matched[child] = self.matched[child] or self.matched[self._fallback[child]]
                waiting.append(child)
