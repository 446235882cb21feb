"""A model's costs come from its profile, or from a probe that is then kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sssd_local import costs
from sssd_local.config import ModelConfig
from sssd_local.draft.calibrate import Calibration
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
        assert first.cost.seconds(8, 0) == pytest.approx(again.cost.seconds(8, 0))
        assert first.cost.seconds(8, 0) == pytest.approx(1.7)
        assert probes == [64]
        bench.config = ModelConfig(ctx=256, kv_type="f32", threads=2)
        measure(bench, threads=2)
        assert probes == [64, 64]


def test_a_folder_that_cannot_be_written_is_told_once(
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSSD_LOCAL_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points())
    with Bench(tiny_model()) as bench:
        measured = measure(bench)
        measured.keep(Calibration())
    assert [record.getMessage() for record in caplog.records] == [
        "step times cannot be kept for the next start, in "
        f"{tmp_path / 'file' / 'home' / 'profiles'}: Not a directory"
    ]


def test_a_busy_machine_is_measured_again(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [points(error=0.5), points(scale=2.0)]
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: results.pop(0))
    with Bench(tiny_model()) as bench:
        assert measure(bench).cost.seconds(1, 0) == pytest.approx(1.0)
        assert measure(bench).cost.seconds(1, 0) == pytest.approx(2.0)
        assert measure(bench).cost.seconds(1, 0) == pytest.approx(2.0)


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
        assert not measure(bench).cost.is_measured


def test_the_real_probe_runs_on_a_real_model(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as bench:
        model = measure(bench).cost
        assert model.is_measured
        assert 0 < model.seconds(1, 0) < 1
        assert bench.engine.ledger.check() == ""


def test_what_was_learned_is_kept_and_taught_again(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points())
    with Bench(tiny_model()) as bench:
        measured = measure(bench)
        for _ in range(200):
            measured.cost.observe(1, 0, 1.0)
            measured.cost.observe(8, 0, 3.0)
        learned = Calibration()
        name = next(iter(learned.state()))
        table = learned.state() | {name: learned.state()[name] + 0.25}
        learned.load(table)
        measured.keep(learned)
        again = measure(bench)
        assert again.cost.seconds(8, 0) == pytest.approx(3.0, rel=0.1)
        assert again.threads == (1, 1)
        taught = Calibration()
        again.teach(taught)
        assert taught.state()[name] == pytest.approx(table[name])


def test_odds_that_do_not_fit_are_left_out_with_a_note(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points())
    with Bench(tiny_model()) as bench:
        measured = measure(bench)
        assert measured.profile is not None
        measured.profile = replace(measured.profile, calibration={"no": [1]})
        calibration = Calibration()
        before = calibration.state()
        measured.teach(calibration)
        assert all((calibration.state()[name] == before[name]).all() for name in before)
    assert "ignoring the kept odds" in caplog.text


def test_a_busy_probe_keeps_nothing(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: [])
    with Bench(tiny_model()) as bench:
        measured = measure(bench)
        measured.keep(Calibration())
        assert measured.profile is None
        assert costs.profile_store().list() == []
        with pytest.raises(ValueError, match="nothing was measured"):
            _ = measured.threads


def test_the_full_probe_is_kept_with_its_contexts(tiny_model: TinyModel) -> None:
    with Bench(tiny_model(), ctx=512) as bench:
        heard: list[float] = []
        profile = costs.full_probe(
            bench.model,
            bench.context,
            bench.config,
            1,
            1,
            progress=lambda fraction, doing: heard.append(fraction),
        )
        assert profile is not None
        # On a machine that is busy at the moment the deeper blocks may be thrown away.
        assert {0} <= {point.context_length for point in profile.points} <= {0, 112, 448}
        assert heard[-1] == 1.0
        assert bench.context.last_position(0) == -1
        kept = measure(bench)
        assert kept.profile == profile
        stopped = costs.full_probe(
            bench.model, bench.context, bench.config, 1, 1, should_stop=lambda: True
        )
        assert stopped is None
        assert measure(bench).profile == profile
