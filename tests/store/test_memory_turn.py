"""What a turn adds to its chat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.store.memory_turn import OVERLAP, TAIL, ChatCutter, Worth
from tests.store.memories import ids, stats

SYSTEM = list(range(100, 120))


def cut(cutter: ChatCutter, prompt: list[int], answer: list[int]) -> list[int]:
    return cutter.cut(ids(prompt), ids(answer)).tolist()


def test_the_first_turn_is_all_of_it() -> None:
    cutter = ChatCutter()
    assert not cutter.goes_on(ids([1, 2]))
    assert cut(cutter, [1, 2], [3]) == [1, 2, 3]
    assert cutter.chat[8] == "-"
    assert len(cutter.chat) == 20


def test_a_later_turn_is_what_is_new_after_a_few_known_tokens() -> None:
    cutter = ChatCutter()
    first = [*SYSTEM, 1, 2]
    cut(cutter, first, [3, 4])
    chat = cutter.chat
    assert cutter.goes_on(ids([*first, 3, 4, 5]))
    assert cut(cutter, [*first, 3, 4, 5, 6], [7]) == [*[*first, 3, 4][-OVERLAP:], 5, 6, 7]
    assert cutter.chat == chat


def test_asking_again_keeps_the_other_answer() -> None:
    cutter = ChatCutter()
    cut(cutter, SYSTEM, [1, 2])
    chat = cutter.chat
    assert cut(cutter, SYSTEM, [3]) == [*SYSTEM[-OVERLAP:], 3]
    assert cutter.chat == chat


def test_a_prompt_that_shares_less_than_the_first_begins_a_chat() -> None:
    cutter = ChatCutter()
    cut(cutter, [*SYSTEM, 1], [2])
    chat = cutter.chat
    assert cut(cutter, [*SYSTEM, 5], [6]) == [*SYSTEM[-OVERLAP:], 5, 6]
    assert cutter.chat != chat


def test_a_chat_that_lost_its_oldest_turns_goes_on() -> None:
    cutter = ChatCutter()
    turns = list(range(1, 3 * TAIL))
    cut(cutter, [*SYSTEM, *turns], [7, 8])
    chat = cutter.chat
    kept = [*SYSTEM, *[*turns, 7, 8][-TAIL - 5 :]]
    assert cut(cutter, [*kept, 9], [10]) == [*kept[-OVERLAP:], 9, 10]
    assert cutter.chat == chat


def test_after_the_end_a_chat_begins() -> None:
    cutter = ChatCutter()
    cut(cutter, [1, 2], [3])
    chat = cutter.chat
    cutter.end()
    assert cut(cutter, [1, 2, 3, 4], [5]) == [1, 2, 3, 4, 5]
    assert cutter.chat != chat


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 3), min_size=1, max_size=9)] * 2), max_size=6))
def test_the_turns_together_are_the_chat(rounds: list[tuple[list[int], list[int]]]) -> None:
    cutter, history, said = ChatCutter(), list(SYSTEM), []
    for message, answer in rounds:
        said.append(cut(cutter, [*history, *message], answer))
        history += [*message, *answer]
    known = len(SYSTEM)
    for text, (message, answer) in zip(said[1:], rounds[1:], strict=True):
        assert text[OVERLAP:] == [*message, *answer]
    assert not said or said[0] == history[: known + sum(map(len, rounds[0]))]


def test_the_worth_of_an_answer() -> None:
    answer = stats(5, model=1, prompt=1, memory=3)
    # Four timed tokens of 100 ms took 200, and memory drafted three of the four.
    assert Worth.of(answer) == Worth(1, 5, 3, pytest.approx(150.0))
    assert Worth.of(stats(5, model=5)) == Worth(1, 5, 0, 0.0)
    total = Worth.of(answer) + Worth(2, 5, 0, 1.0)
    assert total == Worth(3, 10, 3, pytest.approx(151.0))
    assert total.share == 0.3
    assert Worth().share == 0.0
