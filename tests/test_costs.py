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
from sssd_local.engine.context import flash_attention_of
from sssd_local.engine.model import Model
from sssd_local.hardware.probe import ProbePoint
from sssd_local.hardware.profile import Profile
from sssd_local.hardware.survey import Findings, Plan, Survey
from sssd_local.llm import LLM
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
        name = "agreement"
        table = learned.state() | {name: learned.state()[name] + 0.25}
        learned.load(table)
        measured.keep(learned)
        again = measure(bench)
        assert again.cost.seconds(8, 0) == pytest.approx(3.0, rel=0.1)
        assert again.threads == (1, 1)
        taught = Calibration()
        again.teach(taught)
        assert taught.state()[name] == pytest.approx(table[name])


def test_a_full_probe_made_meanwhile_is_not_overwritten(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points())
    with Bench(tiny_model()) as bench:
        measured = measure(bench)
        full = Profile((ProbePoint(0, 1, 0.5), ProbePoint(64, 1, 0.75)), 1, 2, is_full=True)
        store = costs.profile_store()
        store.save(measured.key, full)
        measured.keep(Calibration())
        kept = store.load(measured.key)
        assert kept is not None
        assert (kept.points, kept.threads_batch, kept.is_full) == (full.points, 2, True)
        assert kept.calibration is not None


def test_a_gpu_of_another_name_has_a_profile_of_its_own(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "gpu_names", lambda: ["Card 1", "Card 2"])
    with Bench(tiny_model()) as bench:
        assert costs.key_of(bench.model, bench.config).device == ""
        monkeypatch.setattr(Model, "uses_gpu", True)
        assert costs.key_of(bench.model, bench.config).device == "Card 1 + Card 2"


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


def identity(bench: Bench, **options: Any) -> Any:
    config = replace(bench.config, **options)
    return costs.key_of(bench.model, config)


@pytest.mark.parametrize(
    "options",
    [
        {"kv_type": "f16"},
        {"kv_type_v": "f16"},
        {"kv_type_v": "q8_0"},
        {"flash_attention": "on"},
        {"flash_attention": "off"},
        {"threads": 3},
        {"threads_batch": 3},
    ],
)
def test_what_changes_costs_has_a_profile_of_its_own(
    tiny_model: TinyModel, options: dict[str, Any]
) -> None:
    with Bench(tiny_model()) as bench:
        assert identity(bench) == identity(bench)
        assert identity(bench, **options) != identity(bench)
        # What the text is like, or how long it may get, changes no cost.
        assert identity(bench, speculation="off", verbose=True) == identity(bench)


def test_quantised_values_are_flash_attention() -> None:
    assert flash_attention_of(ModelConfig(kv_type="q8_0")) == "on"
    assert flash_attention_of(ModelConfig(kv_type="q8_0", kv_type_v="f16")) == "auto"


def test_a_window_that_is_not_kept_whole_has_a_profile_of_its_own(tiny_model: TinyModel) -> None:
    with Bench(tiny_model("gemma")) as bench:
        assert identity(bench, swa_full=True) == identity(bench)
        small = identity(bench, swa_full=False)
        assert small != identity(bench)
        assert small.kept_window > 0


def test_adapters_and_snapshots_have_profiles_of_their_own(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(tiny_model("lfm2")) as bench:
        path = str(tiny_model())
        keys = {identity(bench).digest()}
        for lora in ((path,), (f"{path}=0.5",), (path, path)):
            keys.add(identity(bench, lora=lora).digest())
        snapshots = identity(bench)
        assert snapshots.num_snapshots == 15
        monkeypatch.setattr(costs, "available_bytes", lambda: bench.model.facts.size_bytes)
        keys.add(identity(bench).digest())
        assert len(keys) == 5


def flash_profile(bench: Bench, **changes: Any) -> Profile:
    profile = Profile(tuple(points()), 1, 1, flash_attention=True, is_full=True)
    profile = replace(profile, **changes)
    assert costs.profile_store().save(costs.key_of(bench.model, bench.config), profile)
    return profile


def test_the_next_load_uses_flash_attention_where_it_was_chosen(tiny_model: TinyModel) -> None:
    path = tiny_model()
    with Bench(path) as bench:
        assert costs.as_measured(bench.model, bench.config) == bench.config
        kept = flash_profile(bench)
        config = costs.as_measured(bench.model, bench.config)
        assert config.flash_attention == "on"
        off = replace(bench.config, flash_attention="off")
        assert costs.as_measured(bench.model, off) == off
        options: dict[str, Any] = {"ctx": 256, "kv_type": "f32"}
    with LLM(path, **options) as llm, llm.engine() as engine:
        assert engine.context.has_flash_attention
        assert llm._loaded.measured is not None
        assert llm._loaded.measured.profile == kept


def test_a_damaged_profile_is_noted_once_a_load(
    tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_model()
    with Bench(path) as bench:
        flash_profile(bench)
        file = costs.profile_store().path(costs.key_of(bench.model, bench.config))
    file.write_bytes(file.read_bytes()[:200])
    with LLM(path, ctx=256, kv_type="f32"):
        pass
    assert caplog.text.count("ignoring the profile") == 1


def test_a_profile_of_the_other_flash_attention_is_neither_used_nor_lost(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points(scale=3.0))
    with Bench(tiny_model()) as bench:
        kept = flash_profile(bench)
        found = measure(bench)
        assert found.cost.seconds(1, 0) == pytest.approx(3.0)
        found.keep(Calibration())
        key = costs.key_of(bench.model, bench.config)
        assert costs.profile_store().load(key) == kept


def test_the_full_probe_keeps_the_flash_attention_it_ends_with(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def run(self: Survey) -> Findings:
        plans.append(self.plan)
        assert self.rig.set_flash_attention(True)
        return Findings(tuple(points()), 1, 1)

    monkeypatch.setattr(Survey, "run", run)
    with Bench(tiny_model()) as bench:
        profile = costs.full_probe(bench.model, bench.config, 1, 1)
        assert profile is not None
        assert profile.flash_attention
        assert plans[0].flash_attention
        costs.full_probe(bench.model, replace(bench.config, flash_attention="on"), 1, 1)
        assert not plans[1].flash_attention


def test_what_going_back_costs_is_measured_where_it_is_needed(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points())
    with Bench(tiny_model("mamba")) as bench:
        measured = measure(bench)
        assert measured.profile is not None
        assert measured.profile.save_seconds > 0
        assert measured.profile.load_seconds > 0
        sizer = measured.sizer()
        assert sizer.save_seconds == measured.profile.save_seconds
        assert sizer.load_seconds == measured.profile.load_seconds
        assert bench.engine.ledger.check() == ""
    for kind in ("llama", "lfm2"):
        with Bench(tiny_model(kind)) as bench:
            profile = measure(bench).profile
            assert profile is not None
            assert (profile.save_seconds, profile.load_seconds) == (0.0, 0.0)


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
            bench.config,
            1,
            1,
            progress=lambda fraction, doing: heard.append(fraction),
        )
        assert profile is not None
        # On a machine that is busy at the moment the deeper blocks may be thrown away.
        assert {0} <= {point.context_length for point in profile.points} <= {0, 112, 448}
        assert heard[-1] == 1.0
        if profile.flash_attention == bench.context.has_flash_attention:
            assert measure(bench).profile == profile
        stopped = costs.full_probe(bench.model, bench.config, 1, 1, should_stop=lambda: True)
        assert stopped is None
        key = costs.key_of(bench.model, bench.config)
        assert costs.profile_store().load(key) == profile
