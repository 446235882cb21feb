"""How probable it is that a candidate is the model's next token, learned from every step.

Each candidate's evidence selects one weight from each of a few tables; the sum of the weights is
its log-odds against "none of the candidates", and a softmax over all candidates of a node (with
that escape) gives probabilities whose sum stays below 1. This is the logistic mixing of
context-mixing compressors with table inputs. Every verified step tells the true next token of the
root and of each accepted node, so all candidates there are labelled, drafted or not: each selected
weight moves by rate × (hit − probability), which also forgets slowly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sssd_local.draft import priors
from sssd_local.draft.context import MAX_GAP, MAX_MATCH, ORDERS, Follower, Followers
from sssd_local.draft.source import Candidates
from sssd_local.draft.tree import TokenSource

Float64Array = NDArray[np.float64]
Cells = tuple[int, ...]


def _bins(edges: Sequence[int], size: int) -> list[int]:
    """Bin of each number 0…size-1: how many edges it has reached."""
    return [sum(number >= edge for edge in edges) for number in range(size)]


MAX_COUNT = 64
MATCH_BIN = _bins((2, 3, 4, 5, 7, 10, 16, 32), MAX_MATCH + 1)
COUNT_BIN = _bins((2, 3, 5, 9), MAX_COUNT + 1)
OTHERS_BIN = _bins((1, 2, 3, 5), MAX_COUNT + 1)
LOOSE_COUNT_BIN = _bins((2, 3, 5, 9), MAX_COUNT + 1)
LOOSE_OTHERS_BIN = _bins((1, 2, 3, 5, 9, 17), MAX_COUNT + 1)
NUM_TOKENS_BIN = _bins((2, 3, 4, 6, 9), MAX_COUNT + 1)
RANK_BIN = _bins((1, 2, 3, 5, 8), MAX_COUNT + 1)
MAX_AGE = 2048
AGE_BIN = _bins((8, 16, 32, 64, 128, 256, 512, 1024, MAX_AGE), MAX_AGE + 1)
SHARE_STEPS = 8
HASHED = 4096

# The tables, one after another in one flat list of weights.
TABLE_SIZES = {
    "agreement": 9 * 5 * 5,
    "gap": 9 * (MAX_GAP + 1),
    "rank": 6 * 6,
    "loose": 5 * 7,
    "rival": 9 * 10,
    "age": 10,
    "run": 9,
    "store": len(TokenSource) * 9 * 5 * (SHARE_STEPS + 1),
    "also": len(TokenSource) * 9,
    "last": HASHED,
    "token": HASHED,
    "pair": HASHED,
    "answer": len(ORDERS),
}
# Tables a context candidate selects from before those of tokens.
NUM_EVIDENCE = 6
KEPT_TABLES = ("agreement", "gap", "rank", "loose", "rival", "age", "run", "store", "also")
OFFSETS: dict[str, int] = {}
NUM_WEIGHTS = 0
for _name, _size in TABLE_SIZES.items():
    OFFSETS[_name] = NUM_WEIGHTS
    NUM_WEIGHTS += _size

_AGREEMENT, _GAP, _RANK, _LOOSE, _RIVAL, _AGE, _RUN = list(OFFSETS.values())[:7]
_STORE, _ALSO, _LAST, _TOKEN, _PAIR, _ANSWER = list(OFFSETS.values())[7:]


def _two_longest(items: Sequence[Follower]) -> tuple[int, int]:
    """The longest match length and the longest of another item; 0 if there is none."""
    longest = second = 0
    for item in items:
        if item.size > longest:
            longest, second = item.size, longest
        elif item.size > second:
            second = item.size
    return longest, second


MAX_SCORE = 20.0
# Log-odds of what only another source names, and what its agreement adds, before any is learned.
STORE_PRIOR = -2.0
ALSO_PRIOR = 0.3


class Expansion:
    """The candidates for the next token of one node, in no particular order.

    Parallel lists: tokens, the weights' cells, sources, positions in the context where the token
    stands (-1 for a token only other sources name), match lengths, and probabilities.
    """

    __slots__ = ("cells", "positions", "probs", "sizes", "sources", "tokens")

    def __init__(
        self,
        tokens: list[int],
        cells: list[Cells],
        sources: list[int],
        positions: list[int],
        sizes: list[int],
    ) -> None:
        self.tokens = tokens
        self.cells = cells
        self.sources = sources
        self.positions = positions
        self.sizes = sizes
        self.probs: list[float] = []


class Calibration:
    """Weights of evidence, shipped with conservative priors and learned on."""

    def __init__(self, *, rate: float = 0.01, token_rate: float = 0.1) -> None:
        """`rate` moves the evidence weights, `token_rate` those of tokens and of the answer."""
        self.weights: list[float] = [0.0] * NUM_WEIGHTS
        self._rate = rate
        self._token_rate = token_rate
        self.weights[_STORE:_ALSO] = [STORE_PRIOR] * TABLE_SIZES["store"]
        self.weights[_ALSO:_LAST] = [ALSO_PRIOR] * TABLE_SIZES["also"]
        for name, values in priors.WEIGHTS.items():
            start = OFFSETS[name]
            self.weights[start : start + len(values)] = [value / 100 for value in values]

    def begin_answer(self) -> None:
        """Forgets what is true of one answer only."""
        self.weights[_ANSWER : _ANSWER + len(ORDERS)] = [0.0] * len(ORDERS)

    def context_cells(self, followers: Followers, last_token: int) -> list[Cells]:
        """The cells of each follower's evidence, in the followers' order."""
        totals, items = followers.totals, followers.items
        reached, sums = 0, [0] * len(totals)
        for level in range(len(totals) - 1, -1, -1):
            reached += totals[level]
            sums[level] = reached
        longest, second = _two_longest(items)
        alternatives = _RANK + 6 * NUM_TOKENS_BIN[min(len(items), MAX_COUNT)]
        cells: list[Cells] = []
        for rank, item in enumerate(items):
            size, level, token = item.size, item.level, item.token
            match = MATCH_BIN[size]
            rival = second if size == longest else longest
            agreement = 25 * match + 5 * COUNT_BIN[item.level_count]
            loose = 7 * LOOSE_COUNT_BIN[item.count] + LOOSE_OTHERS_BIN[reached - item.count]
            age = followers.end - item.position
            cells.append(
                (
                    _AGREEMENT + agreement + OTHERS_BIN[sums[level] - item.level_count],
                    _GAP + (MAX_GAP + 1) * match + item.gap,
                    alternatives + RANK_BIN[min(rank, MAX_COUNT)],
                    _LOOSE + loose,
                    _RIVAL + 10 * match + (MATCH_BIN[rival] + 1 if rival else 0),
                    _AGE + AGE_BIN[age if age < MAX_AGE else MAX_AGE],
                    _LAST + (4 * last_token + level) % HASHED,
                    _TOKEN + (4 * token + level) % HASHED,
                    _PAIR + (31 * last_token + token) % HASHED,
                    _ANSWER + level,
                )
            )
        return cells

    def run_cells(self, size: int, last_token: int, token: int) -> Cells:
        """The cells of the next token of a long copy, `size` tokens of which agree so far."""
        level = len(ORDERS) - 1
        return (
            _RUN + MATCH_BIN[size],
            _LAST + (4 * last_token + level) % HASHED,
            _TOKEN + (4 * token + level) % HASHED,
            _PAIR + (31 * last_token + token) % HASHED,
            _ANSWER + level,
        )

    def store_cells(
        self, kind: TokenSource, found: Candidates, index: int, last_token: int
    ) -> Cells:
        """The cells of a candidate that only another source names."""
        share = found.counts[index] * SHARE_STEPS // max(1, found.total)
        match = MATCH_BIN[min(max(found.match_length, 1), MAX_MATCH)]
        count = COUNT_BIN[min(found.counts[index], MAX_COUNT)]
        return (
            _STORE + ((kind * 9 + match) * 5 + count) * (SHARE_STEPS + 1) + share,
            _LAST + 4 * last_token % HASHED,
            _TOKEN + 4 * found.tokens[index] % HASHED,
            _PAIR + (31 * last_token + found.tokens[index]) % HASHED,
        )

    def also_cell(self, kind: TokenSource, match_length: int) -> int:
        """The cell added to a candidate that another source names too."""
        return _ALSO + kind * 9 + MATCH_BIN[min(max(match_length, 1), MAX_MATCH)]

    def probabilities(self, cells: list[Cells]) -> list[float]:
        """Each candidate's probability of being next; the sum stays below 1."""
        weight = self.weights.__getitem__
        odds = [math.exp(min(sum(map(weight, row)), MAX_SCORE)) for row in cells]
        scale = 1.0 / (1.0 + sum(odds))
        return [odd * scale for odd in odds]

    def learn(self, cells: list[Cells], probs: list[float], right: int) -> None:
        """One labelled node: candidate `right` came true (-1: none of them)."""
        weights, rate, token_rate = self.weights, self._rate, self._token_rate
        for index, row in enumerate(cells):
            error = (index == right) - probs[index]
            slow, fast = rate * error, token_rate * error
            for cell in row:
                weights[cell] += slow if cell < _LAST else fast

    def state(self) -> dict[str, Float64Array]:
        """What was learned about evidence, one float64 array per table, to be kept.

        The tables of tokens and token pairs stay out: they are a trace of the user's text.
        """
        return {
            name: np.array(self.weights[OFFSETS[name] : OFFSETS[name] + TABLE_SIZES[name]])
            for name in KEPT_TABLES
        }

    def load(self, state: Mapping[str, ArrayLike]) -> None:
        """Takes over a `state`; raises ValueError and changes nothing if it does not fit."""
        tables: dict[str, list[float]] = {}
        for name in KEPT_TABLES:
            values = np.asarray(state.get(name, ()), np.float64)
            if values.shape != (TABLE_SIZES[name],) or not np.isfinite(values).all():
                raise ValueError(
                    f"calibration table {name!r} must hold {TABLE_SIZES[name]} finite numbers"
                )
            tables[name] = np.clip(values, -MAX_SCORE, MAX_SCORE).tolist()
        for name, numbers in tables.items():
            self.weights[OFFSETS[name] : OFFSETS[name] + len(numbers)] = numbers
