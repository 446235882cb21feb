"""How a cache forgets the tokens after a length, for each kind of cache.

A key-value cache drops cells. A recurrent state cannot be cut: llama.cpp goes back to a snapshot it
made while it evaluated the last batch, or a state saved before is put back, and what came after it
has to be evaluated again (llama-memory-recurrent.cpp, seq_rm and state_read).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from sssd_local.engine.ability import RollBackKind
from sssd_local.engine.memory import ContextPlan
from sssd_local.errors import BackendError


class Memory(Protocol):
    """The cache operations that rolling back needs (engine.context.Context has them)."""

    def clear(self) -> None: ...
    def remove(self, sequence: int, start: int) -> bool: ...
    def first_position(self, sequence: int) -> int: ...
    def last_position(self, sequence: int) -> int: ...
    def save_state(self, *, on_device: bool) -> bytes: ...
    def load_state(self, state: bytes, *, on_device: bool) -> None: ...


class RollBack(Protocol):
    """How a cache forgets.

    `begin`: a batch of `num_tokens` tokens after `length` ones is about to be evaluated; with
    `drafted` its end may be cut off. `keep`: what comes after `length` tokens may be cut off much
    later. `cut` forgets all but the first `length` tokens, or more; returns how many are left.
    `clear` forgets everything.
    """

    def begin(self, length: int, num_tokens: int, *, drafted: bool) -> None: ...
    def keep(self, length: int) -> None: ...
    def cut(self, length: int) -> int: ...
    def clear(self) -> None: ...


class Removal:
    """Cells are dropped; where a sliding `window` is not kept whole, only near the end."""

    def __init__(self, memory: Memory, window: int = 0) -> None:
        self._memory = memory
        self._window = window
        self._start = 0

    def begin(self, length: int, num_tokens: int, *, drafted: bool) -> None:
        """Cells that this batch overwrites are outside of the window of position `length`."""
        self._start = length

    def keep(self, length: int) -> None:
        """Nothing to do: dropping works at any length."""

    def cut(self, length: int) -> int:
        """Drops cells, all of them where the window before `length` is no longer there."""
        if self._window and length < self._start:
            first = self._memory.first_position(0)
            if first > max(0, length - self._window + 1):
                self.clear()
                return 0
            self._start = length
        self._memory.remove(-1, length)
        return length

    def clear(self) -> None:
        """Drops all cells."""
        self._start = 0
        self._memory.clear()


class _State(NamedTuple):
    length: int
    data: bytes
    on_device: bool


class Recurrence:
    """A recurrent state of one sequence, with or without attention beside it.

    A snapshot can be gone back to once, and only as far as the last batch reaches, so the cut
    itself is put off until the next batch begins. Without snapshots (`num_snapshots` 0) a state is
    saved before each batch with drafts; one more is kept where `keep` was last called.
    """

    def __init__(self, memory: Memory, num_snapshots: int = 0) -> None:
        self._memory = memory
        self._num_snapshots = num_snapshots
        self._start = 0
        self._saved: _State | None = None
        self._kept: _State | None = None

    def begin(self, length: int, num_tokens: int, *, drafted: bool) -> None:
        """Carries out a cut that was put off, and saves the state if the batch may need it."""
        if self._memory.last_position(0) >= length and not self._memory.remove(0, length):
            raise BackendError(f"the model's state cannot go back to {length} tokens")
        self._start = length
        if drafted and num_tokens > 1 and not self._num_snapshots and length:
            # The device has room for one such state: the earlier one is lost now.
            self._saved = None
            self._saved = _State(length, self._memory.save_state(on_device=True), True)

    def keep(self, length: int) -> None:
        """Saves the state after `length` tokens, if it is not that state that is kept."""
        if length and (self._kept is None or self._kept.length != length):
            self.begin(length, 0, drafted=False)
            self._kept = _State(length, self._memory.save_state(on_device=False), False)

    def cut(self, length: int) -> int:
        """Goes back to a snapshot or to the last state saved at or before `length`."""
        end = self._memory.last_position(0) + 1
        if length < end:
            if self._start < length and end - length <= self._num_snapshots:
                return length
            end = self._start = self._load(length)
            self._saved = _unless_beyond(self._saved, end)
            self._kept = _unless_beyond(self._kept, end)
        if end:
            # Attention may hold more than the state does.
            self._memory.remove(0, end)
        return end

    def _load(self, length: int) -> int:
        states = [state for state in (self._saved, self._kept) if state and state.length <= length]
        if not states:
            self.clear()
            return 0
        last = max(states, key=lambda state: state.length)
        self._memory.load_state(last.data, on_device=last.on_device)
        return last.length

    def clear(self) -> None:
        """Drops the state, and those saved of other texts."""
        self._start, self._saved, self._kept = 0, None, None
        self._memory.clear()


def _unless_beyond(state: _State | None, length: int) -> _State | None:
    return state if state is not None and state.length <= length else None


class Forgetting:
    """Nothing can be cut off: the cache starts anew."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def begin(self, length: int, num_tokens: int, *, drafted: bool) -> None:
        """Nothing to prepare."""

    def keep(self, length: int) -> None:
        """Nothing can be kept."""

    def cut(self, length: int) -> int:
        """Empties the cache unless it ends there already."""
        if self._memory.last_position(0) + 1 == length:
            return length
        self.clear()
        return 0

    def clear(self) -> None:
        """Empties the cache."""
        self._memory.clear()


def new_roll_back(memory: Memory, plan: ContextPlan) -> RollBack:
    """How a context made by `plan` forgets."""
    kind = plan.ability.roll_back
    if kind is RollBackKind.REMOVE:
        return Removal(memory, plan.kept_window)
    if kind is RollBackKind.NONE:
        return Forgetting(memory)
    return Recurrence(memory, plan.num_snapshots)
