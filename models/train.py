"""Trains the embedded model: a small llama on the corpus, with PyTorch (the [train] extra).

    python -m models.train --out FOLDER --steps 3000

goes on where the folder's checkpoint stands. A run that was cut short is usable: every checkpoint
holds the averaged weights too.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own custom

from models import corpus
from models.batches import chat_row, held_out_row, stack
from models.network import Shape, Weights, forward, new_weights, rotations
from models.optimizer import Optimizer

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
LOG_STEPS, SAVE_STEPS = 20, 200
VALIDATION_EXAMPLES = 24
# Ids int64 and weights float32, both [rows, length].
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to learn; `lengths` are row lengths with the share they end at."""

    steps: int = 3000
    batch_tokens: int = 8192
    lengths: tuple[tuple[int, float], ...] = ((256, 0.3), (512, 0.75), (1024, 1.0))
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    warmup_steps: int = 100
    decay_share: float = 0.35
    average: float = 0.995
    prompt_every: int = 10
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate's factor: warm-up, constant, then linear decay to almost 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / (self.steps * self.decay_share)
        return min(warm, max(0.01, min(1.0, left)))

    def row_length(self, step: int) -> int:
        """Rows grow: short ones teach copying sooner."""
        return next(length for length, end in self.lengths if step < end * self.steps or end == 1)

    def batch(self, step: int) -> Batch:
        """The rows of a step, one token longer than is predicted."""
        length = self.row_length(step)
        first = step * (self.batch_tokens // min(length for length, _ in self.lengths))
        numbers = range(first, first + self.batch_tokens // length)
        every = self.prompt_every
        rows = (chat_row(self.seed, n, length, prompt_every=every) for n in numbers)
        return stack(rows, length + 1)


@dataclass
class Run:
    """A training run: what is learned, and how far it is."""

    shape: Shape
    plan: Plan
    device: Any
    weights: Weights
    average: Weights
    optimizer: Optimizer
    rotation: tuple[Any, Any]
    step: int = 0
    tokens: int = 0

    def learn(self) -> float:
        """One step; the loss before it."""
        batch = self.plan.batch(self.step)
        loss = loss_of(self, self.weights, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.optimizer.step(self.step)
        # Short at first, so that the random start is soon forgotten.
        share = max(1 - self.plan.average, 9 / (self.step + 10))
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.grad = None
                self.average[name].lerp_(weight, share)
        self.step, self.tokens = self.step + 1, self.tokens + batch[0].size
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        """Writes the checkpoint; the one before stays until the new one is whole."""
        state = {
            "shape": asdict(self.shape),
            "plan": asdict(self.plan),
            "weights": {name: w.detach() for name, w in self.weights.items()},
            "average": self.average,
            "optimizer": self.optimizer.state(),
            "step": self.step,
            "tokens": self.tokens,
        }
        part = folder / f"{CHECKPOINT}.part"
        torch.save(state, part)
        part.replace(folder / CHECKPOINT)


def new_run(shape: Shape, plan: Plan, device: Any) -> Run:
    """A run at its first step."""
    weights = {
        name: weight.to(device).requires_grad_()
        for name, weight in new_weights(shape, plan.seed).items()
    }
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = Optimizer(weights, plan)
    return Run(shape, plan, device, weights, average, optimizer, rotations(shape, device))


def load_run(folder: Path, plan: Plan, device: Any) -> Run:
    """The run that the folder's checkpoint belongs to, under a plan that may be longer."""
    state = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
    run = new_run(Shape(**state["shape"]), plan, device)
    with torch.no_grad():
        for name, weight in run.weights.items():
            weight.copy_(state["weights"][name])
            run.average[name].copy_(state["average"][name])
    run.optimizer.load(state["optimizer"])
    run.step, run.tokens = state["step"], state["tokens"]
    return run


def loss_of(run: Run, which: Weights, batch: Batch) -> Any:
    """The mean loss over the learned tokens of [rows, length + 1] ids, by these weights."""
    ids, weights = (torch.from_numpy(part).to(run.device) for part in batch)
    targets, learned = ids[:, 1:], weights[:, 1:] > 0
    with torch.autocast(run.device.type, torch.bfloat16):
        states = forward(run.shape, which, ids[:, :-1], run.rotation)
        # Only what is learned goes through the output matrix, a sixth of the model.
        logits = F.linear(states[learned], which["token_embd.weight"])
    return F.cross_entropy(logits.float(), targets[learned])


def validation(run: Run) -> dict[str, float]:
    """The averaged weights' loss on held-out answers, by kind of example."""
    losses = {}
    for kind in corpus.KINDS:
        rows = [held_out_row(kind, number) for number in range(VALIDATION_EXAMPLES)]
        length = min(run.shape.ctx_length, max(len(row.ids) for row in rows))
        with torch.no_grad():
            losses[kind] = round(float(loss_of(run, run.average, stack(rows, length))), 4)
    return losses


class Threads:
    """One thread or all: where other work keeps a core busy, one is faster than all waiting."""

    def __init__(self) -> None:
        self.counts = sorted({1, torch.get_num_threads()}, reverse=True)
        self.seconds: dict[int, float] = {}

    def before(self, step: int) -> None:
        """Times each count on two steps out of 25, and takes the fastest for the others."""
        trial = step % 25 // 2
        if trial < len(self.counts):
            torch.set_num_threads(self.counts[trial])
        else:
            torch.set_num_threads(min(self.counts, key=lambda n: self.seconds.get(n, 0.0)))

    def after(self, seconds: float) -> None:
        """Takes in how long the step took."""
        self.seconds[torch.get_num_threads()] = seconds


def train(folder: Path, plan: Plan, shape: Shape, *, is_shared: bool = False) -> None:
    """Trains to the plan's last step, with a checkpoint and a line of the log now and then."""
    device = torch.device("cpu")
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / CHECKPOINT).exists()
    run = new_run(shape, plan, device) if is_new else load_run(folder, plan, device)
    threads = Threads() if is_shared else None
    recent: list[float] = []
    started = time.perf_counter()
    while run.step < plan.steps:
        began = time.perf_counter()
        if threads is not None:
            threads.before(run.step)
        recent.append(run.learn())
        if threads is not None:
            threads.after(time.perf_counter() - began)
        if run.step % LOG_STEPS == 0:
            mean = round(sum(recent) / len(recent), 4)
            seconds = round(time.perf_counter() - started, 1)
            _log(folder, run, {"loss": mean, "seconds": seconds})
            recent = []
        if run.step % SAVE_STEPS == 0 or run.step == plan.steps:
            _log(folder, run, {"validation": validation(run)})
            run.save(folder)


def _log(folder: Path, run: Run, values: dict[str, Any]) -> None:
    line = json.dumps({"step": run.step, "tokens": run.tokens, **values})
    print(line, flush=True)
    with open(folder / LOG, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def main() -> None:
    """Trains the model that the package ships."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log")
    parser.add_argument("--steps", type=int, default=Plan().steps)
    parser.add_argument("--seed", type=int, default=Plan().seed)
    parser.add_argument(
        "--shared", action="store_true", help="try one thread too, where others use the machine"
    )
    chosen = parser.parse_args()
    plan = Plan(steps=chosen.steps, seed=chosen.seed)
    train(chosen.out, plan, Shape(), is_shared=chosen.shared)


if __name__ == "__main__":
    main()
