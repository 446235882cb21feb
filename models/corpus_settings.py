"""Settings files, and changes of some values with the whole file repeated."""

from __future__ import annotations

import json

from models.corpus_words import Draw

Turn = tuple[str, str]
Value = str | int | bool | list[str]
Settings = dict[str, Value]


def settings(draw: Draw) -> list[Turn]:
    """A file of settings, JSON or `key = value`, with one to three values changed."""
    keys = draw.identifiers(draw.integer(2, 8))
    before: Settings = {key: _value(draw) for key in keys}
    changed = draw.some(keys, min(len(keys), draw.one((1, 1, 1, 2, 3))))
    after = dict(before)
    for key in changed:
        while str(after[key]) == str(before[key]):
            after[key] = not before[key] if isinstance(before[key], bool) else _plain_value(draw)
    orders = [_order(draw, key, before[key], after[key]) for key in changed]
    joined = orders[0] if len(orders) == 1 else f"{', '.join(orders[:-1])} and {orders[-1]}"
    task = joined[0].upper() + joined[1:]
    style = draw.random.random()
    if style < 0.3:
        shown, answer = _lines(before), _lines(after)
    else:
        group = draw.identifier() if draw.chance(0.25) else None
        indent = 2 if style < 0.6 else None
        shown = json.dumps(_grouped(before, group), indent=indent)
        answer = json.dumps(_grouped(after, group), indent=indent)
        if draw.chance(0.3):
            task += ". Give back the whole file as JSON only"
    if "." not in task and draw.chance(0.4):
        task += draw.one((" in this file", " in these settings"))
    if draw.chance(0.2):
        return [(f"Here is a settings file. {task}.\n\n{shown}", answer)]
    return [(f"{task}:\n\n{shown}", answer)]


def _order(draw: Draw, key: str, before: Value, after: Value) -> str:
    """The instruction to change one value, by the key or its words."""
    name = f"`{key}`" if draw.chance(0.7) or not key.islower() else f"the {key.replace('_', ' ')}"
    if isinstance(after, bool) and isinstance(before, bool) and draw.chance(0.6):
        return f"turn {name} {'on' if after else 'off'}"
    return f"{draw.one(('set', 'set', 'change'))} {name} to {json.dumps(after)}"


def _value(draw: Draw) -> Value:
    if draw.chance(0.08):
        return [draw.word() for _ in range(draw.integer(1, 3))]
    return _plain_value(draw)


def _plain_value(draw: Draw) -> Value:
    kind = draw.random.random()
    if kind < 0.4:
        return int(draw.number(1, 2000))
    return draw.chance(0.5) if kind < 0.6 else draw.one((draw.word(), draw.name()))


def _grouped(values: Settings, group: str | None) -> dict[str, Value | Settings]:
    """The settings with the second half under a key of its own, where a group is named."""
    if group is None or group in values:
        return dict(values)
    half = list(values)[len(values) // 2 :]
    outer: dict[str, Value | Settings] = {k: v for k, v in values.items() if k not in half}
    return {**outer, group: {key: values[key] for key in half}}


def _lines(values: Settings) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
