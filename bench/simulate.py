"""Replays recorded answers through the drafter and the cost rule, without a model.

At each step the drafter drafts, the cost rule sizes, and the nodes that spell the recorded answer
are accepted; time comes from a cost curve. The n-gram tables are emptied for each trace, the
calibration learns on from trace to trace, as it does for a user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from bench.curves import Float64Array, load_curve
from bench.options import existing_file
from bench.traces import TokenTrace, load_traces
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import DraftTree
from sssd_local.errors import SSSDError
from sssd_local.hardware.budget import Account, best_size

MAX_NODES = 63
LIMIT_NODES = 64
POOL_NODES = 32
NUM_BINS = 10


@dataclass(slots=True)
class Tally:
    """What a replay added up; costs in plain steps."""

    tokens: int = 0
    steps: int = 0
    tested: int = 0
    accepted: int = 0
    cost: float = 0.0
    least_cost: float = 0.0
    draft_us: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Adds another tally to this one."""
        self.tokens += other.tokens
        self.steps += other.steps
        self.tested += other.tested
        self.accepted += other.accepted
        self.cost += other.cost
        self.least_cost += other.least_cost
        self.draft_us += other.draft_us

    @property
    def speedup(self) -> float:
        """Time of plain decoding over the simulated time, drafting excluded."""
        return self.tokens / self.cost if self.cost else 1.0

    @property
    def limit(self) -> float:
        """The speed-up of a perfect choice among the candidates."""
        return self.tokens / self.least_cost if self.least_cost else 1.0


class Reliability:
    """How often nodes of a predicted probability came true, in ten bins."""

    def __init__(self) -> None:
        self.counts = np.zeros(NUM_BINS)
        self.predicted = np.zeros(NUM_BINS)
        self.hits = np.zeros(NUM_BINS)

    def add(self, probs: Sequence[float], hits: Sequence[bool]) -> None:
        """Counts nodes with their probabilities and whether they came true."""
        bins = np.minimum((np.asarray(probs) * NUM_BINS).astype(np.intp), NUM_BINS - 1)
        np.add.at(self.counts, bins, 1)
        np.add.at(self.predicted, bins, probs)
        np.add.at(self.hits, bins, np.asarray(hits, np.float64))

    def rows(self) -> list[dict[str, float]]:
        """Count, mean probability and hit rate of each bin that is not empty."""
        return [
            {"count": count, "predicted": predicted / count, "hit_rate": hits / count}
            for count, predicted, hits in zip(self.counts, self.predicted, self.hits, strict=True)
            if count
        ]

    def error(self) -> float:
        """Mean distance of probability and hit rate over the bins, weighted by count."""
        total = self.counts.sum()
        return float(np.abs(self.predicted - self.hits).sum() / total) if total else 0.0


