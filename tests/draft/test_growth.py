from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.expansion import Text
from sssd_local.draft.growth import LEAST_GAIN, Bar, Growth
from sssd_local.draft.tree import DraftTree

PRICES = st.one_of(st.floats(0.5, 40.0), st.sampled_from([1.0, 2.0, 3.0, np.inf]))


@given(
    costs=st.lists(PRICES, min_size=2, max_size=64),
    share=st.floats(0.0, 1.0),
    best_rate=st.floats(0.1, 3.0),
    expected=st.floats(1.0, 20.0),
)
def test_the_bar_is_the_least_that_any_larger_size_asks(
    costs: list[float], share: float, best_rate: float, expected: float
) -> None:
    bar = Bar(np.array([1.0, *costs]), len(costs))
    size = int(share * (len(costs) - 1))
    asked = [
        (best_rate * bar.costs[m] - expected) / (m - size) for m in range(size + 1, len(costs) + 1)
    ]
    assert bar.least_probability(size, best_rate, expected) == pytest.approx(min(asked), rel=1e-9)


def test_the_first_node_must_beat_plain_decoding() -> None:
    bar = Bar(np.array([2.0, 3.0, 8.0]), 2)
    assert bar.first == pytest.approx(LEAST_GAIN / 2.0 * 3.0 - 1.0)
    assert bar.least_probability(0, LEAST_GAIN / 2.0, 1.0) == pytest.approx(bar.first)


def test_only_sizes_within_the_limit_count() -> None:
    assert Bar(np.array([1.0, 1.5, 1.5, 1.5]), 1).first == pytest.approx(LEAST_GAIN * 1.5 - 1.0)


class Queued(Growth):
    """Growth that takes every token of a copy through the queue, as the definition has it."""

    def _copy(self, text: Text, kind: int, position: int, size: int, prob: float) -> float:
        node = len(self._tokens) - 1
        if text is self._context:
            kind = self._drafter.context.origins[position]
        size = max(-32, min(size, 32))
        last = self._tokens[node]
        run = self._drafter.expand_run(node, text, kind, position, size, last)
        self._push(node, run, prob)
        return 0.0


PHRASES = st.lists(st.integers(0, 5), min_size=1, max_size=14)


@settings(max_examples=200)
@given(
    phrases=st.lists(PHRASES, min_size=1, max_size=3),
    order=st.lists(st.integers(0, 2), min_size=2, max_size=12),
    price=st.floats(0.0, 0.3),
    max_depth=st.integers(1, 40),
    max_leaves=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_a_copy_in_one_go_is_what_the_queue_would_give(
    phrases: list[list[int]],
    order: list[int],
    price: float,
    max_depth: int,
    max_leaves: int,
    seed: int,
) -> None:
    calibration = Calibration()
    noise = np.random.default_rng(seed).normal(0.0, seed / 40, len(calibration.weights))
    calibration.weights = (np.array(calibration.weights) + 1.5 + noise).tolist()
    drafter = Drafter(calibration, max_leaves=max_leaves)
    text = [token for index in order for token in phrases[index % len(phrases)]]
    drafter.sync(np.array(text, np.int32))
    bar = Bar(1.0 + price * np.arange(65), 48)
    found: list[DraftTree] = []
    learned: list[dict[int, list[float]]] = []
    for growth in (Growth, Queued):
        drafter._expansions = {}
        found.append(growth(drafter, bar, max_depth).grow())
        learned.append({node: item.probs for node, item in drafter._expansions.items()})
    for name in ("tokens", "parents", "depths", "probs", "sources", "evidence"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name), name)
    # Nodes that were only looked at may differ in number, but not in what was found there.
    shared = learned[0].keys() & learned[1].keys()
    assert shared >= set(found[0].parents.tolist())
    assert all(learned[0][node] == learned[1][node] for node in shared)
