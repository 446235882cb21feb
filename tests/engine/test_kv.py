"""The ledger agrees with the cache after every way to leave a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sssd_local.draft.tree import DraftTree, empty_tree
from sssd_local.engine.context import NUM_SEQUENCES
from sssd_local.engine.kv import Ledger, leaf_masks, sequence_sets
from sssd_local.engine.rollback import Removal
from sssd_local.errors import BackendError
from tests.tiny import Bench, chain_tree, random_tree

CTX = 128
FULL = (1 << NUM_SEQUENCES) - 1


def descendants(parents: list[int], node: int) -> list[int]:
    below = [node]
    for other, parent in enumerate(parents):
        if parent in below:
            below.append(other)
    return below


def test_a_chain_needs_no_masks() -> None:
    assert leaf_masks([-1, 0, 1, 2]) is None
    assert leaf_masks([]) is None


def test_unused_ids_ride_on_one_leaf() -> None:
    masks = leaf_masks([-1, -1, 0, 0])
    assert masks is not None
    assert masks[3] | masks[2] == masks[0]
    assert masks[0] | masks[1] == FULL
    assert sorted(mask.bit_count() for mask in (masks[1], masks[2], masks[3])) == [1, 1, 6]


def test_more_leaves_than_ids_are_refused() -> None:
    assert leaf_masks([-1] * NUM_SEQUENCES) is not None
    with pytest.raises(BackendError, match="9 leaves"):
        leaf_masks([-1] * (NUM_SEQUENCES + 1))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_every_branch_has_ids_of_its_own(seed: int, size: int) -> None:
    parents = random_tree(np.random.default_rng(seed), size, 300).parents.tolist()
    masks = leaf_masks(parents)
    if masks is None:
        assert parents == list(range(-1, size - 1))
        return
    leaves = set(range(size)) - set(parents)
    assert sum(masks[leaf] for leaf in leaves) == FULL
    for node in range(size):
        below = [other for other in descendants(parents, node) if other in leaves]
        assert masks[node] == sum(masks[leaf] for leaf in below)


def test_sequence_sets_list_the_ids_of_root_and_nodes() -> None:
    sets = sequence_sets([0b101, 0b10])
    assert sets.counts.tolist() == [8, 2, 1]
    assert sets.ids[0].tolist() == list(range(8))
    assert sets.ids[1, :2].tolist() == [0, 2]
    assert sets.ids[2, :1].tolist() == [1]


class Interrupting:
    """Passes operations on until one is due to be interrupted, before or after it happens."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.num_sequences, self.ctx = memory.num_sequences, memory.ctx
        self.countdown = -1
        self.after = False

    def _interrupt(self, due: bool) -> None:
        if due and self.countdown == 0:
            self.countdown = -1
            raise KeyboardInterrupt

    def _pass(self, operation: Any, *arguments: Any) -> Any:
        self._interrupt(not self.after)
        result = operation(*arguments)
        self._interrupt(self.after)
        if self.countdown > 0:
            self.countdown -= 1
        return result

    def clear(self) -> None:
        self._pass(self._memory.clear)

    def remove(self, sequence: int, start: int) -> bool:
        return bool(self._pass(self._memory.remove, sequence, start))

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        self._pass(self._memory.copy, source, target, start, end)

    def first_position(self, sequence: int) -> int:
        return int(self._memory.first_position(sequence))

    def last_position(self, sequence: int) -> int:
        return int(self._memory.last_position(sequence))

    def evaluate_again(self, tokens: Any, position: int) -> None:
        raise AssertionError("cells are dropped, nothing is evaluated again")

    def save_state(self, *, on_device: bool) -> bytes:
        raise AssertionError("cells are dropped, no state is saved")

    def load_state(self, state: bytes, *, on_device: bool) -> None:
        raise AssertionError("cells are dropped, no state is restored")


@pytest.fixture(scope="module")
def bench(tiny_model: Any) -> Any:
    with Bench(tiny_model(), ctx=CTX) as made:
        Machine.bench = made
        yield made


