"""How good a model is at the corpus' tasks, on held-out prompts with greedy answers.

    python -m models.evaluate sssd_local/data/tiny.gguf --count 100

prints a table and the answers to small talk, which only reading can judge.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from models import corpus
from sssd_local.llm import LLM

MAX_TOKENS = 512
CTX = 1024
CARD_BEGIN, CARD_END = "<!-- evaluation -->", "<!-- /evaluation -->"


def is_same(answer: str, expected: str) -> bool:
    """Exactly the text."""
    return answer == expected


def is_same_json(answer: str, expected: str) -> bool:
    """JSON of the same value, whatever the spaces."""
    try:
        return bool(json.loads(answer) == json.loads(expected))
    except ValueError:
        return False


def has_same_result(answer: str, expected: str) -> bool:
    """The same number at the end."""
    found, right = (re.findall(r"-?\d+", text) for text in (answer, expected))
    return bool(found) and found[-1] == right[-1]


# How each kind of example is judged, and the share that must be right where one is asked for.
CHECKS: dict[str, tuple[Callable[[str, str], bool], float | None]] = {
    "code": (is_same, 0.8),
    "swap": (is_same, None),
    "settings": (is_same, None),
    "json": (is_same_json, 0.8),
    "records": (is_same, None),
    "addition": (has_same_result, 0.8),
    "arithmetic": (is_same, None),
    "quote": (is_same, 0.9),
    "copy": (is_same, None),
    "summary": (is_same, None),
}
# Kinds with many right answers: only that they end is counted.
FREE_KINDS = ("story", "talk", "facts", "unknown")
STOPPED = 0.98
# Things people say, about half of them in words that the corpus does not have.
SMALL_TALK = (
    "Hello",
    "hi there!",
    "Good morning, tiny",
    "How are you today?",
    "how do you feel",
    "I'm fine, and you?",
    "What is your name?",
    "What should I call you?",
    "Who made you?",
    "Are you a human being?",
    "Are you as clever as ChatGPT?",
    "What can you do?",
    "What are you good at?",
    "Can you help me with something?",
    "Tell me a joke",
    "Tell me something funny",
    "How is the weather in Rome?",
    "What time is it now?",
    "I am sad today.",
    "I had a very long day",
    "I am bored",
    "Thank you very much!",
    "thx",
    "You are great",
    "You are wrong!",
    "Do you like music?",
    "Do you like me?",
    "How old are you?",
    "Where do you live?",
    "Do you speak German?",
    "My name is Robert.",
    "I live in Hamburg.",
    "My favourite colour is green.",
    "Do you prefer cats or dogs?",
    "What is sssd-local?",
    "Why is speculative decoding faster?",
    "How can I use a better model?",
    "What is the capital of France?",
    "Write me a poem about the sea",
    "Goodbye",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer next to the expected one."""

    kind: str
    question: str
    expected: str
    text: str
    stopped: bool

    @property
    def is_right(self) -> bool:
        """By the check of its kind; those without one are right when they end."""
        if self.kind not in CHECKS:
            return self.stopped
        check, _ = CHECKS[self.kind]
        return self.stopped and check(self.text, self.expected)


