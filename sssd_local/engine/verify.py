"""Verification: sample the target, then match the draft.

The target's own token is sampled at each node of the tree that is reached, from the logits of the
batch row that holds the node, and the walk goes on to the child with that token. Drafts are
deterministic, so this is exact for greedy decoding and for any sampler, penalty or grammar
(the method's section on verification, arXiv 2411.05894): no token is sampled twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sssd_local.draft.tree import DraftTree, Float32Array
from sssd_local.engine.sampling import Sampler


class Verdict(NamedTuple):
    """`path`: accepted node indices from the root down; `token`: sampled after the last of them."""

    path: list[int]
    token: int


def verify(
    tree: DraftTree, logits: Float32Array, sampler: Sampler, ends: Callable[[int], bool]
) -> Verdict:
    """Walks the tree along the target's own choices.

    `logits` is float32 [1 + nodes, vocabulary], row 0 the root's. A token that `ends` the answer is
    never descended into: nothing may be sampled after it.
    """
    token = sampler.sample(logits[0])
    path: list[int] = []
    if not len(tree):
        return Verdict(path, token)
    children = {
        (parent, drafted): node
        for node, (parent, drafted) in enumerate(
            zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True)
        )
    }
    node = children.get((-1, token))
    while node is not None and not ends(token):
        path.append(node)
        token = sampler.sample(logits[node + 1])
        node = children.get((node, token))
    return Verdict(path, token)
