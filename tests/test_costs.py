"""A model's costs come from its profile, or from a probe that is then kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sssd_local import costs
from sssd_local.hardware.probe import ProbePoint
from tests.tiny import Bench

TinyModel = Callable[..., Path]
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


def points(*, error: float = 0.02, scale: float = 1.0) -> list[ProbePoint]:
    return [ProbePoint(0, width, scale * (0.9 + width / 10), error) for width in WIDTHS]


def measure(bench: Bench, threads: int = 1) -> Any:
    return costs.measured_costs(bench.model, bench.context, bench.config, threads, threads)


def test_a_probe_is_run_once_and_kept(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[int] = []

    def probe(decode: Callable[[int], None], *, max_width: int) -> list[ProbePoint]:
        probes.append(max_width)
        decode(1)
        decode(max_width)
        return points()

    monkeypatch.setattr(costs, "run_probe", probe)
    with Bench(tiny_model()) as bench:
        first = measure(bench)
        assert bench.context.last_position(0) == -1
        again = measure(bench)
        assert first.seconds(8, 0) == pytest.approx(again.seconds(8, 0)) == pytest.approx(1.7)
        assert probes == [64]
        measure(bench, threads=2)
        assert probes == [64, 64]


def test_a_busy_machine_is_measured_again(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [points(error=0.5), points(scale=2.0)]
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: results.pop(0))
    with Bench(tiny_model()) as bench:
        assert measure(bench).seconds(1, 0) == pytest.approx(1.0)
        assert measure(bench).seconds(1, 0) == pytest.approx(2.0)
        assert measure(bench).seconds(1, 0) == pytest.approx(2.0)


def test_a_small_context_is_probed_as_far_as_it_goes(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []

    def probe(decode: Callable[[int], None], *, max_width: int) -> list[ProbePoint]:
        widths.append(max_width)
        return points()[:5]

    monkeypatch.setattr(costs, "run_probe", probe)
    with Bench(tiny_model(), ctx=20) as bench:
        measure(bench)
    assert widths == [20]


def test_an_interrupted_probe_offers_plain_decoding(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: [])
    with Bench(tiny_model()) as bench:
        assert not measure(bench).is_measured


def test_the_real_probe_runs_on_a_real_model(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as bench:
        model = measure(bench)
        assert model.is_measured
        assert 0 < model.seconds(1, 0) < 1
        assert bench.engine.ledger.check() == ""
