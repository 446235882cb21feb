"""Fits the shipped weights of evidence (sssd_local/draft/priors.py) to recorded answers.

At every position of every answer the candidates and the token that came are known, so the weights
are a multinomial logistic regression with the escape "none of the candidates" at score 0: the
log-likelihood is concave, and a few hundred steps of Adam on all positions reach its maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from bench.traces import TokenTrace, load_traces
from sssd_local.draft.calibrate import (
    NUM_EVIDENCE,
    OFFSETS,
    TABLE_SIZES,
    Calibration,
    Cells,
)
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import TokenSource
from sssd_local.errors import SSSDError

Float64Array = NDArray[np.float64]

FITTED = ("agreement", "gap", "rank", "loose", "rival", "age", "run")
NUM_CELLS = NUM_EVIDENCE
NUM_FITTED = sum(TABLE_SIZES[name] for name in FITTED)
PRIORS_FILE = Path(__file__).parents[1] / "sssd_local" / "draft" / "priors.py"
DECIMALS = 100


@dataclass(frozen=True, slots=True)
class Labels:
    """Labelled candidates: `cells` int32 [n, 6] (NUM_FITTED = no weight), `right` float64 [n],
    `starts` int64 [positions] where each position's candidates begin, `weight` float64
    [positions]."""

    cells: NDArray[np.int32]
    right: Float64Array
    starts: NDArray[np.int64]
    weight: Float64Array


def collect(traces: Sequence[TokenTrace]) -> Labels:
    """All candidates at all positions of the answers, and for long copies how they went on."""
    rows: list[Cells] = []
    right: list[bool] = []
    starts: list[int] = []
    drafter = Drafter(Calibration())
    for trace in traces:
        drafter.reset()
        drafter.sync(np.array(trace.prompt, np.int32))
        for token in trace.answer:
            found = drafter.expand(-1, drafter.context.recent(), 0)
            if found.tokens:
                starts.append(len(rows))
                rows += [row[:NUM_CELLS] for row in found.cells]
                right += [candidate == token for candidate in found.tokens]
                if found.positions[0] < len(drafter.context):
                    run = drafter.expand_run(-1, found.positions[0], found.sizes[0], 0)
                    starts.append(len(rows))
                    rows.append((run.cells[0][0], *[NUM_FITTED] * (NUM_CELLS - 1)))
                    right.append(run.tokens[0] == token)
            drafter.context.append(token, TokenSource.OUTPUT)
    return Labels(
        np.array(rows, np.int32).reshape(-1, NUM_CELLS),
        np.array(right, np.float64),
        np.array(starts, np.int64),
        np.ones(len(starts)),
    )


def join(parts: Sequence[Labels]) -> Labels:
    """One set of labels from several."""
    offsets = np.cumsum([0, *[len(part.right) for part in parts[:-1]]])
    return Labels(
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.starts + at for part, at in zip(parts, offsets, strict=True)]),
        np.concatenate([part.weight for part in parts]),
    )


def balance(parts: Sequence[Labels], power: float = 0.5) -> list[Labels]:
    """The same labels with weights between equal positions (0) and equal files (1)."""
    sizes = np.array([len(part.starts) for part in parts], np.float64)
    scale = (sizes.mean() / sizes) ** power
    return [
        replace(part, weight=np.full(len(part.starts), factor))
        for part, factor in zip(parts, scale, strict=True)
    ]


def loss(labels: Labels, weights: Float64Array) -> tuple[float, Float64Array]:
    """Negative log-likelihood summed over positions, and its derivative by each weight."""
    scores = np.append(weights, 0.0)[labels.cells].sum(axis=1)
    sizes = np.diff(np.append(labels.starts, len(scores)))
    odds = np.exp(scores)
    scale = 1.0 / (1.0 + np.add.reduceat(odds, labels.starts))
    probs = odds * np.repeat(scale, sizes)
    hit = np.add.reduceat(labels.right * scores, labels.starts)
    total = -float((labels.weight * (hit + np.log(scale))).sum())
    error = (probs - labels.right) * np.repeat(labels.weight, sizes)
    slope = np.bincount(labels.cells.ravel(), np.repeat(error, NUM_CELLS), minlength=NUM_FITTED + 1)
    return total, slope[:NUM_FITTED].astype(np.float64)


def fit(labels: Labels, *, steps: int = 300, ridge: float = 10.0) -> Float64Array:
    """The weights of least loss plus ridge/2 · |weights|², float64 [NUM_FITTED], by Adam."""
    weights = np.zeros(NUM_FITTED)
    mean, spread = np.zeros(NUM_FITTED), np.zeros(NUM_FITTED)
    for step in range(1, steps + 1):
        slope = loss(labels, weights)[1] + ridge * weights
        mean += 0.1 * (slope - mean)
        spread += 0.01 * (slope * slope - spread)
        rate = 0.1 * min(1.0, 3.0 * (1.0 - step / (steps + 1)))
        size = np.sqrt(spread / (1.0 - 0.99**step)) + 1e-9
        weights -= rate * mean / (1.0 - 0.9**step) / size
    return weights


def tables(weights: Float64Array) -> dict[str, list[int]]:
    """The fitted weights by table, in hundredths, as they are shipped."""
    return {
        name: np.rint(weights[OFFSETS[name] : OFFSETS[name] + TABLE_SIZES[name]] * DECIMALS)
        .astype(int)
        .tolist()
        for name in FITTED
    }


def write_priors(weights: Float64Array, path: Path) -> None:
    """Writes the table file."""
    lines = [
        '"""Shipped weights of evidence, hundredths of log-odds; generated by bench/fit.py."""',
        "",
        "# fmt: off",
        "WEIGHTS: dict[str, list[int]] = {",
    ]
    for name, values in tables(weights).items():
        lines.append(f'    "{name}": [')
        for start in range(0, len(values), 15):
            row = ", ".join(str(value) for value in values[start : start + 15])
            lines.append(f"        {row},")
        lines.append("    ],")
    path.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


@click.command("fit")
@click.argument("files", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), default=PRIORS_FILE)
@click.option("--dry-run", is_flag=True, help="Report the losses, write nothing.")
def command(files: tuple[str, ...], output: Path, dry_run: bool) -> None:
    """Fit the shipped weights to FILES, each given as TRACES.jsonl=VOCAB.gguf.

    Reports the loss of each file under weights fitted to all others, and to all files.
    """
    parts: list[Labels] = []
    try:
        for item in files:
            traces, _, vocab = item.partition("=")
            part = collect(load_traces([Path(traces)], Path(vocab)))
            parts.append(part)
        parts = balance(parts)
        everything = fit(join(parts))
        for index, item in enumerate(files):
            part = parts[index]
            others = fit(join(parts[:index] + parts[index + 1 :])) if len(parts) > 1 else everything
            click.echo(
                f"{Path(item.partition('=')[0]).stem}: {len(part.starts)} positions, nats each "
                f"{loss(part, others)[0] / part.weight.sum():.4f} without it, "
                f"{loss(part, everything)[0] / part.weight.sum():.4f} with it"
            )
        if not dry_run:
            write_priors(everything, output)
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    command()
