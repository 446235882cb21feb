"""Replays recorded answers through the drafter and the cost rule, without a model.

At each step the drafter drafts, the cost rule sizes, and the nodes that spell the recorded answer
are accepted; time comes from a cost curve. Text and runner-ups are forgotten before each trace,
unless `Knowledge` says otherwise; the odds learn on from trace to trace, as they do for a user.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from bench.curves import Float64Array, load_curve
from bench.knowledge import CONTEXT_ALONE, Knowledge, known
from bench.options import existing_file
from bench.tally import POOL_NODES, Report, Tally, table
from bench.traces import TokenTrace, load_traces
from sssd_local.draft.tree import DraftTree
from sssd_local.errors import SSSDError
from sssd_local.hardware.budget import Account, best_size

MAX_NODES = 63
LIMIT_NODES = 64
# A first token dearer than any other, so that no node is too unlikely to be looked at.
UNCUT = np.ones(LIMIT_NODES + 1)
UNCUT[0] = 2.0


class Replay:
    """One pass over traces with its own drafter and account."""

    def __init__(self, costs: Float64Array, knowledge: Knowledge = CONTEXT_ALONE) -> None:
        self.costs = costs
        self.knowledge = knowledge
        self.drafter = knowledge.new_drafter(LIMIT_NODES)
        self.account = Account()

    def begin(self, trace: TokenTrace) -> None:
        """Starts an answer with its first token, which comes with the prompt."""
        if not self.knowledge.keep:
            self.drafter.reset()
        self.drafter.sync(np.array(trace.prompt, np.int32))
        self.observe(trace, self.drafter.draft(self.costs, 0, 0), [], 0, trace.answer[:1])
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
            self._label(tally, tree, path, answer[position])
            observing = time.perf_counter()
            self.observe(trace, tree, path, position, accepted)
            cost = float(self.costs[len(tree)])
            plain, predicted = float(self.costs[0]), float(tree.probs.sum())
            staked = cost / plain - 1
            self.account.record(predicted, len(path), cost, plain, staked=staked)
            tally.draft_us.append((drafted - started + time.perf_counter() - observing) * 1e6)
            tally.cost += cost
            tally.steps += 1
            tally.tested += len(tree)
            tally.accepted += len(path)
            position += len(accepted)
        tally.tokens = max(0, len(answer) - 1)
        return tally

    def observe(
        self,
        trace: TokenTrace,
        tree: DraftTree,
        path: Sequence[int],
        position: int,
        accepted: Sequence[int],
    ) -> None:
        """Has the drafter learn from a step whose tokens begin at a position of the answer."""
        wanted = self.knowledge.recycle and self.drafter.wants_runner_ups
        rows = trace.runner_ups if wanted else None
        if rows is not None:
            rows = rows[position : position + len(accepted)]
        if accepted:
            self.drafter.observe(tree, path, accepted, rows)

    def _label(self, tally: Tally, tree: DraftTree, path: Sequence[int], token: int) -> None:
        if len(tree):
            right = set(path)
            tally.nodes.add(tree.probs.tolist(), [node in right for node in range(len(tree))])
        tokens, probs = self.drafter.root_candidates()
        if tokens:
            tally.candidates.add(probs, [candidate == token for candidate in tokens])

    def run_forced(self, trace: TokenTrace, num_nodes: int) -> Tally:
        """Decodes the trace with `num_nodes` nodes at every step, whatever they cost."""
        tally, position, answer = Tally(), 1, trace.answer
        self.begin(trace)
        while position < len(answer):
            tree = self.drafter.draft(UNCUT, num_nodes, len(answer) - position)
            path = right_path(tree, answer, position)
            accepted = answer[position : position + len(path) + 1]
            self.observe(trace, tree, path[: len(accepted) - 1], position, accepted)
            tally.steps += 1
            tally.tested += len(tree)
            tally.accepted += len(accepted) - 1
            position += len(accepted)
        tally.tokens = max(0, len(answer) - 1)
        return tally

    def least_cost(self, trace: TokenTrace) -> float:
        """The least Σ T if each step may draft, at exactly its own cost, any length up to the
        longest right path among the first LIMIT_NODES nodes, however unlikely these are."""
        answer = trace.answer
        longest = [0] * len(answer)
        self.begin(trace)
        for position in range(1, len(answer)):
            tree = self.drafter.draft(UNCUT, LIMIT_NODES, len(answer) - position)
            longest[position] = len(right_path(tree, answer, position))
            self.observe(trace, tree, [], position, answer[position : position + 1])
        return least_cost(longest[1:], self.costs)


def least_cost(longest: Sequence[int], costs: Float64Array) -> float:
    """The least sum of costs that gets past all positions, by dynamic programming.

    A step at position i that drafts n ≤ `longest[i]` tokens costs `costs[n]` and leads to position
    i + n + 1, the end at most.
    """
    prices, end = costs.tolist(), len(longest)
    least = [0.0] * (end + 1)
    for position in range(end - 1, -1, -1):
        reach = min(longest[position], end - position - 1, len(prices) - 1)
        least[position] = min(prices[n] + least[position + n + 1] for n in range(reach + 1))
    return least[0]


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
    knowledge: Knowledge = CONTEXT_ALONE,
    with_limit: bool = True,
) -> Report:
    """Replays the traces in their order."""
    replay = Replay(costs, knowledge)
    per_task: dict[str, Tally] = {}
    for trace in traces:
        per_task.setdefault(trace.task, Tally()).add(replay.run(trace))
    pool = Tally()
    if with_limit:
        ideal, forced = Replay(costs, knowledge), Replay(costs, knowledge)
        for trace in traces:
            per_task[trace.task].add(Tally(least_cost=ideal.least_cost(trace)))
            pool.add(forced.run_forced(trace, POOL_NODES))
    total = Tally()
    for tally in per_task.values():
        total.add(tally)
    return Report(total, per_task, pool)


@click.command("simulate")
@click.option("--traces", "traces_file", required=True, type=existing_file, help="JSONL or .npz.")
@click.option("--vocab", type=existing_file, help="GGUF whose tokenizer is used; not for .npz.")
@click.option("--curve", required=True, help="A name from curves.json or a JSON file.")
@click.option("--history", type=existing_file, help="Earlier texts to draft from, JSONL or .npz.")
@click.option("--datastore", is_flag=True, help="Put the history into a datastore.")
@click.option("--keep", is_flag=True, help="Draft from earlier traces too.")
@click.option("--recycle/--no-recycle", default=True, help="Runner-up tokens, where recorded.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report here.")
@click.option("--per-task", type=click.IntRange(1), help="Only the first N traces of each task.")
@click.option("--min-tokens", type=click.IntRange(1), default=1, help="Skip shorter answers.")
@click.option("--limit/--no-limit", default=True, help="Also what a perfect choice would give.")
def command(
    traces_file: Path,
    vocab: Path | None,
    curve: str,
    history: Path | None,
    datastore: bool,
    keep: bool,
    recycle: bool,
    json_file: Path | None,
    per_task: int | None,
    min_tokens: int,
    limit: bool,
) -> None:
    """Replay recorded answers through drafter and cost rule, without a model.

    A history without --datastore is what this process read before; earlier traces then count too.
    """
    if datastore and history is None:
        raise click.UsageError("--datastore is made of a --history")
    try:
        costs = load_curve(curve)
        traces = load_traces([traces_file], vocab, per_task, min_tokens)
        texts = load_traces([history], vocab) if history else []
        knowledge = known(texts, datastore=datastore, keep=keep, recycle=recycle)
        report = simulate(traces, costs, knowledge=knowledge, with_limit=limit)
        if json_file:
            json_file.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(report))


if __name__ == "__main__":
    command()
