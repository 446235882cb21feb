"""JSON records, tables and lists made from a given text, and changed lists."""

from __future__ import annotations

import json
from collections.abc import Callable

from models.corpus_words import COLOURS, DAYS, FOODS, JOBS, MONTHS, OBJECTS, PLACES, Draw

Turn = tuple[str, str]
Record = dict[str, str | int | bool]

# For each kind of record its keys and, for each key, sentences that say it; "{0}" is the name.
_SAID: dict[str, dict[str, tuple[str, ...]]] = {
    "person": {
        "age": ("{0} is {1} years old.", "{0} is {1}.", "The age of {0} is {1}."),
        "city": ("{0} lives in {1}.", "{0} is from {1}.", "{0} has a house in {1}."),
        "job": ("{0} works as a {1}.", "{0} is a {1}.", "The job of {0} is {1}."),
        "colour": ("{0} likes the colour {1}.", "The favourite colour of {0} is {1}."),
        "friend": ("{0} is a friend of {1}.", "The best friend of {0} is {1}."),
        "active": ("{0} is {1}.", "At the moment {0} is {1}."),
        "phone": ("The phone number of {0} is {1}.", "{0} has the phone number {1}."),
    },
    "product": {
        "price": ("{0} costs {1} euros.", "The price of {0} is {1} euros."),
        "colour": ("{0} is {1}.", "The colour of {0} is {1}."),
        "stock": ("There are {1} of {0} in stock.", "The shop has {1} of {0}."),
        "maker": ("{0} is made by {1}.", "The maker of {0} is {1}."),
        "weight": ("{0} weighs {1} grams.", "The weight of {0} is {1} grams."),
    },
    "event": {
        "day": ("{0} is on {1}.", "{0} takes place on {1}."),
        "place": ("{0} is held in the {1}.", "The place of {0} is the {1}."),
        "guests": ("{1} guests come to {0}.", "{0} has {1} guests."),
        "host": ("{1} is the host of {0}.", "{0} is organised by {1}."),
        "month": ("{0} is in {1}.", "{0} happens in {1}."),
    },
}


def _values(draw: Draw, kind: str) -> Record:
    makers: dict[str, Callable[[], str | int | bool]] = {
        "active": lambda: draw.chance(0.5),
        "age": lambda: draw.integer(5, 99),
        "city": draw.name,
        "job": lambda: draw.one(JOBS),
        "colour": lambda: draw.one(COLOURS),
        "friend": draw.name,
        "phone": lambda: int(draw.number(1000, 99999)),
        "price": lambda: draw.integer(1, 999),
        "stock": lambda: draw.integer(0, 500),
        "maker": draw.name,
        "weight": lambda: int(draw.number(100, 5000)),
        "day": lambda: draw.one(DAYS),
        "place": lambda: draw.one(PLACES),
        "guests": lambda: draw.integer(2, 300),
        "host": draw.name,
        "month": lambda: draw.one(MONTHS),
    }
    return {key: makers[key]() for key in _SAID[kind]}


def _title(draw: Draw, kind: str) -> str:
    if kind == "person":
        return f"{draw.name()} {draw.name()}" if draw.chance(0.4) else draw.name()
    if kind == "product":
        return f"the {draw.name()} {draw.one(OBJECTS)}"
    return f"the {draw.name()} {draw.one(('party', 'meeting', 'concert', 'fair', 'market'))}"


def _bare(title: str) -> str:
    return title.removeprefix("the ")


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _say(draw: Draw, kind: str, title: str, key: str, value: object) -> str:
    return _upper_first(draw.one(_SAID[kind][key]).format(title, _shown(value)))


def _shown(value: object) -> str:
    """A value as people write it; the only truth value is "active"."""
    return ("active" if value else "not active") if isinstance(value, bool) else str(value)


def json_record(draw: Draw) -> list[Turn]:
    """A JSON object, or an array of objects, with the asked-for keys."""
    kind = draw.one(list(_SAID))
    if draw.chance(0.3):
        return _json_list(draw, kind)
    title, values = _title(draw, kind), _values(draw, kind)
    told = draw.some(list(values), draw.integer(2, 4))
    asked = draw.some(told, draw.integer(2, len(told)) if draw.chance(0.3) else len(told))
    text = " ".join(_say(draw, kind, title, key, values[key]) for key in told)
    record: Record = {"name": _bare(title), **{key: values[key] for key in asked}}
    keys = _enumerate(list(record))
    task = draw.one(
        (
            "Write a JSON record with the keys {keys} from this text:\n\n{text}",
            "Turn this text into JSON with the keys {keys}:\n\n{text}",
            "Extract {keys} as JSON:\n\n{text}",
            "Make a JSON object with {keys} from this:\n\n{text}",
            "{text}\n\nGive me {keys} as JSON.",
            "JSON with {keys}, please:\n\n{text}",
            "Turn this text into JSON with the keys {keys}. Answer with JSON only.\n\n{text}",
        )
    )
    return [(task.format(keys=keys, text=text), json.dumps(record))]