@dataclass(slots=True)
class Report:
    """All answers, and shares of them."""

    answers: list[Answer] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Answer]:
        """The answers of one kind."""
        return [answer for answer in self.answers if answer.kind == kind]

    def share_right(self, kind: str) -> float:
        """Of the answers of a kind, those that are right."""
        chosen = self.of_kind(kind)
        return sum(answer.is_right for answer in chosen) / len(chosen)

    @property
    def share_stopped(self) -> float:
        """Of all answers, those that end by themselves."""
        return sum(answer.stopped for answer in self.answers) / len(self.answers)

    def misses(self) -> list[str]:
        """What falls short of its aim."""
        short = [
            f"{kind}: {self.share_right(kind):.0%} of {aim:.0%}"
            for kind, (_, aim) in CHECKS.items()
            if aim is not None and self.of_kind(kind) and self.share_right(kind) < aim
        ]
        if self.share_stopped < STOPPED:
            short.append(f"stopped: {self.share_stopped:.1%} of {STOPPED:.0%}")
        return short

    def table(self) -> str:
        """A Markdown table by kind."""
        lines = ["| prompts | right | aim | stop by themselves |", "|---|---:|---:|---:|"]
        for kind in (*CHECKS, *FREE_KINDS):
            chosen = self.of_kind(kind)
            if not chosen:
                continue
            check, aim = CHECKS.get(kind, (None, None))
            right = "" if check is None else f"{self.share_right(kind):.0%}"
            stopped = sum(answer.stopped for answer in chosen) / len(chosen)
            wanted = "" if aim is None else f"{aim:.0%}"
            lines.append(f"| {kind} ({len(chosen)}) | {right} | {wanted} | {stopped:.0%} |")
        lines.append(f"| all ({len(self.answers)}) | | {STOPPED:.0%} | {self.share_stopped:.1%} |")
        return "\n".join(lines)


def held_out(kind: str, count: int) -> Iterator[corpus.Turn]:
    """The first turns of held-out examples; names, identifiers and sums are unseen."""
    for number in range(count):
        yield corpus.example(kind, f"evaluation:{number}", held_out=True).turns[0]


def evaluate(llm: LLM, kinds: tuple[str, ...], count: int) -> Report:
    """Answers `count` held-out prompts of each kind, greedily and each as a chat of its own."""
    report = Report()
    for kind in kinds:
        for question, expected in held_out(kind, count):
            text, stopped = ask(llm, question)
            report.answers.append(Answer(kind, question, expected, text, stopped))
    return report


def ask(llm: LLM, question: str) -> tuple[str, bool]:
    """A greedy answer, and whether it ended by itself."""
    messages = [{"role": "user", "content": question}]
    done = llm.chat(messages, temperature=0, max_tokens=MAX_TOKENS)
    return done.text, done.finish_reason == "stop"


def small_talk(llm: LLM) -> str:
    """What people say and the answers, to be read."""
    return "\n".join(f"> {said}\n{ask(llm, said)[0]}\n" for said in SMALL_TALK)


def put_into_card(card: str, table: str) -> str:
    """The model card with this table between its marks; raises ValueError where it has none."""
    before, found, rest = card.partition(CARD_BEGIN)
    _, found_end, after = rest.partition(CARD_END)
    if not found or not found_end:
        raise ValueError(f"the model card has no {CARD_BEGIN} … {CARD_END}")
    return f"{before}{CARD_BEGIN}\n{table}\n{CARD_END}{after}"


def main() -> None:
    """Prints a table, what falls short, wrong answers where asked for, and small talk."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=100, help="prompts of each kind")
    parser.add_argument("--kinds", default=",".join((*CHECKS, *FREE_KINDS)))
    parser.add_argument("--wrong", type=int, default=0, help="wrong answers to show of each kind")
    parser.add_argument("--card", type=Path, help="model card to write the table into")
    chosen = parser.parse_args()
    with LLM(chosen.model, ctx=CTX, threads=1, speculation="off") as llm:
        report = evaluate(llm, tuple(chosen.kinds.split(",")), chosen.count)
        print(report.table())
        print("\nFalls short:", "; ".join(report.misses()) or "nothing")
        for kind in chosen.kinds.split(","):
            wrong = [answer for answer in report.of_kind(kind) if not answer.is_right]
            for answer in wrong[: chosen.wrong]:
                print(f"\n--- {kind}\n{answer.question}\n--- expected\n{answer.expected}")
                print(f"--- answer\n{answer.text}")
        print(f"\n{small_talk(llm)}")
    if chosen.card is not None:
        card = put_into_card(chosen.card.read_text(encoding="utf-8"), report.table())
        chosen.card.write_text(card, encoding="utf-8")
    if report.misses():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
