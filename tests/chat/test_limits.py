"""Budget: allocations are counted, the clock is looked at, the tracer is given back."""

from __future__ import annotations

import sys
import threading
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Undefined
from jinja2.utils import Namespace

from sssd_local.chat.limits import (
    WORK_FACTOR,
    Budget,
    RenderLimitError,
    as_text,
    charge,
    charge_result,
    measure,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def spin() -> None:
    while True:
        pass


def doubled(levels: int) -> list[object]:
    """A list that is small in memory and has 2**levels parts when written out."""
    value: list[object] = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def test_one_value_may_be_as_large_as_the_limit_and_no_larger() -> None:
    budget = Budget(1, 100)
    budget.charge(100)
    with pytest.raises(RenderLimitError, match="a value of 101 characters"):
        budget.charge(101)


def test_many_values_add_up() -> None:
    budget = Budget(1, 100)
    for _ in range(WORK_FACTOR):
        budget.charge(100)
    with pytest.raises(RenderLimitError, match=f"values of more than {WORK_FACTOR * 100}"):
        budget.charge(1)


def test_results_cost_their_characters_or_items() -> None:
    budget = Budget(1, 100)
    with budget.enforced(lines=True):
        charge_result("x" * 100)
        charge_result(5)
        with pytest.raises(RenderLimitError, match="a value of 128 characters"):
            charge_result(["a", "b"])


def test_an_endless_loop_is_stopped_by_line() -> None:
    with (
        pytest.raises(RenderLimitError, match=r"longer than 0\.01 s"),
        Budget(0.01, 100).enforced(lines=True),
    ):
        spin()


def test_endless_calls_are_stopped_without_lines() -> None:
    def called() -> None:
        return None

    def call_forever() -> None:
        while True:
            called()

    with pytest.raises(RenderLimitError), Budget(0.01, 100).enforced(lines=False):
        call_forever()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_a_finaliser_swallows_is_raised_at_the_end() -> None:
    ended: list[bool] = []

    class Slow:
        def __del__(self) -> None:
            spin()

    def end() -> None:
        slow = Slow()
        del slow
        ended.append(True)

    with pytest.raises(RenderLimitError), Budget(0.01, 100).enforced(lines=True):
        end()
    assert ended == [True]


def test_an_endless_loop_is_stopped_in_another_thread() -> None:
    caught: list[str] = []

    def work() -> None:
        try:
            with Budget(0.01, 100).enforced(lines=True):
                spin()
        except RenderLimitError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == ["it ran longer than 0.01 s"]


def test_the_tracer_of_before_comes_back() -> None:
    def mine(frame: FrameType, event: str, argument: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(mine)
    try:
        with Budget(1, 100).enforced(lines=True):
            assert sys.gettrace() is not mine
        assert sys.gettrace() is mine
        with pytest.raises(RenderLimitError), Budget(0.001, 100).enforced(lines=True):
            spin()
        assert sys.gettrace() is mine
    finally:
        sys.settrace(before)


def test_a_budget_ends_with_its_block() -> None:
    with Budget(1, 100).enforced(lines=True):
        charge(1)
    with pytest.raises(LookupError):
        charge(1)


@settings(deadline=None)
@given(value=JSON)
def test_a_measure_is_at_least_the_characters_of_all_texts(value: object) -> None:
    def characters(part: object) -> int:
        if isinstance(part, str):
            return len(part)
        if isinstance(part, list):
            return sum(map(characters, part))
        if isinstance(part, dict):
            return sum(map(characters, [*part.keys(), *part.values()]))
        return 0

    with Budget(10, 1 << 20).enforced(lines=True):
        assert measure(value) >= characters(value)
        assert as_text(value) == (value if isinstance(value, str) else str(value))


@pytest.mark.parametrize("value", [doubled(60), ["x" * 60, "x" * 60], {"a": "x" * 100}, range(100)])
def test_what_is_too_large_written_out_is_refused(value: object) -> None:
    with (
        Budget(10, 100).enforced(lines=True),
        pytest.raises(RenderLimitError, match="too many parts"),
    ):
        measure(value)


def test_what_has_no_text_is_refused_only_for_text() -> None:
    with Budget(10, 1000).enforced(lines=True):
        assert measure([Namespace()]) > 0
        with pytest.raises(TypeError, match="a Namespace cannot be written as text"):
            as_text([Namespace()])
        assert as_text(Undefined()) == ""
        assert as_text(None) == "None"
