"""The text the embedded model learns from: chats drawn by grammars and templates, without end.

Chat number `index` of a seed is always the same, so training can go on anywhere without state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from models import (
    corpus_arithmetic,
    corpus_code,
    corpus_facts,
    corpus_quote,
    corpus_records,
    corpus_settings,
    corpus_stories,
    corpus_talk,
    corpus_unknown,
)
from models.corpus_words import Draw

Turn = tuple[str, str]

# How often each kind of example is drawn; those of code are four times as long as sums.
KINDS: dict[str, tuple[Callable[[Draw], list[Turn]], float]] = {
    "copy": (corpus_quote.copy, 3),
    "quote": (corpus_quote.quote, 24),
    "summary": (corpus_quote.summary, 4),
    "addition": (corpus_arithmetic.addition, 7),
    "arithmetic": (corpus_arithmetic.other, 18),
    "json": (corpus_records.json_record, 5),
    "records": (corpus_records.other, 8),
    "code": (corpus_code.edit, 32),
    "swap": (corpus_code.swap, 10),
    "settings": (corpus_settings.settings, 14),
    "story": (corpus_stories.story, 8),
    "talk": (corpus_talk.talk, 12),
    "facts": (corpus_facts.facts, 7),
    "unknown": (corpus_unknown.unknown, 5),
}
SYSTEM_TEXTS = (
    "You are a helpful assistant.",
    "You are a small and friendly assistant.",
    "Answer briefly.",
    "You are tiny, the demonstration model of sssd-local.",
    "Be polite and answer in English.",
)


@dataclass(frozen=True, slots=True)
class Example:
    """One or more turns on one matter; each turn is what the user says and the right answer."""

    kind: str
    turns: tuple[Turn, ...]


def example(kind: str, seed: str, *, held_out: bool = False) -> Example:
    """The example of this kind that belongs to a seed, from the training or held-out part."""
    make, _ = KINDS[kind]
    return Example(kind, tuple(make(Draw(f"{kind}:{seed}", held_out=held_out))))


def chat(seed: int, index: int, *, held_out: bool = False) -> Iterator[Example]:
    """The examples of one chat, without end: take as many as fit."""
    draw = Draw(f"chat:{seed}:{index}")
    weights = [weight for _, weight in KINDS.values()]
    number = 0
    while True:
        kind = draw.random.choices(list(KINDS), weights)[0]
        yield example(kind, f"{seed}:{index}:{number}", held_out=held_out)
        number += 1


def system_text(seed: int, index: int) -> str | None:
    """What the chat's system turn says, where it has one."""
    draw = Draw(f"system:{seed}:{index}")
    return draw.one(SYSTEM_TEXTS) if draw.chance(0.2) else None
