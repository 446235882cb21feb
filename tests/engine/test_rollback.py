"""The ledger over caches that cannot drop cells, whatever is done and wherever it stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sssd_local.engine.ability import Ability, RollBackKind, Speculation
from sssd_local.engine.kv import Ledger
from sssd_local.engine.memory import ContextPlan
from sssd_local.engine.rollback import Forgetting, Recurrence, Removal, new_roll_back
from sssd_local.errors import BackendError
from tests.tiny import chain_tree

CTX = 96


def int32(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


@dataclass
class Hybrid:
    """llama.cpp's hybrid memory of one sequence, with its rules and without its silence.

    The state is the list of tokens it has seen. Going back to a snapshot that the last batch did
    not make leaves garbage there (None), as in llama.cpp; evaluating on it fails here.
    """

    num_snapshots: int = 0
    num_sequences: int = 1
    ctx: int = CTX
    state: list[int] | None = field(default_factory=list)
    position: int = 0
    cells: dict[int, int] = field(default_factory=dict)
    batch_start: int = 0
    is_pending: bool = False
    stored: dict[bytes, list[int]] = field(default_factory=dict)
    on_device: bytes = b""
    num_evaluated: int = 0
    num_saved: int = 0
    countdown: int = -1
    after: bool = False

    def _interrupts(self, due: bool) -> None:
        if due and self.countdown == 0:
            self.countdown = -1
            raise KeyboardInterrupt

    def _guarded(self, operation: Callable[[], Any]) -> Any:
        self._interrupts(not self.after)
        result = operation()
        self._interrupts(self.after)
        if self.countdown > 0:
            self.countdown -= 1
        return result

    def evaluate(self, tokens: list[int]) -> None:
        assert self.state is not None, "a state that no batch made"
        assert all(position < self.position for position in self.cells), "attention is ahead"
        assert sorted(self.cells) == list(range(self.position)), "attention has gaps"
        self.batch_start, self.is_pending = self.position, False
        self.cells |= {self.position + index: token for index, token in enumerate(tokens)}
        self.state = [*self.state, *tokens]
        self.position += len(tokens)
        self.num_evaluated += len(tokens)

    def evaluate_again(self, tokens: np.ndarray, position: int) -> None:
        assert position == self.position
        self._guarded(lambda: self.evaluate(tokens.tolist()))

    def clear(self) -> None:
        def clear() -> None:
            self.state, self.position, self.cells, self.is_pending = [], 0, {}, False

        self._guarded(clear)

    def remove(self, sequence: int, start: int) -> bool:
        assert sequence == 0, "all sequences at once is refused"
        return bool(self._guarded(lambda: self._remove(start)))

    def _remove(self, start: int) -> bool:
        if 0 < start < self.position:
            if self.is_pending or self.position - start > self.num_snapshots:
                return False
            assert self.state is not None
            self.state = self.state[:start] if start > self.batch_start else None
            self.position, self.is_pending = start, True
        elif start == 0:
            self.state, self.position, self.is_pending = [], 0, False
        self.cells = {at: token for at, token in self.cells.items() if at < start}
        return True

    def first_position(self, sequence: int) -> int:
        return self.position - 1

    def last_position(self, sequence: int) -> int:
        return self.position - 1

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        raise AssertionError("one sequence only")

    def save_state(self, *, on_device: bool) -> bytes:
        return bytes(self._guarded(lambda: self._save(on_device)))

    def _save(self, on_device: bool) -> bytes:
        assert self.state is not None
        self.num_saved += 1
        name = str(self.num_saved).encode()
        self.stored[name] = self.state
        if on_device:
            self.stored.pop(self.on_device, None)
            self.on_device = name
        return name

    def load_state(self, state: bytes, *, on_device: bool) -> None:
        assert not on_device or state == self.on_device, "the device holds another state"

        def load() -> None:
            self.state = self.stored[state]
            self.position, self.is_pending = len(self.state), False

        self._guarded(load)


class Machine(RuleBasedStateMachine):
    """Prompts, steps, roll-backs and interruptions in any order."""

    num_snapshots = 0

    @initialize()
    def begin(self) -> None:
        self.memory = Hybrid(self.num_snapshots)
        self.ledger = Ledger(self.memory, Recurrence(self.memory, self.num_snapshots))
        self.model: list[int] = []
        self.max_nodes = self.num_snapshots or 6

    def _shortened(self, at_most: int) -> None:
        """The ledger holds a prefix of what it should."""
        assert self.ledger.length <= at_most
        del self.model[self.ledger.length :]

    @precondition(lambda self: self.ledger.room > 10)
    @rule(tokens=st.lists(st.integers(3, 9), min_size=1, max_size=8), keeps=st.booleans())
    def prompt(self, tokens: list[int], keeps: bool) -> None:
        if keeps:
            self.ledger.keep_here()
        self.ledger.begin(len(tokens))
        self.memory.evaluate(tokens)
        self.ledger.commit_prompt(int32(*tokens))
        self.model += tokens

    @precondition(lambda self: self.ledger.room > 10 and self.model)
    @rule(
        size=st.integers(0, 6),
        accepted=st.integers(0, 6),
        fails=st.sampled_from([-1, -1, 0, 1, 2, 3, 4]),
        after=st.booleans(),
    )
    def step(self, size: int, accepted: int, fails: int, after: bool) -> None:
        tokens = list(range(10, 10 + min(size, self.max_nodes)))
        path = list(range(min(accepted, len(tokens))))
        before = len(self.model)
        self.memory.countdown, self.memory.after = fails, after
        try:
            self.ledger.begin(1 + len(tokens), drafted=bool(tokens))
            self.memory.evaluate([9, *tokens])
            self.ledger.commit_step(9, chain_tree(tokens), None, path)
            self.memory.countdown = -1
            self.model += [9, *tokens[: len(path)]]
            assert self.ledger.length == len(self.model)
        except KeyboardInterrupt:
            self.ledger.restore()
            self._shortened(before)
        self.memory.countdown = -1

    @precondition(lambda self: self.model)
    @rule(num_tokens=st.integers(1, 5))
    def abandoned_step(self, num_tokens: int) -> None:
        if self.ledger.room > 8:
            self.ledger.begin(num_tokens, drafted=num_tokens > 1)
            self.memory.evaluate([8] * num_tokens)
        self.ledger.restore()
        self._shortened(len(self.model))

    @rule(back=st.integers(0, 5))
    def roll_back(self, back: int) -> None:
        length = max(0, len(self.model) - back)
        self.ledger.roll_back(length)
        self._shortened(length)

    @rule(share=st.floats(0, 1), extra=st.lists(st.integers(3, 9), max_size=3))
    def reuse(self, share: float, extra: list[int]) -> None:
        prompt = int32(*self.model[: int(share * len(self.model))], *extra)
        if len(prompt):
            length = self.ledger.reuse(prompt)
            assert length < len(prompt)
            self._shortened(length)
            assert self.model == prompt[:length].tolist()

    @rule()
    def clear(self) -> None:
        self.ledger.clear()
        self.model = []

    @rule()
    def is_checked(self) -> None:
        assert self.ledger.check() == ""
        assert self.memory.state == self.model
        assert [self.memory.cells[at] for at in sorted(self.memory.cells)] == self.model

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.tokens.tolist() == self.model

    def teardown(self) -> None:
        self.is_checked()


@pytest.mark.parametrize("num_snapshots", [0, 1, 4])
def test_ledger_and_state_agree_whatever_happens(num_snapshots: int) -> None:
    class Case(Machine):
        pass

    Case.num_snapshots = num_snapshots
    case = Case.TestCase
    case.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)
    case().runTest()


def started(num_snapshots: int) -> tuple[Hybrid, Ledger]:
    """A ledger after a prompt of 8 tokens that can be gone back to before its last one."""
    memory = Hybrid(num_snapshots)
    ledger = Ledger(memory, Recurrence(memory, num_snapshots))
    for piece in ([1, 2, 3, 4, 5, 6, 7], [8]):
        if len(piece) == 1:
            ledger.keep_here()
        ledger.begin(len(piece))
        memory.evaluate(piece)
        ledger.commit_prompt(int32(*piece))
    return memory, ledger


def step(memory: Hybrid, ledger: Ledger, num_nodes: int, num_accepted: int) -> int:
    """A step; returns how many tokens were evaluated again."""
    tokens = list(range(20, 20 + num_nodes))
    ledger.begin(1 + num_nodes, drafted=num_nodes > 0)
    memory.evaluate([19, *tokens])
    evaluated = memory.num_evaluated
    ledger.commit_step(19, chain_tree(tokens), None, list(range(num_accepted)))
    return memory.num_evaluated - evaluated


def test_snapshots_cost_nothing() -> None:
    memory, ledger = started(4)
    assert step(memory, ledger, 4, 0) == 0
    assert step(memory, ledger, 3, 2) == 0
    assert ledger.extra_seconds < 1
    assert ledger.check() == ""
    # One state was saved: that before the last token of the prompt.
    assert memory.num_saved == 1


def test_a_rejected_draft_costs_the_accepted_tokens_again() -> None:
    memory, ledger = started(0)
    assert step(memory, ledger, 4, 4) == 0
    assert step(memory, ledger, 4, 2) == 3
    assert ledger.extra_seconds > 0
    assert step(memory, ledger, 3, 0) == 1
    assert memory.state == [*range(1, 9), 19, 20, 21, 22, 23, 19, 20, 21, 19]


def test_plain_steps_save_nothing() -> None:
    memory, ledger = started(0)
    step(memory, ledger, 0, 0)
    step(memory, ledger, 0, 0)
    assert ledger.extra_seconds == 0
    assert memory.num_saved == 1


def test_a_stop_inside_a_step_goes_back_within_the_snapshots() -> None:
    memory, ledger = started(4)
    step(memory, ledger, 4, 3)
    ledger.restore()
    ledger.roll_back(10)
    assert ledger.length == 10
    assert ledger.check() == ""
    assert memory.state == [*range(1, 9), 19, 20]


def test_a_stop_inside_a_step_goes_back_to_the_state_before_it() -> None:
    memory, ledger = started(0)
    step(memory, ledger, 4, 3)
    ledger.restore()
    ledger.roll_back(10)
    assert ledger.tokens.tolist() == [*range(1, 9)]
    assert ledger.check() == ""


@pytest.mark.parametrize("num_snapshots", [0, 4])
def test_the_same_prompt_again_costs_one_token(num_snapshots: int) -> None:
    memory, ledger = started(num_snapshots)
    for _ in range(5):
        step(memory, ledger, 2, 1)
    assert ledger.reuse(int32(*range(1, 9))) == 7
    assert memory.state == [*range(1, 8)]


def test_another_prompt_starts_anew() -> None:
    memory, ledger = started(4)
    assert ledger.reuse(int32(1, 2, 3, 9, 9)) == 0
    assert memory.state == []
    assert ledger.check() == ""


def test_states_of_another_text_are_forgotten() -> None:
    memory, ledger = started(0)
    ledger.clear()
    ledger.begin(9)
    memory.evaluate([*range(30, 39)])
    ledger.commit_prompt(int32(*range(30, 39)))
    ledger.roll_back(8)
    assert ledger.length == 0
    assert memory.state == []


def evaluate(memory: Hybrid, ledger: Ledger, *tokens: int) -> None:
    ledger.begin(len(tokens))
    memory.evaluate([*tokens])
    ledger.commit_prompt(int32(*tokens))


def test_a_kept_state_is_not_that_of_a_text_of_the_same_length() -> None:
    memory, ledger = started(0)
    step(memory, ledger, 4, 4)
    ledger.keep_here()
    evaluate(memory, ledger, 40)
    ledger.roll_back(10)
    assert ledger.length == 8
    evaluate(memory, ledger, 50, 51, 52, 53, 54)
    ledger.keep_here()
    evaluate(memory, ledger, 55)
    ledger.roll_back(13)
    assert ledger.length == 13
    assert memory.state == [*range(1, 9), *range(50, 55)]


def test_a_state_that_was_replaced_on_the_device_is_not_gone_back_to() -> None:
    memory, ledger = started(0)
    step(memory, ledger, 2, 2)
    memory.countdown, memory.after = 0, True
    with pytest.raises(KeyboardInterrupt):
        ledger.begin(3, drafted=True)
    ledger.restore()
    ledger.roll_back(10)
    assert ledger.length == 7
    assert ledger.check() == ""


def test_a_state_that_cannot_go_back_is_an_error() -> None:
    memory, ledger = started(2)
    step(memory, ledger, 2, 0)
    memory.is_pending = True
    with pytest.raises(BackendError, match="cannot go back to 9 tokens"):
        ledger.begin(1)


class Window:
    """A cache whose sliding layers hold positions from `first` on."""

    num_sequences, ctx = 1, CTX

    def __init__(self, first: int) -> None:
        self.first = first
        self.calls: list[tuple[Any, ...]] = []

    def clear(self) -> None:
        self.calls.append(("clear",))

    def remove(self, sequence: int, start: int) -> bool:
        self.calls.append(("remove", sequence, start))
        return True

    def first_position(self, sequence: int) -> int:
        return self.first

    def last_position(self, sequence: int) -> int:
        raise AssertionError("not asked for")

    def save_state(self, *, on_device: bool) -> bytes:
        raise AssertionError("no state")

    def load_state(self, state: bytes, *, on_device: bool) -> None:
        raise AssertionError("no state")


@pytest.mark.parametrize(
    ("first", "length", "left"),
    # Position 50 sees 8 tokens: itself and from 43 on.
    [(43, 50, 50), (44, 50, 0), (0, 3, 3), (1, 3, 0), (80, 90, 90), (80, 95, 95)],
)
def test_a_window_goes_back_while_it_is_whole(first: int, length: int, left: int) -> None:
    memory = Window(first)
    removal = Removal(memory, window=8)
    removal.keep(5)
    removal.begin(90, 5, drafted=True)
    assert removal.cut(length) == left
    assert memory.calls == [("remove", -1, length) if left else ("clear",)]


def test_a_whole_cache_goes_back_anywhere() -> None:
    memory = Window(60)
    removal = Removal(memory)
    removal.begin(90, 5, drafted=True)
    assert removal.cut(10) == 10
    assert memory.calls == [("remove", -1, 10)]


def test_a_cache_that_can_forget_nothing_starts_anew() -> None:
    memory = Hybrid()
    ledger = Ledger(memory, Forgetting(memory))
    ledger.keep_here()
    ledger.begin(3)
    memory.evaluate([5, 6, 7])
    ledger.commit_prompt(int32(5, 6, 7))
    assert ledger.reuse(int32(5, 6, 7, 8)) == 3
    assert memory.position == 3
    assert ledger.reuse(int32(5, 9, 7, 8)) == 0
    assert memory.position == 0
    assert ledger.check() == ""


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (RollBackKind.REMOVE, Removal),
        (RollBackKind.SNAPSHOT, Recurrence),
        (RollBackKind.RESTORE, Recurrence),
        (RollBackKind.NONE, Forgetting),
    ],
)
def test_each_kind_has_its_own_way(kind: RollBackKind, made: type) -> None:
    plan = ContextPlan(CTX, Ability(Speculation.CHAIN, kind))
    assert isinstance(new_roll_back(Hybrid(), plan), made)
