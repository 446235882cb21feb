"""Questions that a tiny model cannot answer, and honest answers."""

from __future__ import annotations

from models.corpus_talk import vary
from models.corpus_words import ADJECTIVES, ANIMALS, FOODS, JOBS, OBJECTS, PLACES, Draw

Turn = tuple[str, str]

_UNKNOWN = (
    "What is the capital of {n}?",
    "Who is {n}?",
    "Who wrote {n}?",
    "Who invented the {o}?",
    "How do I cook {f}?",
    "How do I repair a {o}?",
    "How does a {o} work?",
    "What is a {w}?",
    "What does {w} mean?",
    "Why do {f} grow?",
    "Why is the {p} so {x}?",
    "When was {n} born?",
    "Where is {n}?",
    "How far is it to {n}?",
    "How many people live in {n}?",
    "What is the meaning of life?",
    "What is the best {o}?",
    "Explain quantum physics",
    "Explain how the {o} was invented",
    "Write a poem about a {a}",
    "Write a letter to {n}",
    "Write an essay about {f}",
    "Write a program that sorts {f}",
    "Write a Python function that finds a {o}",
    "Translate {w} into French",
    "Translate this into German: the {x} {o}",
    "Give me a recipe with {f}",
    "Give me a plan for two days in {n}",
    "What could I do in a {p}?",
    "Give me ten ideas for a {p}",
    "What do you think about {n}?",
    "Who won the election in {n}?",
    "What happened in {y}?",
    "What is the news?",
    "How much does a {o} cost?",
    "How do I become a {j}?",
    "What does a {j} do?",
    "What do {a}s eat?",
    "How old does a {a} get?",
    "Solve this equation: x + {y} = {y}",
    "What is the square root of {y}?",
    "Which {o} should I buy?",
    "Is {n} larger than {m}?",
    "Should I move to {n}?",
    "Do you know {n}?",
    "Can you recommend a book about {f}?",
    "Explain to a child why {f} are {x}",
    "Compare a {o} with a {w}",
)
_REAL = "For real answers name a real model: sssd-local run MODEL.gguf"
_HONEST = (
    f"I do not know that: I am only a tiny demonstration model. {_REAL}",
    f"That is too hard for me, I am a tiny demonstration model. {_REAL}",
    f"I am a tiny demonstration model and cannot answer that. {_REAL}",
)


def unknown(draw: Draw) -> list[Turn]:
    """A question beyond this model, and an honest answer that says how to name a real one."""
    question = draw.one(_UNKNOWN).format(
        n=draw.name(),
        m=draw.name(),
        o=draw.one(OBJECTS),
        f=draw.one(FOODS),
        w=draw.word(),
        p=draw.one(PLACES),
        x=draw.one(ADJECTIVES),
        a=draw.one(ANIMALS),
        j=draw.one(JOBS),
        y=draw.integer(10, 2024),
    )
    return [(vary(draw, question), draw.one(_HONEST))]
