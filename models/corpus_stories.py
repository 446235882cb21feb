"""Short stories about an animal or a person who misses, looks for and finds something."""

from __future__ import annotations

from models.corpus_words import ADJECTIVES, ANIMALS, COLOURS, JOBS, OBJECTS, PLACES, Draw

Turn = tuple[str, str]
# Of whom nobody asked to hear: few, as the likeliest of very many names is none of them.
NAMES = ("Mia", "Leo", "Anna", "Ben", "Rosa", "Tom")


def story(draw: Draw) -> list[Turn]:
    """A story of six to nine sentences; hero, thing and place may be asked for."""
    hero, friend = draw.some(NAMES, 2)
    kind = draw.one((draw.one(ANIMALS), draw.one(JOBS)))
    thing, place = draw.one(OBJECTS), draw.one(PLACES)
    ask = draw.one(("Tell me a story", "Write a short story", "Tell a story", "A story, please"))
    named, has_thing, has_place = draw.chance(0.7), draw.chance(0.5), draw.chance(0.4)
    about = ""
    if named:
        hero = draw.one([name for name in draw.names(2) if name != friend])
        about = f" about {_article(kind)} named {hero}"
    elif draw.chance(0.25):
        about = f" about {_article(kind)}"
    if has_thing:
        about += f"{' and' if about else ' about'} a {thing}"
    if has_place:
        about += f" in the {place}"
    answer = _tell(draw, hero, friend, kind, thing, place)
    turns = [(f"{ask}{about}.", answer)]
    if draw.chance(0.3):
        asked = draw.one(
            (
                ("Who is the story about?", f"It is about {_article(kind)} named {hero}."),
                ("What is the name of the friend?", f"The friend is named {friend}."),
                ("What was lost?", f"The {thing} was lost."),
            )
        )
        turns.append(asked)
    return turns


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _tell(draw: Draw, hero: str, friend: str, kind: str, thing: str, place: str) -> str:
    other, colour = draw.one(ANIMALS), draw.one(COLOURS)
    first, second = draw.some(ADJECTIVES, 2)
    spot = draw.one([p for p in PLACES if p != place])
    parts = [
        (
            f"Once upon a time there was {_article(kind)} named {hero}.",
            f"{hero} was {_article(first)} {kind} who lived near the {place}.",
            f"In the {place} there lived {_article(kind)} named {hero}.",
        ),
        (
            f"{hero} had a {colour} {thing} and loved it more than anything.",
            f"The best thing {hero} had was a {colour} {thing}.",
            f"Every evening {hero} looked at the {colour} {thing} and smiled.",
        ),
        (
            f"One morning the {thing} was gone.",
            f"But one day {hero} could not find the {thing}.",
            f"Then a storm came, and the {thing} was lost.",
        ),
        (
            f"{hero} looked in the {place} and behind the {spot}, but it was not there.",
            f"{hero} searched the whole {place} until it was dark.",
            f'"Where can it be?" asked {hero}, and nobody knew.',
        ),
        (
            f"Then {hero} met {_article(other)} named {friend}.",
            f"On the way to the {spot} {hero} met {friend}, {_article(second)} {other}.",
        ),
        (
            f'"I will help you," said {friend}.',
            f'"I saw a {colour} {thing} at the {spot}," said {friend}.',
            f'{friend} listened and said: "Let us look for it together."',
        ),
        (
            f"Together they walked to the {spot}, and there was the {thing}.",
            f"They looked under every stone, and at last {friend} found the {thing}.",
        ),
        (
            f"{hero} was so happy that they danced all night.",
            f'"Thank you, {friend}," said {hero}, and they shared a cake.',
            f"{hero} gave {friend} a warm hug.",
        ),
        (
            f"From that day on {hero} and {friend} were friends.",
            f"And whenever {hero} looked at the {thing}, it was a reminder of {friend}.",
            "And so the day ended well.",
        ),
    ]
    chosen = [draw.one(part) for part in parts]
    if draw.chance(0.3):
        del chosen[3]
    return " ".join(chosen)