def _json_list(draw: Draw, kind: str) -> list[Turn]:
    rows, keys = _rows(draw, kind, draw.integer(2, 4), draw.integer(1, 3))
    lines = "\n".join("- " + ", ".join(_shown(value) for value in row.values()) for row in rows)
    task = draw.one(
        (
            "Turn this list into a JSON array of objects with the keys {keys}:\n\n{lines}",
            "Turn this list into a JSON array of objects with the keys {keys}. "
            "Answer with JSON only.\n\n{lines}",
            "Write this list as a JSON array with the keys {keys}:\n\n{lines}",
        )
    )
    return [(task.format(keys=_enumerate(keys), lines=lines), json_lines(rows))]


def json_lines(rows: list[Record]) -> str:
    """A JSON array with one object on each line."""
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]"


def _rows(draw: Draw, kind: str, num_rows: int, num_keys: int) -> tuple[list[Record], list[str]]:
    chosen = draw.some(list(_SAID[kind]), num_keys)
    rows: list[Record] = []
    for title in dict.fromkeys(_bare(_title(draw, kind)) for _ in range(num_rows)):
        values = _values(draw, kind)
        rows.append({"name": title, **{key: values[key] for key in chosen}})
    return rows, ["name", *chosen]


def other(draw: Draw) -> list[Turn]:
    """A table, a list from a text, or a list with an item more, less or changed."""
    return draw.one((_table, _bullets, _list_change, _list_change, _sentence_of))(draw)


def _table(draw: Draw) -> list[Turn]:
    kind = draw.one(list(_SAID))
    rows, keys = _rows(draw, kind, draw.integer(2, 4), draw.integer(1, 2))
    if draw.chance(0.5):
        given = "\n".join(", ".join(_shown(value) for value in row.values()) for row in rows)
    else:
        given = json_lines(rows)
    head = f"| {' | '.join(keys)} |\n|{'---|' * len(keys)}"
    lines = [f"| {' | '.join(_shown(value) for value in row.values())} |" for row in rows]
    task = draw.one(
        (
            "Make a table with the columns {keys}:\n\n{given}",
            "Turn this into a table with {keys}:\n\n{given}",
            "Write this as a Markdown table with the columns {keys}:\n\n{given}",
        )
    )
    return [(task.format(keys=_enumerate(keys), given=given), "\n".join([head, *lines]))]


def _items(draw: Draw, fewest: int = 3) -> list[str]:
    pool = draw.one((OBJECTS, FOODS, PLACES, COLOURS))
    count = draw.integer(fewest, 7)
    if draw.chance(0.4):
        return draw.names(count)
    return draw.some(pool, count)


def _bullets(draw: Draw) -> list[Turn]:
    items = _items(draw)
    numbered = draw.chance(0.4)
    given = draw.one((", ".join(items), _enumerate(items)))
    lines = [f"{i}. {item}" if numbered else f"- {item}" for i, item in enumerate(items, 1)]
    task = draw.one(("Make a {kind} list of: ", "Write as a {kind} list: ", "A {kind} list of "))
    name = "numbered" if numbered else draw.one(("bullet", "bulleted"))
    return [(task.format(kind=name) + given, "\n".join(lines))]


def _list_change(draw: Draw) -> list[Turn]:
    items = _items(draw)
    shown = "\n".join(f"- {item}" for item in items)
    change, new = draw.random.random(), draw.one((draw.name(), draw.word()))
    if change < 0.4:
        task, items = f"Add {new} to this list", [*items, new]
    elif change < 0.7:
        gone = draw.one(items)
        task, items = f"Remove {gone} from this list", [i for i in items if i != gone]
    else:
        old = draw.one(items)
        task, items = (
            f"Replace {old} by {new} in this list",
            [new if i == old else i for i in items],
        )
    answer = "\n".join(f"- {item}" for item in items)
    turns = [(f"{task}:\n\n{shown}", answer)]
    if draw.chance(0.3):
        more = draw.name()
        turns.append((f"Now add {more}.", f"{answer}\n- {more}"))
    return turns


def _sentence_of(draw: Draw) -> list[Turn]:
    kind = draw.one(list(_SAID))
    title, values = _title(draw, kind), _values(draw, kind)
    keys = draw.some(list(values), draw.integer(1, 3))
    record = {"name": _bare(title), **{key: values[key] for key in keys}}
    said = [_upper_first(_SAID[kind][key][0].format(title, _shown(values[key]))) for key in keys]
    task = draw.one(("Say this in words:\n\n", "Write this JSON as sentences:\n\n"))
    return [(task + json.dumps(record), " ".join(said))]


def _enumerate(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
