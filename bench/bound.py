"""`python -m bench bound`: what keeps sizing from a perfect choice: the odds, or chance.

At every position of every answer the drafter drafts 64 nodes; the cost rule sizes them, and in
hindsight the best number of right nodes is known. Both are rated twice: by the recorded answer,
and by answers drawn from the drafter's own odds. In the second world these odds are exactly
right, so no rule that goes by them could come nearer to hindsight. Where the first world's share
is as large, better sizing cannot bring more, only drafts that know more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np

from bench.compare import markdown
from bench.curves import Float64Array, load_curve
from bench.options import existing_file
from bench.simulate import LIMIT_NODES, UNCUT, Replay, right_path
from bench.traces import TokenTrace, load_traces
from sssd_local.draft.tree import DraftTree
from sssd_local.errors import SSSDError
from sssd_local.hardware.budget import Account, best_size


@dataclass(slots=True)
class Rate:
    """Tokens and their cost in plain steps, by the rule and in hindsight."""

    tokens: int = 0
    cost: float = 0.0
    hindsight_tokens: int = 0
    hindsight_cost: float = 0.0

    def add(self, size: int, path: Sequence[int], costs: Float64Array) -> None:
        """A step that tested `size` nodes where `path` is right."""
        self.tokens += 1 + sum(node < size for node in path)
        self.cost += costs.item(size)
        rates = np.arange(1, len(path) + 2) / costs[: len(path) + 1]
        best = int(rates.argmax())
        self.hindsight_tokens += 1 + best
        self.hindsight_cost += costs.item(best)

    @property
    def speedup(self) -> float:
        """By the rule."""
        return self.tokens / self.cost if self.cost else 1.0

    @property
    def limit(self) -> float:
        """In hindsight."""
        return self.hindsight_tokens / self.hindsight_cost if self.hindsight_cost else 1.0

    @property
    def share(self) -> float:
        """The rule's of hindsight's."""
        return self.speedup / self.limit


@dataclass(slots=True)
class Bound:
    """The same steps by the recorded answers and by answers drawn from the odds."""

    recorded: Rate = field(default_factory=Rate)
    drawn: Rate = field(default_factory=Rate)


def drawn_path(tree: DraftTree, random: np.random.Generator) -> list[int]:
    """Nodes from the root down that come true, by the tree's own odds."""
    path: list[int] = []
    at, above = -1, 1.0
    parents, probs = tree.parents.tolist(), tree.probs.tolist()
    while True:
        chance = float(random.random()) * above
        for node in range(at + 1, len(probs)):
            if parents[node] == at:
                chance -= probs[node]
                if chance < 0:
                    break
        else:
            return path
        path.append(node)
        at, above = node, probs[node]


def bound(traces: Sequence[TokenTrace], costs: Float64Array, seed: int = 0) -> Bound:
    """Rates every position of the traces."""
    found, replay, random = Bound(), Replay(costs), np.random.default_rng(seed)
    for trace in traces:
        replay.begin(trace)
        account = Account()
        for position in range(1, len(trace.answer)):
            left = len(trace.answer) - position
            tree = replay.drafter.draft(UNCUT, LIMIT_NODES - 1, left)
            size = best_size(tree.probs, costs, optimism=account.optimism)
            found.recorded.add(size, right_path(tree, trace.answer, position), costs)
            found.drawn.add(size, drawn_path(tree, random), costs)
            replay.observe(trace, tree, [], position, trace.answer[position : position + 1])
    return found


def table(found: dict[str, Bound]) -> str:
    """A row for each curve."""
    rows = [["curve", "speed-up", "hindsight", "share", "share where the odds are right"]]
    for name, item in found.items():
        recorded, drawn = item.recorded, item.drawn
        rows.append(
            [
                name,
                f"{recorded.speedup:.3f}",
                f"{recorded.limit:.3f}",
                f"{recorded.share:.1%}",
                f"{drawn.share:.1%}",
            ]
        )
    return markdown(rows)


@click.command("bound")
@click.option("--traces", "traces_file", required=True, type=existing_file, help="JSONL or .npz.")
@click.option("--vocab", type=existing_file, help="GGUF whose tokenizer is used; not for .npz.")
@click.option(
    "--curve", "curves", required=True, multiple=True, help="As for simulate; repeatable."
)
@click.option("--per-task", type=click.IntRange(1), help="Only the first N traces of each task.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def command(
    traces_file: Path,
    vocab: Path | None,
    curves: tuple[str, ...],
    per_task: int | None,
    json_file: Path | None,
) -> None:
    """Tell whether odds or chance keep sizing from a perfect choice."""
    try:
        traces = load_traces([traces_file], vocab, per_task, 1)
        found = {curve: bound(traces, load_curve(curve)) for curve in curves}
        if json_file:
            content = {name: asdict(item) for name, item in found.items()}
            json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found))


if __name__ == "__main__":
    command()
