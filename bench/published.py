"""Replays recorded answers through SSSD's published settings, without a model, on cost curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from bench.curves import MAX_WIDTH, load_curve
from bench.options import existing_file
from bench.peers_sssd import PublishedDrafter
from bench.simulate import right_path
from bench.traces import TokenTrace, load_traces
from sssd_local.errors import SSSDError

COSTS = np.ones(MAX_WIDTH)


@dataclass(frozen=True, slots=True)
class Counts:
    """What replays with one width added up; `widths[w]` counts the steps of w tokens."""

    width: int
    tokens: int
    accepted: int
    widths: np.ndarray

    @property
    def tokens_per_step(self) -> float:
        """Tokens of a step, the accepted ones and the one that comes anyway."""
        return self.tokens / max(1, int(self.widths.sum()))

    def speedup(self, costs: np.ndarray) -> float:
        """Plain decoding's time over this one's where a step of w tokens costs costs[w - 1]."""
        spent = float(self.widths[1:] @ costs)
        return self.tokens * float(costs[0]) / spent if spent else 1.0


def replay(traces: Sequence[TokenTrace], width: int) -> Counts:
    """Decodes the traces with trees of `width` − 1 nodes, tables emptied for each answer."""
    widths = np.zeros(MAX_WIDTH + 1, np.int64)
    tokens = accepted = 0
    drafter = PublishedDrafter(width, max_leaves=None)
    for trace in traces:
        answer, position = trace.answer, 1
        drafter.reset()
        drafter.sync(np.array(trace.prompt, np.int32))
        drafter.observe(drafter.draft(COSTS, 0, 0), [], answer[:1])
        while position < len(answer):
            tree = drafter.draft(COSTS, width - 1, len(answer) - position)
            path = right_path(tree, answer, position)
            taken = answer[position : position + len(path) + 1]
            path = path[: len(taken) - 1]
            drafter.observe(tree, path, taken)
            widths[len(tree) + 1] += 1
            accepted += len(path)
            position += len(taken)
        tokens += max(0, len(answer) - 1)
    return Counts(width, tokens, accepted, widths)


def table(found: Sequence[Counts], curves: Sequence[str]) -> str:
    """A markdown table: a row per width, its tokens per step and its speed-up on each curve."""
    rows = [["width", "tokens per step", *curves], ["---:"] * (2 + len(curves))]
    costs = [load_curve(curve) for curve in curves]
    for counts in found:
        speedups = [f"{counts.speedup(curve):.2f}" for curve in costs]
        rows.append([str(counts.width), f"{counts.tokens_per_step:.3f}", *speedups])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@click.command("published")
@click.option("--traces", required=True, type=existing_file, help="JSONL.")
@click.option("--vocab", required=True, type=existing_file, help="GGUF whose tokenizer is used.")
@click.option("--curve", "curves", multiple=True, required=True, help="Name or file; repeatable.")
@click.option(
    "--width",
    "widths",
    multiple=True,
    default=(8, 32),
    show_default=True,
    type=click.IntRange(2, MAX_WIDTH),
    help="Tokens of a verify batch; repeatable.",
)
@click.option("--per-task", type=click.IntRange(1), help="First N traces of each task [all].")
@click.option("--min-tokens", default=1, show_default=True, type=click.IntRange(1))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def command(
    traces: Path,
    vocab: Path,
    curves: tuple[str, ...],
    widths: tuple[int, ...],
    per_task: int | None,
    min_tokens: int,
    json_file: Path | None,
) -> None:
    """Replay recorded answers with SSSD's published settings, without a model."""
    try:
        costs = {curve: load_curve(curve) for curve in curves}
        chosen = load_traces([traces], vocab, per_task, min_tokens)
        found = [replay(chosen, width) for width in widths]
        if json_file:
            report = {
                str(counts.width): {
                    "tokens_per_step": counts.tokens_per_step,
                    "tokens": counts.tokens,
                    "accepted": counts.accepted,
                    "speedup": {name: counts.speedup(curve) for name, curve in costs.items()},
                }
                for counts in found
            }
            json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found, curves), nl=False)
