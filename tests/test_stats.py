"""Sums of an answer and the one line about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sssd_local.draft.tree import TokenSource
from sssd_local.engine.output import StepResult
from sssd_local.stats import Stats, Tally

MODEL, PROMPT, OUTPUT = TokenSource.MODEL, TokenSource.PROMPT, TokenSource.OUTPUT


def made_up() -> Stats:
    tally = Tally(7)
    tally.add(StepResult((5,), (MODEL,), ("a",), None))
    tally.add(
        StepResult((6, 7, 8), (PROMPT, OUTPUT, MODEL), ("b", "c", "d"), None, 4, 2, 0.1, 1.5, 2)
    )
    tally.add(StepResult((9,), (MODEL,), ("e",), "stop", 0, 0, 0.1, 1.0, 1.5))
    return tally.finish(reused_tokens=3, prompt_seconds=0.5, plain=1.5)


def test_sums() -> None:
    stats = made_up()
    assert stats.as_dict() == {
        "prompt_tokens": 7,
        "reused_tokens": 3,
        "prompt_ms": 500.0,
        "tokens": 5,
        "ms": 3500.0,
        # The first token comes with the prompt.
        "tokens_per_second": 4 / 3.5,
        "steps": 2,
        "tested": 4,
        "accepted": 2,
        "by_source": {"model": 3, "prompt": 1, "output": 1},
        "plain_ms": 1500.0,
        "speedup": 4 * 1.5 / 3.5,
        "draft_ms": 200.0,
        "step_overhead_ms": 500.0,
        "note": "",
    }


def test_the_line() -> None:
    stats = replace(
        made_up(), tokens=412, tokens_per_second=31.2, speedup=2.08, tested=100, accepted=58
    )
    assert stats.line() == "412 tokens · 31 tok/s · 2.1× · 58 % accepted"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"speedup": 1.05}, "5 tokens · 1.1 tok/s · 1.1× · 50 % accepted"),
        ({"speedup": 1.04}, "5 tokens · 1.1 tok/s · 50 % accepted"),
        ({"speedup": None, "tested": 0}, "5 tokens · 1.1 tok/s"),
        ({"tokens": 1, "tokens_per_second": 0.0, "tested": 0, "speedup": None}, "1 token"),
        ({"tested": 0, "speedup": None, "note": "paused"}, "5 tokens · 1.1 tok/s · paused"),
    ],
)
def test_what_says_nothing_is_left_out(changes: dict[str, object], line: str) -> None:
    assert replace(made_up(), **changes).line() == line  # type: ignore[arg-type]


def test_an_empty_answer_has_no_rates() -> None:
    stats = Tally(3, "note").finish(reused_tokens=0, prompt_seconds=0.1, plain=None)
    assert (stats.tokens_per_second, stats.speedup, stats.plain_ms) == (0.0, None, None)
    assert stats.line() == "0 tokens · note"
