"""The corpus: the same for a seed, varied, right in itself, and its held-out part unseen."""

from __future__ import annotations

import json
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import corpus
from models.corpus_arithmetic import add_steps, subtract_steps
from models.corpus_words import Draw, is_held_out


def texts(kind: str, count: int, *, held_out: bool = False) -> list[tuple[corpus.Turn, ...]]:
    return [
        corpus.example(kind, f"test:{number}", held_out=held_out).turns for number in range(count)
    ]


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_a_seed_gives_the_same_example_again(kind: str) -> None:
    assert texts(kind, 20) == texts(kind, 20)
    assert all(
        question.strip() and answer.strip()
        for turns in texts(kind, 50)
        for question, answer in turns
    )


# Kinds whose questions and answers are drawn from lists repeat themselves sooner.
@pytest.mark.parametrize(
    ("kind", "fewest"),
    [
        *((kind, 480) for kind in ("quote", "summary", "json", "code", "settings", "story")),
        *((kind, 380) for kind in ("copy", "swap", "addition", "arithmetic", "records", "unknown")),
        ("talk", 200),
        ("facts", 200),
    ],
)
def test_examples_are_varied(kind: str, fewest: int) -> None:
    assert len(set(texts(kind, 500))) >= fewest


def test_a_chat_is_the_same_again_and_others_differ() -> None:
    def first(seed: int, index: int) -> list[corpus.Example]:
        return list(islice(corpus.chat(seed, index), 20))

    assert first(0, 5) == first(0, 5)
    assert first(0, 5) != first(0, 6)
    assert first(0, 5) != first(1, 5)
    kinds = {example.kind for index in range(30) for example in first(0, index)}
    assert kinds == set(corpus.KINDS)


def test_a_fifth_of_the_chats_have_a_system_text() -> None:
    found = [corpus.system_text(0, index) for index in range(500)]
    assert found == [corpus.system_text(0, index) for index in range(500)]
    assert 70 <= sum(text is not None for text in found) <= 130
    assert set(found) == {None, *corpus.SYSTEM_TEXTS}


@pytest.mark.parametrize("make", ["word", "name", "number", "identifier"])
def test_parts_have_nothing_in_common(make: str) -> None:
    seen = {getattr(Draw(f"{n}"), make)() for n in range(2000)}
    unseen = {getattr(Draw(f"{n}", held_out=True), make)() for n in range(300)}
    assert len(unseen) >= 50
    assert not seen & unseen
    assert not any(map(is_held_out, seen))
    assert all(map(is_held_out, unseen))


def test_held_out_sums_are_never_trained() -> None:
    def sums(kind: str, sign: str, *, held_out: bool) -> set[str]:
        answers = (turns[0][1] for turns in texts(kind, 1500, held_out=held_out))
        pattern = rf"^Ones.*\n.*\n(\d+) [{sign}] (\d+) = -?\d+\.$"
        found = (re.search(pattern, text) for text in answers)
        return {f"{m[1]}{sign}{m[2]}" for m in found if m and int(m[1]) > 10}

    for kind, sign in (("addition", "+"), ("arithmetic", "-")):
        seen, unseen = (sums(kind, sign, held_out=part) for part in (False, True))
        assert len(seen) > 500 / (1 + (sign == "-"))
        assert len(unseen) > 60
        assert not seen & unseen
        assert all(map(is_held_out, unseen))
        # In the other order neither.
        turned = {sign.join(reversed(text.split(sign))) for text in unseen}
        assert sign == "-" or not seen & turned


@given(st.integers(0, 99), st.integers(0, 99))
def test_worked_sums_are_right(a: int, b: int) -> None:
    numbers = list(map(int, re.findall(r"\d+", add_steps(a, b))))
    ones, digit, carry, tens = numbers[2], numbers[3], numbers[4], numbers[8]
    assert ones == a % 10 + b % 10 == 10 * carry + digit
    assert tens == a // 10 + b // 10 + carry
    assert 10 * tens + digit == a + b == numbers[-1]


@given(st.integers(0, 99), st.integers(0, 99))
def test_worked_differences_are_right(a: int, b: int) -> None:
    a, b = max(a, b), min(a, b)
    numbers = list(map(int, re.findall(r"\d+", subtract_steps(a, b))))
    assert numbers[0] - numbers[1] == numbers[2]
    assert numbers[4] - numbers[5] - numbers[6] == numbers[7]
    assert 10 * numbers[7] + numbers[2] == a - b == numbers[-1]


def test_every_json_answer_is_json_of_the_text() -> None:
    for ((question, answer),) in texts("json", 200):
        value = json.loads(answer)
        for record in value if isinstance(value, list) else [value]:
            for part in record.values():
                if not isinstance(part, bool):
                    assert str(part) in question
                elif value is record:
                    assert part == ("not active" not in question)


def flat(shown: str) -> dict[str, str]:
    """A settings file as key and JSON text; groups are left out."""
    if not shown.startswith("{"):
        return dict(line.split(" = ", 1) for line in shown.splitlines())
    found: dict[str, str] = {}
    for key, value in json.loads(shown).items():
        part = value if isinstance(value, dict) else {key: value}
        found |= {name: json.dumps(one) for name, one in part.items()}
    return found


def test_settings_change_only_what_is_asked() -> None:
    for ((question, answer),) in texts("settings", 300):
        task, shown = question.split("\n\n", 1)
        before, after = flat(shown), flat(answer)
        assert list(before) == list(after)
        changed = [key for key in before if before[key] != after[key]]
        assert 1 <= len(changed) <= 3
        for key in changed:
            assert key in task or key.replace("_", " ") in task
            assert after[key] in task or after[key] in ("true", "false")


def test_a_swap_changes_one_name_and_nothing_else() -> None:
    for ((question, answer),) in texts("swap", 400):
        task, code = question.split("\n\n", 1)
        named = re.search(r"`?(\w+)`? (?:to|by) `?(\w+)`?:", task)
        assert named is not None
        words, got = re.findall(r"\w+|\W", code), re.findall(r"\w+|\W", answer)
        assert [named[2] if word == named[1] else word for word in words] == got
        assert answer != code


def test_renaming_renames_every_use_and_nothing_else() -> None:
    renamed = 0
    for turns in texts("code", 600):
        question, answer = turns[0]
        pattern = r"(?:Rename|Change|Replace)[^`]* `(\w+)` (?:to|by) `(\w+)`[^`]*:\n\n(.*)\Z"
        asked = re.match(pattern, question, re.S)
        if not asked or " and " in question.replace(" and give", ""):
            continue
        old, new, code = asked.groups()
        renamed += 1
        words, got = re.findall(r"\w+|\W", code), re.findall(r"\w+|\W", answer)
        assert [new if word == old else word for word in words] == got
    assert renamed > 50


def test_python_programs_are_python() -> None:
    checked = 0
    for turns in texts("code", 300):
        for _, answer in turns:
            code = re.fullmatch(r"```python\n(def .*)\n```", answer, re.S)
            # Of two programs the second may be without a function around its return.
            if code and "\n\n" not in code[1]:
                compile(code[1], "program", "exec")
                checked += 1
    assert checked > 80


def test_a_quoted_text_stands_in_the_question() -> None:
    for kind in ("quote", "copy"):
        for turns in texts(kind, 300):
            assert turns[0][1] in turns[0][0]


def test_unknown_questions_get_the_way_to_a_real_model() -> None:
    for ((_, answer),) in texts("unknown", 100):
        assert "tiny demonstration model" in answer
        assert answer.endswith("sssd-local run MODEL.gguf")
