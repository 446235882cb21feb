"""Chats of the corpus as rows of token ids, with the tokens that are learned marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from models import corpus, tokenizer
from models.corpus_words import Draw

# How often a turn is followed by one of random tokens, and how many of these are rare ones: a token
# that only held-out names have would be unlearned by every step that it is not in.
TOKENS_SHARE, RARE_SHARE = 0.3, 0.8
RARE_COUNT, NUM_COUNTED = 2, 3000


@dataclass(slots=True)
class Row:
    """Token ids of a chat so far; a token with weight 1 is one to learn."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, role: str, text: str, *, every: int = 1) -> None:
        """Adds a turn; each `every`th of its tokens is learned, and where all are, its end."""
        self._add(role, tokenizer.encode(text), every)

    def add_tokens(self, ids: list[int]) -> None:
        """Adds a question to repeat tokens of any kind, and the answer."""
        self._add(tokenizer.USER, [*tokenizer.encode("Repeat: "), *ids], len(ids) + 9)
        self._add(tokenizer.ASSISTANT, ids, 1)

    def _add(self, role: str, encoded: list[int], every: int) -> None:
        special = tokenizer.special_ids()
        self.ids += [special[role], *encoded, special[tokenizer.END]]
        learned = [float(number % every == every - 1) for number in range(len(encoded))]
        self.weights += [0.0, *learned, float(every == 1)]


def chat_row(seed: int, index: int, length: int, *, prompt_every: int) -> Row:
    """At least the first `length` tokens of chat number `index`.

    Answers are learned whole, of what users say each `prompt_every`th token.
    """
    row = Row()
    if (system := corpus.system_text(seed, index)) is not None:
        row.add(tokenizer.SYSTEM, system, every=prompt_every)
    draw = Draw(f"tokens:{seed}:{index}")
    for question, answer in _turns(corpus.chat(seed, index)):
        row.add(tokenizer.USER, question, every=prompt_every)
        row.add(tokenizer.ASSISTANT, answer)
        if draw.chance(TOKENS_SHARE):
            row.add_tokens([_any_token(draw) for _ in range(draw.integer(1, 12))])
        if len(row.ids) > length:
            return row
    raise AssertionError("a chat has no end")


def _any_token(draw: Draw) -> int:
    if draw.chance(RARE_SHARE):
        return draw.one(rare_tokens())
    return draw.integer(0, tokenizer.NUM_TOKENS - len(tokenizer.SPECIAL) - 1)


@cache
def rare_tokens() -> tuple[int, ...]:
    """Ids of the ordinary tokens that a sample of the corpus has less than twice."""
    counts = np.zeros(tokenizer.NUM_TOKENS - len(tokenizer.SPECIAL), np.int64)
    for ids in tokenizer.encode_batch(list(tokenizer.texts(NUM_COUNTED))):
        np.add.at(counts, ids, 1)
    return tuple(np.flatnonzero(counts < RARE_COUNT).tolist())


def held_out_row(kind: str, number: int) -> Row:
    """A held-out example of a kind, of which only the answers count."""
    row = Row()
    for question, answer in corpus.example(kind, f"validation:{number}", held_out=True).turns:
        row.add(tokenizer.USER, question, every=len(question) + 1)
        row.add(tokenizer.ASSISTANT, answer)
    return row


def stack(rows: Iterable[Row], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int64 and weights float32, both [rows, length], cut off or filled with weight 0."""
    chosen = list(rows)
    ids = np.zeros((len(chosen), length), np.int64)
    weights = np.zeros((len(chosen), length), np.float32)
    for number, row in enumerate(chosen):
        size = min(length, len(row.ids))
        ids[number, :size] = row.ids[:size]
        weights[number, :size] = row.weights[:size]
    return ids, weights


def _turns(examples: Iterator[corpus.Example]) -> Iterator[corpus.Turn]:
    for example in examples:
        yield from example.turns
