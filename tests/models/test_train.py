"""Training: the plan, and a tiny run that learns, stops and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("tokenizers", reason="needs the [train] extra")

from models import train as training  # noqa: E402
from models.network import Shape, attention, new_weights  # noqa: E402
from models.optimizer import orthogonal  # noqa: E402
from models.train import Plan  # noqa: E402

SHAPE = Shape(n_embd=32, n_layer=1, n_head=2, n_ff=32, ctx_length=64)
PLAN = Plan(steps=6, batch_tokens=128, lengths=((32, 0.5), (64, 1.0)), warmup_steps=2)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs and saves at every other step of a short run."""
    monkeypatch.setattr(training, "LOG_STEPS", 2)
    monkeypatch.setattr(training, "SAVE_STEPS", 2)
    monkeypatch.setattr(training, "VALIDATION_EXAMPLES", 1)
    # Small matrices do not gain from more threads, and others may use them.
    torch.set_num_threads(1)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / training.LOG).read_text().splitlines()]


def weights_of(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / training.CHECKPOINT, weights_only=True)
    found: dict[str, Any] = state["weights"]
    return found


def test_the_rate_warms_up_stays_and_falls() -> None:
    plan = Plan(steps=1000, warmup_steps=100, decay_share=0.4)
    assert plan.rate(0) == 0.01
    assert plan.rate(99) == plan.rate(500) == plan.rate(600) == 1.0
    assert plan.rate(800) == pytest.approx(0.5)
    assert plan.rate(1000) == 0.01


def test_rows_grow_by_the_plan() -> None:
    plan = Plan(steps=100)
    lengths = [plan.row_length(step) for step in range(100)]
    assert lengths == [256] * 30 + [512] * 45 + [1024] * 25
    for step in (0, 50, 99):
        ids, weights = plan.batch(step)
        assert ids.shape == weights.shape == (8192 // lengths[step], lengths[step] + 1)


def test_batches_differ_by_step_and_are_the_same_again() -> None:
    (first, _), (again, _), (other, _) = PLAN.batch(0), PLAN.batch(0), PLAN.batch(1)
    assert (first == again).all()
    assert not (first == other).all()


def test_a_run_that_goes_on_is_the_run_without_a_break(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    training.train(whole, PLAN, SHAPE)
    run = training.new_run(SHAPE, PLAN, torch.device("cpu"))
    for _ in range(2):
        run.learn()
    broken.mkdir()
    run.save(broken)
    training.train(broken, PLAN, SHAPE)
    assert all(
        torch.equal(weight, weights_of(broken)[name]) for name, weight in weights_of(whole).items()
    )
    assert log(broken) == [
        line | ({"seconds": got["seconds"]} if "seconds" in got else {})
        for line, got in zip(log(whole)[2:], log(broken), strict=True)
    ]


def test_the_loss_falls_and_is_logged_by_kind(tmp_path: Path) -> None:
    training.train(tmp_path, PLAN, SHAPE, is_shared=True)
    lines = log(tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    validation = [line["validation"] for line in lines if "validation" in line]
    assert len(validation) == 3
    assert set(validation[0]) == set(training.corpus.KINDS)


def test_weights_come_from_the_seed() -> None:
    first, again, other = (new_weights(SHAPE, seed) for seed in (0, 0, 1))
    name = "blk.0.attn_q.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("length", [1, 128, 300])
def test_attention_by_blocks_is_attention(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 16, generator=generator) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.allclose(attention(query, key, value), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 48), (2, 48, 16)])
def test_updates_are_about_orthogonal(shape: tuple[int, int, int]) -> None:
    made = orthogonal(torch.randn(*shape, generator=torch.Generator().manual_seed(1)))
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4