class Replay:
    """One pass over traces with its own drafter and account."""

    def __init__(self, costs: Float64Array) -> None:
        self.costs = costs
        self.drafter = Drafter(Calibration(), max_nodes=LIMIT_NODES)
        self.account = Account()
        self.nodes = Reliability()
        self.candidates = Reliability()

    def begin(self, trace: TokenTrace) -> None:
        """Starts an answer with its first token, which comes with the prompt."""
        self.drafter.sync(np.zeros(0, np.int32))
        self.drafter.sync(np.array(trace.prompt, np.int32))
        self.drafter.observe(self.drafter.draft(self.costs, 0, 0), [], trace.answer[:1])
        self.account.begin()

    def run(self, trace: TokenTrace) -> Tally:
        """Decodes the trace as the engine would."""
        tally, position, answer = Tally(), 1, trace.answer
        self.begin(trace)
        while position < len(answer):
            started = time.perf_counter()
            tree = self.drafter.draft(self.costs, MAX_NODES, len(answer) - position)
            allowed = self.account.allows()
            size = best_size(tree.probs, self.costs, optimism=self.account.optimism)
            tree = tree.prefix(size if allowed else 0)
            drafted = time.perf_counter()
            path = right_path(tree, answer, position)
            accepted = answer[position : position + len(path) + 1]
            path = path[: len(accepted) - 1]
            self._label(tree, path, answer[position])
            observing = time.perf_counter()
            self.drafter.observe(tree, path, accepted)
            cost = float(self.costs[len(tree)])
            predicted = float(tree.probs.sum())
            self.account.record(predicted, len(path), cost, float(self.costs[0]))
            tally.draft_us.append((drafted - started + time.perf_counter() - observing) * 1e6)
            tally.cost += cost
            tally.steps += 1
            tally.tested += len(tree)
            tally.accepted += len(path)
            position += len(accepted)
        tally.tokens = max(0, len(answer) - 1)
        return tally

    def _label(self, tree: DraftTree, path: Sequence[int], token: int) -> None:
        if len(tree):
            right = set(path)
            self.nodes.add(tree.probs.tolist(), [node in right for node in range(len(tree))])
        tokens, probs = self.drafter.root_candidates()
        if tokens:
            self.candidates.add(probs, [candidate == token for candidate in tokens])

    def run_forced(self, trace: TokenTrace, num_nodes: int) -> Tally:
        """Decodes the trace with `num_nodes` nodes at every step, whatever they cost."""
        tally, position, answer = Tally(), 1, trace.answer
        self.begin(trace)
        while position < len(answer):
            tree = self.drafter.draft(_FLAT, num_nodes, len(answer) - position)
            path = right_path(tree, answer, position)
            accepted = answer[position : position + len(path) + 1]
            self.drafter.observe(tree, path[: len(accepted) - 1], accepted)
            tally.steps += 1
            position += len(accepted)
        tally.tokens = max(0, len(answer) - 1)
        return tally

    def least_cost(self, trace: TokenTrace) -> float:
        """The least Σ T if each step drafts a right path of any length at exactly its own cost."""
        answer = trace.answer
        longest = [0] * len(answer)
        self.begin(trace)
        for position in range(1, len(answer)):
            tree = self.drafter.draft(_FLAT, LIMIT_NODES, len(answer) - position)
            longest[position] = len(right_path(tree, answer, position))
            self.drafter.observe(tree, [], [answer[position]])
        costs = self.costs.tolist()
        least = [0.0] * (len(answer) + 1)
        for position in range(len(answer) - 1, 0, -1):
            reach = min(longest[position], len(answer) - position - 1, len(costs) - 1)
            least[position] = min(costs[n] + least[position + n + 1] for n in range(reach + 1))
        return least[1] if len(answer) > 1 else 0.0


def right_path(tree: DraftTree, answer: Sequence[int], position: int) -> list[int]:
    """The nodes that spell the answer from `position` on."""
    path: list[int] = []
    at = -1
    parents, tokens = tree.parents.tolist(), tree.tokens.tolist()
    for node, parent in enumerate(parents):
        if position == len(answer):
            break
        if parent == at and tokens[node] == answer[position]:
            path.append(node)
            at = node
            position += 1
    return path


def simulate(
    traces: Sequence[TokenTrace],
    costs: Float64Array,
    *,
    history: Sequence[TokenTrace] = (),
    with_limit: bool = True,
) -> dict[str, object]:
    """Replays the traces and reports; `history` is replayed first and not counted."""
    replay = Replay(costs)
    for trace in history:
        replay.run(trace)
    replay.nodes, replay.candidates = Reliability(), Reliability()
    per_task: dict[str, Tally] = {}
    for trace in traces:
        per_task.setdefault(trace.task, Tally()).add(replay.run(trace))
    pool = Tally()
    if with_limit:
        ideal, forced = Replay(costs), Replay(costs)
        for trace in traces:
            per_task[trace.task].least_cost += ideal.least_cost(trace)
            pool.add(forced.run_forced(trace, POOL_NODES))
    total = Tally()
    for tally in per_task.values():
        total.add(tally)
    return {
        **_summary(total, with_limit),
        "pool_tokens_per_step": pool.tokens / pool.steps if pool.steps else None,
        "per_task": {task: _summary(tally, with_limit) for task, tally in per_task.items()},
        "calibration_error": replay.nodes.error(),
        "reliability_nodes": replay.nodes.rows(),
        "candidate_calibration_error": replay.candidates.error(),
        "reliability_candidates": replay.candidates.rows(),
    }


