"""Tells a model's thinking, `<think>…</think>` before its answer, from the answer itself."""

from __future__ import annotations

from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text, the source of its token, and whether the model is thinking."""

    text: str
    source: str
    thinking: bool = False


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt ends inside thinking, as some templates make it."""
    return prompt.rstrip().endswith(OPEN)


class ThinkSplitter:
    """Splits an answer that arrives in pieces; the tags count as thinking.

    Only thinking at the beginning is told apart: an answer may well talk about the tag. What may
    still become a tag is held back until `finish`. `inside`: the prompt has opened the tag.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._held: list[Segment] = []
        self._state = "thinking" if inside else "start"

    def feed(self, text: str, source: str) -> list[Segment]:
        """The segments that the next piece releases."""
        if not text:
            return []
        if self._state == "answer":
            return [Segment(text, source)]
        self._held.append(Segment(text, source))
        joined = "".join(segment.text for segment in self._held)
        if self._state == "start":
            begin = joined.lstrip()
            if len(begin) < len(OPEN) and OPEN.startswith(begin):
                return []
            self._state = "thinking" if begin.startswith(OPEN) else "answer"
        if self._state == "answer":
            return self._release(len(joined), thinking=False)
        end = joined.find(CLOSE)
        if end < 0:
            return self._release(len(joined) - _overlap(joined, CLOSE), thinking=True)
        self._state = "answer"
        thought = self._release(end + len(CLOSE), thinking=True)
        return thought + self._release(len(joined), thinking=False)

    def finish(self) -> list[Segment]:
        """What is still held back when the answer ends."""
        size = sum(len(segment.text) for segment in self._held)
        return self._release(size, thinking=self._state == "thinking")

    def _release(self, size: int, *, thinking: bool) -> list[Segment]:
        """Takes up to `size` characters off what is held."""
        released: list[Segment] = []
        while self._held and size > 0:
            first = self._held.pop(0)
            text, rest = first.text[:size], first.text[size:]
            released.append(Segment(text, first.source, thinking))
            size -= len(text)
            if rest:
                self._held.insert(0, Segment(rest, first.source))
        return released


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of the text that begins the tag."""
    sizes = range(min(len(tag) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(tag[:size])), 0)
