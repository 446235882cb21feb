"""Repeating, quoting, summarising and answering from a given text."""

from __future__ import annotations

from collections.abc import Callable

from models.corpus_words import (
    ADJECTIVES,
    ANIMALS,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    MONTHS,
    OBJECTS,
    PLACES,
    Draw,
)

Turn = tuple[str, str]

_SENTENCES = (
    "{n} bought a {c} {o} at the market in {t}.",
    "{n} found a {c} {o} behind the {p}.",
    "{n} works as a {j} in {t} since {m}.",
    "{n} and {n2} walked to the {p} on {d}.",
    "{n} lost the {o} near the {p} of {t}.",
    "The {p} of {t} was built in {y} by {n}.",
    "The {a} of {n} sleeps under the {o}.",
    "On {d} {n} sold {k} {f} to {n2}.",
    "In {m} the {j} {n} moved from {t} to {t2}.",
    "{n} wrote a letter to {n2} about the {x} {p}.",
    "{t} has {k} streets and a {x} {p}.",
    "{n} said that the {o} is too {x}.",
    "Every {d} {n} brings {k} {f} to the {p}.",
    "{n} repaired the {x} {o} for {n2}.",
    "The club decided to paint the {p} {c}.",
    "{n} is the youngest {j} in {t}.",
    "{n2} gave {n} a {x} {o} and {k} coins.",
    "The lamp in the {p} was replaced in {y}.",
    "A {x} {a} lives in the {p} near {t}.",
    "{n} pays {k} euros for the {o}.",
    "The meeting with {n} starts in the {p} at {h}.",
    "For {k} years {n} kept the {o} in the {p}.",
)
_ORDINALS = ("first", "second", "third")


def sentence(draw: Draw, name: str | None = None) -> str:
    """A sentence about someone or something, with `name` as its first name where it is given."""
    return draw.one(_SENTENCES).format(
        n=name or draw.name(),
        n2=draw.name(),
        t=draw.name(),
        t2=draw.name(),
        c=draw.one(COLOURS),
        o=draw.one(OBJECTS),
        p=draw.one(PLACES),
        j=draw.one(JOBS),
        m=draw.one(MONTHS),
        d=draw.one(DAYS),
        a=draw.one(ANIMALS),
        f=draw.one(FOODS),
        x=draw.one(ADJECTIVES),
        k=draw.integer(2, 250),
        y=draw.number(1200, 2024),
        h=f"{draw.integer(1, 12)} o'clock",
    )


def copy(draw: Draw) -> list[Turn]:
    """Repeating words, names, numbers or a line exactly: what every other kind builds on."""
    makers: list[Callable[[], str]] = [
        draw.word,
        draw.name,
        draw.number,
        draw.identifier,
        lambda: draw.one(OBJECTS),
    ]
    if draw.chance(0.35):
        makers = [draw.one(makers)]
    text = draw.one((" ", " ", ", ")).join(
        draw.one(makers)() for _ in range(draw.integer(1, draw.one((4, 12))))
    )
    if draw.chance(0.2):
        text = sentence(draw)
    asked = draw.one(
        (
            "Repeat: {text}",
            "Say: {text}",
            "Repeat after me: {text}",
            "Repeat this exactly: {text}",
            "Copy this line:\n{text}",
            "Write this again:\n\n{text}",
            'Say "{text}"',
            "Echo: {text}",
        )
    )
    turns = [(asked.format(text=text), text)]
    if draw.chance(0.15):
        turns.append((draw.one(("Again.", "Once more, please.", "Again, please.")), text))
    return turns