def _summary(tally: Tally, with_limit: bool) -> dict[str, object]:
    return {
        "speedup": tally.speedup,
        "tokens_per_step": tally.tokens / tally.steps if tally.steps else 1.0,
        "tokens": tally.tokens,
        "steps": tally.steps,
        "tested": tally.tested,
        "accepted": tally.accepted,
        "acceptance": tally.accepted / tally.tested if tally.tested else 0.0,
        "limit": tally.limit if with_limit else None,
        "draft_us_median": float(np.median(tally.draft_us)) if tally.draft_us else 0.0,
        "draft_us_p99": float(np.percentile(tally.draft_us, 99)) if tally.draft_us else 0.0,
    }


_FLAT = np.ones(LIMIT_NODES + 1)


def table(report: dict[str, object]) -> str:
    """The report as text for people."""
    lines = [f"{'task':18}{'speed-up':>9}{'limit':>7}{'tok/step':>9}{'tested':>8}{'accepted':>9}"]
    tasks = report["per_task"]
    assert isinstance(tasks, dict)
    for task, row in [*tasks.items(), ("total", report)]:
        limit = f"{row['limit']:7.3f}" if row["limit"] is not None else f"{'–':>7}"
        lines.append(
            f"{task:18}{row['speedup']:9.3f}{limit}{row['tokens_per_step']:9.3f}"
            f"{row['tested']:8d}{row['accepted']:9d}"
        )
    if report["pool_tokens_per_step"] is not None:
        lines.append(f"{POOL_NODES} nodes always: {report['pool_tokens_per_step']:.3f} tokens/step")
    lines.append(
        f"drafting: {report['draft_us_median']:.0f} µs a step (median), "
        f"{report['draft_us_p99']:.0f} µs (99th percentile), not in the speed-up"
    )
    for what in ("nodes", "candidates"):
        rows = report[f"reliability_{what}"]
        assert isinstance(rows, list)
        shown = "  ".join(f"{r['predicted']:.2f}→{r['hit_rate']:.2f}" for r in rows)
        lines.append(f"predicted→right, {what}: {shown}")
    lines.append(f"calibration error: {report['calibration_error']:.3f}")
    return "\n".join(lines)


@click.command("simulate")
@click.option("--traces", "traces_file", required=True, type=existing_file)
@click.option("--vocab", required=True, type=existing_file, help="A GGUF file.")
@click.option("--curve", required=True, help="A name from curves.json or a JSON file.")
@click.option("--history", type=existing_file, help="Traces to learn from first.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--per-task", type=click.IntRange(1), help="Only the first N traces of each task.")
@click.option("--min-tokens", type=click.IntRange(1), default=1, help="Skip shorter answers.")
@click.option("--limit/--no-limit", default=True, help="Also what a perfect choice would give.")
def command(
    traces_file: Path,
    vocab: Path,
    curve: str,
    history: Path | None,
    json_file: Path | None,
    per_task: int | None,
    min_tokens: int,
    limit: bool,
) -> None:
    """Replay recorded answers through drafter and cost rule, without a model."""
    try:
        costs = load_curve(curve)
        traces = load_traces([traces_file], vocab, per_task, min_tokens)
        known = load_traces([history], vocab) if history else []
        report = simulate(traces, costs, history=known, with_limit=limit)
        if json_file:
            json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(report))


if __name__ == "__main__":
    command()
