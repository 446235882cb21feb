"""Short programs and settings files, and edits of them with the whole repeated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from models.corpus_words import OBJECTS, Draw

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Program:
    """Source text, and what in it can be changed without a doubt what is meant."""

    language: str
    text: str
    function: str | None
    names: list[str]
    constants: list[str]
    strings: list[str] = field(default_factory=list)

    def with_text(self, text: str) -> Program:
        """The same after an edit."""
        return replace(self, text=text)


class _Writer:
    """Writes one program; every name, number and string it draws is different."""

    def __init__(self, draw: Draw, language: str) -> None:
        self.draw = draw
        self.is_python = language == "python"
        self.pool = draw.identifiers(10)
        self.function, self.helper = self.pool.pop(), self.pool.pop()
        self.params = [self.pool.pop() for _ in range(draw.integer(1, 3))]
        self.locals: list[str] = []
        self.constants: list[str] = []
        self.strings: list[str] = []

    def variable(self) -> str:
        return self.draw.one([*self.params, *self.locals])

    def constant(self) -> str:
        digits = self.draw.one((1, 2, 2, 3, 4))
        number = self.draw.number(10 ** (digits - 1), 10**digits - 1) if digits > 2 else None
        value = number or str(self.draw.integer(2, 10**digits - 1))
        if value in self.constants:
            return self.constant()
        self.constants.append(value)
        return value

    def string(self) -> str:
        text = self.draw.one((self.draw.word(), self.draw.name(), self.draw.one(OBJECTS)))
        if text in self.strings:
            return self.string()
        self.strings.append(text)
        return f'"{text}"'

    def expression(self) -> str:
        draw = self.draw
        kind = draw.random.random()
        if kind < 0.35:
            return f"{self.variable()} {draw.one('+-*/')} {self.constant()}"
        if kind < 0.6:
            return f"{self.variable()} {draw.one('+-*')} {self.variable()}"
        if kind < 0.75:
            return f"{self.helper}({self.variable()})"
        if kind < 0.85:
            return f"{self.variable()}[{self.string()}]"
        if kind < 0.92:
            return f"len({self.variable()})" if self.is_python else f"{self.variable()}.length"
        return f"({self.variable()} + {self.constant()}) * {self.variable()}"

    def simple(self) -> str:
        draw, end = self.draw, "" if self.is_python else ";"
        kind = draw.random.random()
        if kind < 0.5 and len(self.pool) > 1:
            value = self.expression()
            new = self.pool.pop()
            self.locals.append(new)
            return f"{new} = {value}" if self.is_python else f"let {new} = {value};"
        if kind < 0.75:
            return f"{self.variable()} {draw.one(('+=', '-=', '*='))} {self.expression()}{end}"
        call = "print" if self.is_python else "console.log"
        if draw.chance(0.5):
            return f"{call}({self.string()}, {self.variable()}){end}"
        return f"{call}({self.variable()}){end}"

    def statement(self) -> list[str]:
        draw = self.draw
        kind = draw.random.random()
        tab = "    " if self.is_python else "  "
        if kind < 0.65:
            return [self.simple()]
        sign = draw.one(("<", ">", "==", "<=", ">="))
        if kind < 0.85:
            head = f"{self.variable()} {sign} {self.constant()}"
            inner = self.draw.one((f"return {self.variable()}", self._change()))
            if self.is_python:
                return [f"if {head}:", tab + inner]
            return [f"if ({head}) {{", f"{tab}{inner};", "}"]
        over = self.variable()
        item = self.pool.pop() if len(self.pool) > 1 else "i"
        inner = f"{self.variable()} += {draw.one((item, f'{item} * {self.constant()}'))}"
        if self.is_python:
            return [f"for {item} in {over}:", tab + inner]
        return [f"for (const {item} of {over}) {{", f"{tab}{inner};", "}"]

    def _change(self) -> str:
        return f"{self.variable()} {self.draw.one(('+=', '-='))} {self.constant()}"

    def body(self, max_lines: int) -> list[str]:
        lines: list[str] = []
        while len(lines) < max_lines:
            lines += self.statement()
        return lines

    def program(self) -> str:
        draw = self.draw
        num_lines = draw.one((1, 2, 3, 4, 5, 6, 7))
        if draw.chance(0.15):
            return "\n".join(self.body(num_lines))
        tab, lines = ("    " if self.is_python else "  "), []
        args = ", ".join(self.params)
        if self.is_python:
            lines.append(f"def {self.function}({args}):")
            if draw.chance(0.25):
                lines.append(f'{tab}"""{_docstring(draw)}"""')
        else:
            lines.append(f"function {self.function}({args}) {{")
        lines += [tab + line for line in self.body(num_lines)]
        value = draw.one((self.variable(), self.expression()))
        lines.append(f"{tab}return {value}" + ("" if self.is_python else ";"))
        if not self.is_python:
            lines.append("}")
        if draw.chance(0.25):
            given = ", ".join(self.constant() for _ in self.params)
            call = f"{'print' if self.is_python else 'console.log'}({self.function}({given}))"
            lines += ["", call + ("" if self.is_python else ";")]
        return "\n".join(lines)


def _docstring(draw: Draw) -> str:
    verb = draw.one(("Returns", "Computes", "Gives", "Finds", "Updates"))
    return f"{verb} the {draw.word()} of the {draw.one(OBJECTS)}."


def program(draw: Draw) -> Program:
    """A random program of at most about 25 lines; it need not make sense."""
    language = "python" if draw.chance(0.7) else "js"
    writer = _Writer(draw, language)
    text = writer.program()
    if draw.chance(0.12):
        # Another function behind it, in which nothing is to be changed.
        text = f"{text}\n\n{_Writer(draw, language).program()}"
    if language == "python" and draw.chance(0.08):
        text = f'"""{draw.word().capitalize()} of the {draw.one(OBJECTS)}."""\n\n{text}'
    used = [n for n in [*writer.params, *writer.locals] if _count(n, text)]
    constants = [c for c in writer.constants if _count(c, text) == 1]
    function = writer.function if _count(writer.function, text) else None
    strings = [s for s in writer.strings if text.count(f'"{s}"') == 1]
    return Program(language, text, function, used, constants, strings)


def _count(word: str, text: str) -> int:
    return len(re.findall(rf"(?<![\w\"]){re.escape(word)}(?![\w\"])", text))


def _swap(text: str, old: str, new: str) -> str:
    return re.sub(rf"(?<![\w\"]){re.escape(old)}(?![\w\"])", new, text)


def fence(given: Program) -> str:
    """The program in a Markdown code block."""
    return f"```{given.language}\n{given.text}\n```"


def edit(draw: Draw) -> list[Turn]:
    """A program with an instruction; the answer is the whole program after the edit."""
    given = program(draw)
    task, after = _change(draw, given)
    if draw.chance(0.12):
        second, after = _other_change(draw, task, after)
        task = f"{task} and {second[0].lower()}{second[1:]}"
    tail = draw.one(("", "", "", " in this code", " in this program", " and give the whole code"))
    if draw.chance(0.8):
        question = f"{task}{tail}:\n\n{fence(given)}"
    else:
        question = f"{fence(given)}\n\n{task}."
    turns = [(question, fence(after))]
    if draw.chance(0.15):
        task, after = _change(draw, after)
        turns.append((f"Now {task[0].lower()}{task[1:]}.", fence(after)))
    return turns


def swap(draw: Draw) -> list[Turn]:
    """One or two lines in which a name is replaced: where to replace, learned on little text."""
    while True:
        writer = _Writer(draw, draw.one(("python", "js")))
        text = "\n".join(writer.body(draw.integer(1, 2)))
        names = [n for n in [*writer.params, *writer.locals, writer.helper] if _count(n, text)]
        if names:
            break
    given = Program("", text, None, names, [])
    task, after = _rename(draw, given, draw.one(names), draw.one(("variable ", "", "name ")))
    return [(f"{task}:\n\n{text}", after.text)]


def _other_change(draw: Draw, task: str, given: Program) -> tuple[str, Program]:
    """A change that does not concern what the change before it has brought."""
    new = re.findall(r"\w+", task)[-1]
    while True:
        other, after = _change(draw, given)
        if new not in re.findall(r"\w+", other) and not ("comment" in task and "comment" in other):
            return other, after


def _change(draw: Draw, given: Program) -> tuple[str, Program]:
    kind = draw.random.random()
    if kind < 0.4 and given.names:
        return _rename(draw, given, draw.one(given.names), draw.one(("variable ", "", "name ")))
    if kind < 0.52 and given.function:
        return _rename(draw, given, given.function, draw.one(("function ", "")))
    if kind < 0.74 and given.constants:
        return _new_constant(draw, given)
    if kind < 0.9 and given.function:
        return _new_parameter(draw, given)
    if kind < 0.95 and given.strings:
        return _new_string(draw, given)
    return _new_comment(draw, given)


def _rename(draw: Draw, given: Program, old: str, what: str) -> tuple[str, Program]:
    new = draw.identifier()
    while _count(new, given.text):
        new = draw.identifier()
    task = draw.one(
        (
            f"Rename the {what}`{old}` to `{new}`" if what else f"Rename `{old}` to `{new}`",
            f"Change the {what or 'name '}`{old}` to `{new}`",
            f"Replace `{old}` by `{new}`",
            f"Rename {old} to {new}",
        )
    )
    names = [new if name == old else name for name in given.names]
    function = new if given.function == old else given.function
    return task, replace(given, text=_swap(given.text, old, new), names=names, function=function)


def _new_constant(draw: Draw, given: Program) -> tuple[str, Program]:
    old = draw.one(given.constants)
    new = draw.number(2, 9999)
    while _count(new, given.text):
        new = draw.number(2, 9999)
    task = draw.one(
        (
            f"Change {old} to {new}",
            f"Change the constant {old} to {new}",
            f"Replace the number {old} by {new}",
            f"Set the constant {old} to {new}",
        )
    )
    constants = [new if constant == old else constant for constant in given.constants]
    return task, replace(given, text=_swap(given.text, old, new), constants=constants)


def _new_parameter(draw: Draw, given: Program) -> tuple[str, Program]:
    new, function = draw.identifier(), given.function
    while _count(new, given.text):
        new = draw.identifier()
    default = draw.one((None, None, str(draw.integer(0, 99)), '"' + draw.word() + '"'))
    if default is None and re.search(rf"{re.escape(function or '')}\([^)]*=", given.text):
        # After one with a default value all must have one.
        default = str(draw.integer(0, 99))
    shown = new if default is None else f"{new}={default}"
    task = draw.one(
        (
            f"Add a parameter `{shown}` to `{function}`",
            f"Add the parameter `{shown}` to the function `{function}`",
            f"Give `{function}` a new parameter `{shown}`",
            f"Add a parameter `{shown}`",
        )
    )
    pattern = rf"((?:def|function) {re.escape(function or '')}\([^)]*)\)"
    if default and given.language == "js":
        shown = f"{new} = {default}"
        task = task.replace(f"{new}={default}", shown)
    return task, given.with_text(re.sub(pattern, lambda m: f"{m[1]}, {shown})", given.text))


def _new_string(draw: Draw, given: Program) -> tuple[str, Program]:
    old, new = draw.one(given.strings), draw.one((draw.word(), draw.name()))
    strings = [new if string == old else string for string in given.strings]
    text = given.text.replace(f'"{old}"', f'"{new}"')
    task = draw.one((f'Change "{old}" to "{new}"', f'Replace the text "{old}" by "{new}"'))
    return task, replace(given, text=text, strings=strings)


def _new_comment(draw: Draw, given: Program) -> tuple[str, Program]:
    mark = "#" if given.language == "python" else "//"
    comment = f"{mark} {draw.word().capitalize()} {draw.one(OBJECTS)} {draw.word()}"
    task = draw.one(
        (f"Add the comment `{comment}` at the top", f"Put the comment `{comment}` above the code")
    )
    return task, given.with_text(f"{comment}\n{given.text}")
