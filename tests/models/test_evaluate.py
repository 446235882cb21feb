"""How answers are judged."""

from __future__ import annotations

import pytest

from models import corpus, evaluate
from models.evaluate import Answer, Report


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"a": 1, "b": "x"}', True),
        ('{ "a":1,"b":"x" }', True),
        ('{"b": "x", "a": 1}', True),
        ('{"a": 2, "b": "x"}', False),
        ('{"a": 1}', False),
        ('{"a": 1, "b": "x"', False),
        ("", False),
    ],
)
def test_json_is_compared_by_value(answer: str, right: bool) -> None:
    assert evaluate.is_same_json(answer, '{"a": 1, "b": "x"}') is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Ones: 7 + 8 = 15, write 5, carry 1.\nTens: 4 + 3 + 1 = 8.\n47 + 38 = 85.", True),
        ("85", True),
        ("47 + 38 = 84.", False),
        ("47 + 38 = 85. 1", False),
        ("I do not know.", False),
    ],
)
def test_the_last_number_of_a_sum_counts(answer: str, right: bool) -> None:
    assert evaluate.has_same_result(answer, "Tens: …\n47 + 38 = 85.") is right


def test_code_and_quotes_must_be_exact() -> None:
    assert evaluate.is_same("```python\nx = 1\n```", "```python\nx = 1\n```")
    assert not evaluate.is_same("```python\nx = 1\n```\n", "```python\nx = 1\n```")


def answer(kind: str, *, right: bool = True, stopped: bool = True) -> Answer:
    return Answer(kind, "?", "7", "7" if right else "8", stopped)


def test_an_answer_that_does_not_stop_is_wrong() -> None:
    assert answer("code").is_right
    assert not answer("code", stopped=False).is_right
    assert answer("story", right=False).is_right
    assert not answer("story", stopped=False).is_right


def test_shares_and_misses() -> None:
    report = Report([answer("code", right=number < 3) for number in range(4)])
    report.answers += [answer("quote"), answer("talk", stopped=False)]
    assert report.share_right("code") == 0.75
    assert report.share_stopped == 5 / 6
    assert report.misses() == ["code: 75% of 80%", "stopped: 83.3% of 98%"]
    assert report.table().splitlines() == [
        "| prompts | right | aim | stop by themselves |",
        "|---|---:|---:|---:|",
        "| code (4) | 75% | 80% | 100% |",
        "| quote (1) | 100% | 90% | 100% |",
        "| talk (1) |  |  | 0% |",
        "| all (6) | | 98% | 83.3% |",
    ]


def test_nothing_falls_short_at_the_aims() -> None:
    report = Report([answer("code", right=number < 8) for number in range(10)])
    assert report.misses() == []


def test_every_kind_is_judged_on_held_out_prompts() -> None:
    assert {*evaluate.CHECKS, *evaluate.FREE_KINDS} == set(corpus.KINDS)
    trained = {corpus.example("json", f"evaluation:{n}").turns[0] for n in range(50)}
    asked = list(evaluate.held_out("json", 50))
    assert len(set(asked)) == 50
    assert not trained & set(asked)
    assert len(set(evaluate.SMALL_TALK)) == 40


def test_the_table_goes_into_the_card() -> None:
    card = "# Card\n<!-- evaluation -->\nold\n<!-- /evaluation -->\nrest\n"
    made = evaluate.put_into_card(card, "| new |")
    assert made == card.replace("old", "| new |")
    assert evaluate.put_into_card(made, "| new |") == made
    with pytest.raises(ValueError, match="has no"):
        evaluate.put_into_card("# Card\n<!-- evaluation -->\n", "| new |")