def quote(draw: Draw) -> list[Turn]:
    """Quoting the whole of a paragraph or one of its sentences, word for word."""
    names = draw.names(draw.integer(2, 5))
    sentences = [sentence(draw, name) for name in names]
    text = " ".join(sentences)
    kind = draw.random.random()
    if kind < 0.3:
        task = draw.one(
            (
                "Repeat this paragraph word for word",
                "Quote the whole paragraph",
                "Quote this text exactly",
                "Copy this paragraph",
                "Repeat the text below exactly",
            )
        )
        answer = text
    elif kind < 0.65:
        index = draw.integer(0, min(2, len(sentences) - 1))
        which, answer = _ORDINALS[index], sentences[index]
        if draw.chance(0.35):
            which, answer = "last", sentences[-1]
        task = draw.one(
            (f"Quote the {which} sentence", f"Repeat the {which} sentence of this text")
        )
    else:
        index = draw.integer(0, len(sentences) - 1)
        answer = sentences[index]
        only = [n for n in names if sum(n in other for other in sentences) == 1]
        known = [n for n in only if n in answer]
        if not known:
            return [(f"Quote the first sentence of this text:\n\n{text}", sentences[0])]
        task = draw.one(
            (
                "Quote the sentence about {n}",
                "Which sentence mentions {n}? Quote it",
                "Repeat the sentence with {n} in it",
                "What does the text say about {n}? Quote it",
            )
        ).format(n=known[0])
    if draw.chance(0.75):
        return [(f"{task}:\n\n{text}", answer)]
    return [(f"{text}\n\n{task}.", answer)]


def summary(draw: Draw) -> list[Turn]:
    """A summary of a text of several events, or answers to questions about it."""
    if draw.chance(0.25):
        return _leading_sentences(draw)
    name, friend, town = draw.names(3)
    thing, place, job = draw.one(OBJECTS), draw.one(PLACES), draw.one(JOBS)
    colour, month = draw.one(COLOURS), draw.one(MONTHS)
    facts = [
        f"{name} is a {job} who lives in {town}.",
        f"In {month} {name} lost a {colour} {thing} on the way to the {place}.",
        draw.one(
            (
                f"{friend} looked for it for {draw.integer(2, 30)} days.",
                f"Nobody in {town} had seen it.",
                f"The {place} was already closed, and it was getting dark.",
            )
        ),
        f"In the end {friend} found the {thing} and brought it back.",
        draw.one((f"{name} was very glad.", f"They had tea in the {draw.one(PLACES)} together.")),
    ]
    if draw.chance(0.4):
        facts.insert(draw.integer(1, 3), f"It was a {draw.one(ADJECTIVES)} and windy day.")
    text = " ".join(facts)
    if draw.chance(0.5):
        answer = f"{name}, a {job} in {town}, lost a {colour} {thing}, and {friend} found it."
        task = draw.one(
            (
                "Summarise this text in one sentence:\n\n{text}",
                "Write a short summary of this text:\n\n{text}",
                "Sum up this text:\n\n{text}",
                "Summarise this paragraph:\n\n{text}",
                "{text}\n\nSummarise this in one sentence.",
            )
        )
        return [(task.format(text=text), answer)]
    asked = {
        "Who lost something?": f"{name} lost a {colour} {thing}.",
        f"Who found the {thing}?": f"{friend} found the {thing}.",
        f"Where does {name} live?": f"{name} lives in {town}.",
        f"What is the job of {name}?": f"{name} is a {job}.",
        f"What colour was the {thing}?": f"The {thing} was {colour}.",
        "When did it happen?": f"It happened in {month}.",
    }
    questions = draw.some(list(asked), draw.integer(1, 3))
    first, *rest = questions
    turns = [(draw.one((f"{text}\n\n{first}", f"{first}\n\n{text}")), asked[first])]
    return [*turns, *((question, asked[question]) for question in rest)]


def _leading_sentences(draw: Draw) -> list[Turn]:
    """A summary of unconnected sentences can only be the first few of them."""
    sentences = [sentence(draw) for _ in range(draw.integer(3, 7))]
    count = draw.integer(1, 3)
    number = ("one sentence", "two sentences", "three sentences")[count - 1]
    task = draw.one(("Summarise this text in {n}", "Sum up this text in {n}", "Summary in {n}"))
    return [(f"{task.format(n=number)}:\n\n{' '.join(sentences)}", " ".join(sentences[:count]))]
