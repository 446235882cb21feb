"""A draft: proposed next tokens as a small tree in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]


class TokenSource(IntEnum):
    """Where a token of an answer came from; `MODEL` is sampled without a matching draft."""

    MODEL = 0
    PROMPT = 1
    OUTPUT = 2
    DATASTORE = 3
    MEMORY = 4
    RECYCLE = 5
    EARLIER = 6

    @property
    def label(self) -> str:
        """The name shown to users."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, eq=False)
class DraftTree:
    """Nodes sorted by path probability, so that any prefix is a tree.

    All arrays have shape [n]: `tokens` int32; `parents` int32, the index of an earlier node or
    -1 for the root (the last committed token, which is not a node); `depths` int32, 1 for a
    child of the root; `probs` float32, probability that the whole path to the node is right,
    non-increasing; `sources` uint8 (TokenSource); `evidence` int32, the calibration bucket.
    """

    tokens: Int32Array
    parents: Int32Array
    depths: Int32Array
    probs: Float32Array
    sources: NDArray[np.uint8]
    evidence: Int32Array

    def __len__(self) -> int:
        return len(self.tokens)

    def prefix(self, num_nodes: int) -> DraftTree:
        """The first `num_nodes` nodes as views."""
        if num_nodes >= len(self.tokens):
            return self
        return DraftTree(
            self.tokens[:num_nodes],
            self.parents[:num_nodes],
            self.depths[:num_nodes],
            self.probs[:num_nodes],
            self.sources[:num_nodes],
            self.evidence[:num_nodes],
        )

    @property
    def num_chain(self) -> int:
        """How many first nodes are a chain below the root."""
        branches = np.flatnonzero(self.depths != np.arange(1, len(self.depths) + 1))
        return int(branches[0]) if len(branches) else len(self.depths)

    def check(self) -> str:
        """What is wrong with the tree, or "" when it is well formed."""
        siblings: set[tuple[int, int]] = set()
        for node in range(len(self.tokens)):
            parent, token = int(self.parents[node]), int(self.tokens[node])
            if not -1 <= parent < node:
                return f"node {node} has parent {parent}"
            if (parent, token) in siblings:
                return f"node {node} repeats token {token} under parent {parent}"
            siblings.add((parent, token))
            depth = 1 if parent < 0 else int(self.depths[parent]) + 1
            if self.depths[node] != depth:
                return f"node {node} has depth {self.depths[node]}, not {depth}"
            if not 0 <= self.probs[node] <= 1:
                return f"node {node} has probability {self.probs[node]}"
            if node and self.probs[node] > self.probs[node - 1]:
                return f"node {node} is likelier than the node before it"
            if parent >= 0 and self.probs[node] > self.probs[parent]:
                return f"node {node} is likelier than its parent"
        return ""


def empty_tree() -> DraftTree:
    """The tree without nodes: plain decoding."""
    return _EMPTY


def tree_from_lists(
    tokens: list[int],
    parents: list[int],
    probs: list[float],
    sources: list[int],
    evidence: list[int],
) -> DraftTree:
    """A tree from parallel lists; depths follow from the parents."""
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return DraftTree(
        np.array(tokens, np.int32),
        np.array(parents, np.int32),
        np.array(depths, np.int32),
        np.array(probs, np.float32),
        np.array(sources, np.uint8),
        np.array(evidence, np.int32),
    )


_EMPTY = tree_from_lists([], [], [], [], [])
