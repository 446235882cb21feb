"""Verification walks the tree along the sampler's own choices."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.tree import empty_tree
from sssd_local.engine.verify import Verdict, verify
from tests.tiny import chain_tree, random_tree

NUM_VOCAB = 12
END = 2


class Reading:
    """Takes the row's first number as the token, and remembers which rows it saw."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def sample(self, logits: np.ndarray) -> int:
        self.rows.append(int(logits[1]))
        return int(logits[0])

    def close(self) -> None:
        self.rows.clear()


def rows_saying(tokens: list[int]) -> np.ndarray:
    """One row for the root and each node: the token to sample there, and the row's number."""
    return np.array([[token, row] for row, token in enumerate(tokens)], np.float32)


def ends(token: int) -> bool:
    return token == END


def test_without_a_draft_the_root_is_sampled() -> None:
    assert verify(empty_tree(), rows_saying([7]), Reading(), ends) == Verdict([], 7)


def test_a_chain_is_followed_to_the_first_difference() -> None:
    sampler = Reading()
    tree = chain_tree([5, 6, 7, 8])
    assert verify(tree, rows_saying([5, 6, 9, 8, 3]), sampler, ends) == Verdict([0, 1], 9)
    assert sampler.rows == [0, 1, 2]


def test_a_whole_chain_gives_one_token_more() -> None:
    assert verify(chain_tree([5, 6]), rows_saying([5, 6, 4]), Reading(), ends) == Verdict([0, 1], 4)


def test_nothing_is_sampled_after_an_end() -> None:
    sampler = Reading()
    assert verify(chain_tree([END, 6]), rows_saying([END, 6, 4]), sampler, ends) == Verdict([], END)
    assert sampler.rows == [0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_the_path_is_what_the_target_says(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    tree = random_tree(random, size, NUM_VOCAB)
    says = random.integers(3, NUM_VOCAB, size + 1).tolist()
    path, token = verify(tree, rows_saying(says), Reading(), ends)
    at = -1
    for node in path:
        assert tree.parents[node] == at
        assert tree.tokens[node] == says[at + 1]
        at = node
    assert token == says[at + 1]
    children = [node for node in range(size) if tree.parents[node] == at]
    assert token not in tree.tokens[children].tolist()
