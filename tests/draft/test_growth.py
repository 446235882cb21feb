from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.growth import LEAST_GAIN, Bar

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