class Machine(RuleBasedStateMachine):
    """Steps, prompts, roll-backs and interruptions in any order, on a real cache."""

    bench: Bench

    @initialize()
    def begin(self) -> None:
        self.context = self.bench.context
        self.context.clear()
        self.memory = Interrupting(self.context)
        self.ledger = Ledger(self.memory, Removal(self.memory))
        self.model: list[int] = []

    def _evaluate(self, root: int, tree: DraftTree) -> list[int] | None:
        masks = leaf_masks(tree.parents.tolist())
        tokens = np.concatenate((np.array([root], np.int32), tree.tokens))
        depths = np.concatenate((np.array([0], np.int32), tree.depths))
        positions = depths + np.int32(self.ledger.length)
        sets = None if masks is None else sequence_sets(masks)
        self.context.decode_rows(tokens, positions, sets)
        return masks

    @precondition(lambda self: self.ledger.room > 10)
    @rule(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 10))
    def prompt(self, seed: int, size: int) -> None:
        tokens = np.random.default_rng(seed).integers(3, 300, size).astype(np.int32)
        self.context.decode_prompt(tokens, self.ledger.length, logits=True)
        self.ledger.commit_prompt(tokens)
        self.model += tokens.tolist()

    @precondition(lambda self: self.ledger.room > 16)
    @rule(
        seed=st.integers(0, 2**32 - 1),
        size=st.integers(0, 14),
        chain=st.booleans(),
        fails=st.sampled_from([-1, -1, 0, 1, 2, 5]),
        after=st.booleans(),
    )
    def step(self, seed: int, size: int, chain: bool, fails: int, after: bool) -> None:
        random = np.random.default_rng(seed)
        tree = random_tree(random, size, 300) if size else empty_tree()
        if chain and size:
            tree = chain_tree(tree.tokens.tolist())
        root = int(random.integers(3, 300))
        masks = self._evaluate(root, tree)
        path: list[int] = []
        node = int(random.integers(-1, size)) if size else -1
        while node >= 0:
            path.insert(0, node)
            node = int(tree.parents[node])
        self.memory.countdown, self.memory.after = fails, after
        try:
            self.ledger.commit_step(root, tree, masks, path)
            self.model += [root, *tree.tokens[path].tolist()]
        except KeyboardInterrupt:
            self.memory.countdown = -1
            self.ledger.restore()
        self.memory.countdown = -1

    @precondition(lambda self: self.ledger.room > 2)
    @rule(token=st.integers(3, 299))
    def abandoned_step(self, token: int) -> None:
        self._evaluate(token, chain_tree([token]))
        self.ledger.restore()

    @rule(share=st.floats(0, 1))
    def roll_back(self, share: float) -> None:
        length = int(share * self.ledger.length)
        self.ledger.roll_back(length)
        del self.model[length:]

    @rule(share=st.floats(0, 1), extra=st.lists(st.integers(3, 299), max_size=4))
    def reuse(self, share: float, extra: list[int]) -> None:
        kept = self.model[: int(share * len(self.model))]
        prompt = np.array([*kept, *extra], np.int32)
        if not len(prompt):
            return
        length = self.ledger.reuse(prompt)
        assert length < len(prompt)
        del self.model[length:]
        assert self.model == prompt[:length].tolist()

    @rule()
    def clear(self) -> None:
        self.ledger.clear()
        self.model = []

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.check() == ""
        assert self.ledger.tokens.tolist() == self.model
        assert self.ledger.room == CTX - len(self.model)

    def teardown(self) -> None:
        if not self.model or self.ledger.room < 1:
            return
        expected = self.bench.fresh_logits([*self.model, 5])
        for sequence in range(NUM_SEQUENCES):
            self.context.copy(0, sequence, 0, -1)
        self._evaluate(5, empty_tree())
        assert np.abs(self.context.logits[0] - expected).max() < 1e-3


def test_ledger_and_cache_agree_whatever_happens(bench: Bench) -> None:
    machine = settings(max_examples=60, stateful_step_count=20, deadline=None)
    case = Machine.TestCase
    case.settings = machine
    case().runTest()


def test_all_ids_see_the_same_prefix_after_a_tree(bench: Bench) -> None:
    """Branches on every id give the same logits: the losers' ids hold the accepted cells too."""
    bench.context.clear()
    ledger = Ledger(bench.context, Removal(bench.context))
    prompt = np.arange(10, 20, dtype=np.int32)
    bench.context.decode_prompt(prompt, 0, logits=False)
    ledger.commit_prompt(prompt)
    parents = [-1, -1, 0, 0, 1, 2]
    tokens = [30, 31, 32, 33, 34, 35]
    tree = chain_tree(tokens)
    tree = DraftTree(
        tree.tokens,
        np.array(parents, np.int32),
        np.array([1, 1, 2, 2, 2, 3], np.int32),
        tree.probs,
        tree.sources,
        tree.evidence,
    )
    masks = leaf_masks(parents)
    rows = np.array([29, *tokens], np.int32)
    positions = np.array([10, 11, 11, 12, 12, 12, 13], np.int32)
    assert masks is not None
    bench.context.decode_rows(rows, positions, sequence_sets(masks))
    ledger.commit_step(29, tree, masks, [0, 2])
    assert ledger.tokens.tolist() == [*range(10, 20), 29, 30, 32]
    assert ledger.check() == ""
    expected = bench.fresh_logits([*ledger.tokens.tolist(), 40])
    siblings = leaf_masks([-1] * NUM_SEQUENCES)
    assert siblings is not None
    rows = np.array([40, *range(50, 50 + NUM_SEQUENCES)], np.int32)
    positions = np.array([13, *[14] * NUM_SEQUENCES], np.int32)
    bench.context.decode_rows(rows, positions, sequence_sets(siblings))
    got = bench.context.logits.copy()
    assert np.abs(got[0] - expected).max() < 1e-3
    for leaf in range(NUM_SEQUENCES):
        branch = bench.fresh_logits([*ledger.tokens.tolist(), 40, 50 + leaf])
        assert np.abs(got[1 + leaf] - branch).max() < 1e-3
