"""How close two tokens were, and how far logits move with the width of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sssd_local.engine import ties
from sssd_local.engine.ties import Tie, compare_tokens
from sssd_local.errors import BackendError
from tests.tiny import Bench


def test_a_gap_within_twice_the_noise_is_a_tie() -> None:
    assert Tie(gap=0.2, noise=0.1).is_explained
    assert not Tie(gap=0.21, noise=0.1).is_explained
    assert Tie(gap=0.0, noise=0.0).is_explained


@pytest.mark.parametrize("length", [1, 2, 30])
def test_gap_is_that_of_plain_decoding(tiny_model: Callable[..., Path], length: int) -> None:
    with Bench(tiny_model()) as bench:
        prompt = bench.tokens()
        answer = bench.run(max_tokens=length)
        row = bench.fresh_logits([*prompt.tolist(), *answer])
        first, second = np.argsort(row)[::-1][:2].tolist()
        tie = compare_tokens(bench.engine, prompt, answer, first, second)
        # The cache is f32, so that only the order of additions differs.
        assert tie.gap == pytest.approx(float(row[first] - row[second]), abs=1e-3)
        assert 0 <= tie.noise < 1e-2
        assert not tie.is_explained
        assert bench.engine.ledger.length == 0
        assert bench.engine.ledger.check() == ""


def test_the_cache_is_empty_after_a_failure(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(tiny_model()) as bench:
        answer = bench.run(max_tokens=4)

        def fail(*_: object) -> None:
            raise BackendError("no")

        monkeypatch.setattr(bench.context, "decode_rows", fail)
        assert len(answer) == 4
        with pytest.raises(BackendError):
            compare_tokens(bench.engine, bench.tokens(), answer, 1, 2)
        assert bench.context.last_position(0) == -1


@pytest.mark.parametrize(("width", "shift"), [*ties.VARIANTS, (64, 0), (4, 10**6)])
def test_every_variant_gives_the_same_rows_but_for_noise(
    tiny_model: Callable[..., Path], width: int, shift: int
) -> None:
    with Bench(tiny_model()) as bench:
        prompt, answer = bench.tokens(), np.arange(10, 50, dtype=np.int32)
        rows = ties._rows(bench.engine, prompt, answer, width, shift)
        assert rows.shape == (40, bench.context.num_vocab)
        for index in (0, 39):
            text = [*prompt.tolist(), *answer[: index + 1].tolist()]
            assert rows[index] == pytest.approx(bench.fresh_logits(text), abs=1e-2)
        bench.engine.reset()


def test_the_last_rows_are_kept(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ties, "NUM_ROWS", 7)
    with Bench(tiny_model()) as bench:
        answer = np.arange(10, 30, dtype=np.int32)
        plain = ties._rows(bench.engine, bench.tokens(), answer, 1, 0)
        for width in (2, 5, 20):
            rows = ties._rows(bench.engine, bench.tokens(), answer, width, 0)
            assert rows.shape[0] == 7
            assert rows == pytest.approx(plain, abs=1e-2)


def test_looking_ends_with_the_first_explanation(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, int]] = []

    def rows(*arguments: object) -> np.ndarray:
        tried.append(arguments[3:])  # type: ignore[arg-type]
        moved = 0.05 * (len(tried) - 1)
        return np.array([[0.0, 1.0 + moved, 1.15]], np.float32)

    monkeypatch.setattr(ties, "_rows", rows)
    with Bench(tiny_model()) as bench:
        tie = compare_tokens(bench.engine, bench.tokens(), [3], 1, 2)
    assert tried == [(1, 0), *ties.VARIANTS[:2]]
    assert (tie.gap, tie.noise) == (pytest.approx(0.15), pytest.approx(0.1))
