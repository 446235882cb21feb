"""SSSD with its published settings as a peer: an implementation of our own, context only.

Counted tries of fixed windows, scores from occurrence shares and constants, and a tree always
filled to a fixed number of nodes (arXiv 2411.05894; constants as in huawei-csl/sssd_speculator and
its SGLang integration, which drafts 32 tokens for one user and 8 for sixteen).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter, Float64Array
from sssd_local.draft.tree import DraftTree, Int32Array, TokenSource, empty_tree, tree_from_lists

# prompt_prefix_length, prompt_branch_length and prompt_tokens_in_datastore of the reference.
PREFIX_TOKENS = 4
WINDOW_TOKENS = 8
HELD_BACK_TOKENS = 3
MOST_CHILDREN = 5
FIRST_WEIGHT = 0.6
WEIGHT_PER_TOKEN = 0.1


@dataclass(slots=True)
class _Node:
    count: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


class WindowTrie:
    """How often each sequence of up to WINDOW_TOKENS tokens was seen in prompt and output.

    The prompt's windows are inserted at once. Output waits until a whole window is there, so the
    newest tokens of an answer are never found as a continuation.
    """

    def __init__(self, prompt: Sequence[int] = ()) -> None:
        self._root = _Node()
        cut = max(0, len(prompt) - HELD_BACK_TOKENS)
        for start in range(cut):
            self._insert(prompt[start : start + WINDOW_TOKENS])
        self._waiting: list[int] = list(prompt[cut:])

    def extend(self, tokens: Sequence[int]) -> None:
        """Takes in output tokens."""
        self._waiting += tokens
        while len(self._waiting) >= WINDOW_TOKENS:
            self._insert(self._waiting[:WINDOW_TOKENS])
            del self._waiting[0]

    def _insert(self, window: Sequence[int]) -> None:
        node = self._root
        node.count += 1
        for token in window:
            node = node.children.setdefault(token, _Node())
            node.count += 1

    def matches(self, recent: Sequence[int]) -> Iterator[tuple[int, _Node]]:
        """Length and node of every suffix of up to PREFIX_TOKENS tokens that was seen."""
        for length in range(min(PREFIX_TOKENS, len(recent)), 0, -1):
            node: _Node | None = self._root
            for token in recent[-length:]:
                node = node.children.get(token) if node is not None else None
            if node is not None:
                yield length, node


class PublishedDrafter(Drafter):
    """Fills `width` − 1 nodes best-first from all matches at once, whatever they cost.

    At most `max_leaves` leaves are opened (this engine's limit; None: no limit).
    """

    def __init__(self, width: int, max_leaves: int | None = 8) -> None:
        super().__init__(Calibration(), keep_earlier=False, recycle=False)
        self._width = width
        self._most_children = min(MOST_CHILDREN, width - 1)
        self._most_leaves = width if max_leaves is None else max_leaves
        self._history: list[int] = []
        self._trie = WindowTrie()

    def sync(
        self,
        tokens: Int32Array,
        num_prompt_tokens: int | None = None,
        *,
        temperature: float | None = None,
    ) -> None:
        """Starts anew with this text as the prompt, unless exactly it is held."""
        history: list[int] = np.asarray(tokens).tolist()
        if history != self._history:
            self._history = history
            self._trie = WindowTrie(history)

    def observe(
        self,
        tree: DraftTree,
        path: Sequence[int],
        token_ids: Sequence[int],
        runner_ups: Int32Array | None = None,
    ) -> None:
        """Takes in a step's tokens."""
        self._history += token_ids
        self._trie.extend(token_ids)

    def draft(self, costs: Float64Array, max_nodes: int, max_depth: int) -> DraftTree:
        """The likeliest nodes by score, as many as asked for; costs are not looked at."""
        if max_depth < 1 or not self._history:
            return empty_tree()
        growth = _Growth(self._most_children, self._most_leaves, max_depth)
        return growth.grow(self._trie.matches(self._history), min(max_nodes, self._width - 1))

    def reset(self) -> None:
        """Forgets all text."""
        self._history = []
        self._trie = WindowTrie()


class _Growth:
    """One tree being filled. Waiting entries: (−score, −depth, number, token, node, parent, g)."""

    def __init__(self, most_children: int, most_leaves: int, max_depth: int) -> None:
        self._most_children = most_children
        self._most_leaves = most_leaves
        self._max_depth = max_depth
        self._waiting: list[tuple[float, int, int, int, _Node, int, float]] = []
        self._pushed = 0
        self._num_leaves = 0
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._scores: list[float] = []
        # Node number of each (parent, token); the root is -1.
        self._known: dict[tuple[int, int], int] = {}
        self._num_children: dict[int, int] = {}

    def grow(self, matches: Iterator[tuple[int, _Node]], num_nodes: int) -> DraftTree:
        """Takes the best waiting candidate until the tree is full."""
        for length, node in matches:
            weight = FIRST_WEIGHT + WEIGHT_PER_TOKEN * length
            self._push(node, -1, 1, FIRST_WEIGHT, weight)
        while self._waiting and len(self._tokens) < num_nodes:
            negative, negative_depth, _, token, node, parent, weight = heappop(self._waiting)
            place = self._place(parent, token, -negative)
            # Where the token stands already, this match's own continuations still join.
            if place is not None and -negative_depth < self._max_depth:
                self._push(node, place, 1 - negative_depth, -negative * weight, weight)
        if not self._tokens:
            return empty_tree()
        size = len(self._tokens)
        kinds = [int(TokenSource.PROMPT)] * size
        return tree_from_lists(self._tokens, self._parents, self._scores, kinds, [0] * size)

    def _push(self, node: _Node, parent: int, depth: int, score: float, weight: float) -> None:
        for token, child in node.children.items():
            self._pushed += 1
            entry = (-score * child.count / node.count, -depth, self._pushed)
            heappush(self._waiting, (*entry, token, child, parent, weight))

    def _place(self, parent: int, token: int, score: float) -> int | None:
        """The number of the token's node, added if need be; None where it may not be added."""
        known = self._known.get((parent, token))
        if known is not None:
            return known
        brothers = self._num_children.get(parent, 0)
        opens_leaf = parent < 0 or brothers > 0
        if brothers == self._most_children or (
            opens_leaf and self._num_leaves == self._most_leaves
        ):
            return None
        self._num_leaves += opens_leaf
        self._num_children[parent] = brothers + 1
        self._known[parent, token] = number = len(self._tokens)
        self._tokens.append(token)
        self._parents.append(parent)
        self._scores.append(score)
        return number
