"""Arithmetic on small numbers, worked out step by step."""

from __future__ import annotations

from models.corpus_words import FOODS, OBJECTS, Draw, is_held_out

Turn = tuple[str, str]

_ADD = (
    "What is {a} + {b}?",
    "{a} + {b}",
    "{a} + {b} = ?",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "Calculate {a} + {b}.",
    "How much is {a} + {b}?",
    "Please add {a} and {b} step by step.",
    "What is the sum of {a} and {b}?",
)
_SUBTRACT = (
    "What is {a} - {b}?",
    "{a} - {b}",
    "Subtract {b} from {a}.",
    "What is {a} minus {b}?",
    "Calculate {a} - {b}.",
    "How much is {a} - {b}?",
)
_MULTIPLY = (
    "What is {a} * {b}?",
    "{a} x {b}",
    "What is {a} times {b}?",
    "Multiply {a} by {b}.",
    "Calculate {a} * {b}.",
)


def addition(draw: Draw) -> list[Turn]:
    """A sum of two numbers of one or two digits, digit by digit with the carry written out."""
    a, b = _pair(draw, "+")
    kind = draw.random.random()
    if kind < 0.75:
        question = draw.one(_ADD).format(a=a, b=b)
        return [(question, add_steps(a, b))]
    thing = draw.one((draw.one(FOODS), f"{draw.one(OBJECTS)}s"))
    name = draw.name()
    question = draw.one(
        (
            f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?",
            f"{name} buys {a} {thing} on one day and {b} on the next. How many is that?",
            f"There are {a} {thing} in one box and {b} in another. How many {thing} are there?",
        )
    )
    return [(question, add_steps(a, b))]


def add_steps(a: int, b: int) -> str:
    """The worked sum of two numbers below 100."""
    ones = a % 10 + b % 10
    carry, digit = divmod(ones, 10)
    lines = [f"Ones: {a % 10} + {b % 10} = {ones}, write {digit}, carry {carry}."]
    tens = f"{a // 10} + {b // 10} + {carry} = {a // 10 + b // 10 + carry}"
    return "\n".join([*lines, f"Tens: {tens}.", f"{a} + {b} = {a + b}."])


def subtract_steps(a: int, b: int) -> str:
    """The worked difference of two numbers below 100, the first not the smaller one."""
    top, bottom = a % 10, b % 10
    if top >= bottom:
        ones, tens = f"Ones: {top} - {bottom} = {top - bottom}, borrow 0.", a // 10 - b // 10
        middle = f"Tens: {a // 10} - {b // 10} - 0 = {tens}."
    else:
        ones = f"Ones: {top + 10} - {bottom} = {top + 10 - bottom}, borrow 1."
        middle = f"Tens: {a // 10} - {b // 10} - 1 = {a // 10 - b // 10 - 1}."
    return f"{ones}\n{middle}\n{a} - {b} = {a - b}."


def other(draw: Draw) -> list[Turn]:
    """A difference, a product, a comparison, counting or a double."""
    return draw.one((_subtraction, _subtraction, _product, _product, _compare, _count))(draw)


def _pair(draw: Draw, sign: str) -> tuple[int, int]:
    """Two numbers below 100 whose calculation belongs to the draw's part."""
    low = 0 if draw.chance(0.15) and not draw.held_out else 10
    while True:
        text = draw.of_part(lambda: f"{draw.integer(low, 99)}{sign}{draw.integer(low, 99)}")
        a, b = map(int, text.split(sign))
        # Who has seen b + a knows a + b.
        if sign == "-" or not draw.held_out or is_held_out(f"{b}{sign}{a}"):
            return a, b


def _subtraction(draw: Draw) -> list[Turn]:
    while True:
        a, b = _pair(draw, "-")
        if a >= b:
            break
    if draw.chance(0.2):
        name, thing = draw.name(), draw.one(FOODS)
        question = f"{name} has {a} {thing} and gives away {b}. How many {thing} are left?"
    else:
        question = draw.one(_SUBTRACT).format(a=a, b=b)
    return [(question, subtract_steps(a, b))]


def _product(draw: Draw) -> list[Turn]:
    if draw.chance(0.6):
        a, b = draw.integer(1, 10), draw.integer(1, 10)
        return [(draw.one(_MULTIPLY).format(a=a, b=b), f"{a} * {b} = {a * b}.")]
    a, b = draw.integer(11, 99), draw.integer(2, 9)
    tens, ones = a // 10 * 10, a % 10
    steps = f"{tens} * {b} = {tens * b}.\n{ones} * {b} = {ones * b}.\n"
    total = f"{tens * b} + {ones * b} = {a * b}.\n{a} * {b} = {a * b}."
    return [(draw.one(_MULTIPLY).format(a=a, b=b), steps + total)]


def _compare(draw: Draw) -> list[Turn]:
    a, b = draw.integer(0, 99), draw.integer(0, 99)
    if a == b:
        return [(f"Which is larger, {a} or {b}?", "They are equal.")]
    larger = draw.chance(0.5)
    chosen = max(a, b) if larger else min(a, b)
    word = "larger" if larger else "smaller"
    return [(f"Which is {word}, {a} or {b}?", f"{chosen} is {word}.")]


def _count(draw: Draw) -> list[Turn]:
    first, step = draw.integer(0, 20), draw.one((1, 1, 1, 2, 5, 10))
    if step > 1:
        first = step * draw.integer(0, 5)
    numbers = list(range(first, first + step * draw.integer(4, 11), step))
    by = "" if step == 1 else f" in steps of {step}"
    question = draw.one(
        (
            f"Count from {first} to {numbers[-1]}{by}.",
            f"Please count from {first} to {numbers[-1]}{by}.",
        )
    )
    return [(question, ", ".join(map(str, numbers)) + ".")]
