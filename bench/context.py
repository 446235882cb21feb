"""`python -m bench context`: memory of the drafter's tables, and its time a step, by context."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np

from bench.compare import markdown
from bench.curves import Float64Array, load_curve
from bench.knowledge import CONTEXT_ALONE, Knowledge, text_of
from bench.options import existing_file
from bench.simulate import Replay
from bench.tally import Tally
from bench.traces import TokenTrace, load_traces
from sssd_local.draft.tree import Int32Array, empty_tree
from sssd_local.errors import ConfigError, SSSDError
from sssd_local.files import write_atomic

NUM_RUNNER_UPS = 8
MAX_NODES = 64


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured with so many tokens of context.

    `table_bytes`: the tables of the context; `fixed_bytes`: odds, and tables of runner-ups that do
    not grow. Times are of drafting, sizing and learning in one step.
    """

    context_tokens: int
    table_bytes: int
    fixed_bytes: int
    steps: int
    draft_us_median: float
    draft_us_p99: float

    @property
    def bytes_per_token(self) -> float:
        """Bytes of the tables over tokens of context."""
        return self.table_bytes / self.context_tokens


def bytes_held(text: Int32Array, knowledge: Knowledge = CONTEXT_ALONE) -> tuple[int, int]:
    """Bytes of the tables of a context, int32 [tokens ≥ 1], and of all else a drafter holds.

    The last token comes alone, as one that was sampled: the tables then have room for more.
    """
    tracemalloc.start()
    try:
        drafter = knowledge.new_drafter(MAX_NODES)
        drafter.sync(text[:-1])
        drafter.observe(empty_tree(), [], [int(text[-1])])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return drafter.context.nbytes, held - drafter.context.nbytes


def with_context(
    traces: Sequence[TokenTrace], num_answers: int, num_tokens: int
) -> list[TokenTrace]:
    """The last answers, each after so many tokens: its prompt, and before that other traces.

    Raises ConfigError where the traces are not enough.
    """
    texts, chosen = traces[:-num_answers], traces[-num_answers:]
    before = np.concatenate([text_of(trace) for trace in texts] or [np.zeros(0, np.int32)])
    longest = max((len(trace.prompt) for trace in chosen), default=0)
    if len(chosen) < num_answers or len(before) + longest < num_tokens or longest > num_tokens:
        raise ConfigError(
            f"the traces have {len(before)} tokens before the last {num_answers} answers, of which "
            f"the longest prompt has {longest}; {num_tokens} tokens of context cannot be made of "
            "them"
        )
    found: list[TokenTrace] = []
    for trace in chosen:
        missing = num_tokens - len(trace.prompt)
        context = before[len(before) - missing :].tolist() if missing else []
        found.append(replace(trace, prompt=(*context, *trace.prompt)))
    return found


def with_runner_ups(traces: Sequence[TokenTrace], seed: int = 0) -> list[TokenTrace]:
    """The traces with made-up runner-ups: the right token and others drawn from the answer.

    Good for times only.
    """
    random = np.random.default_rng(seed)
    found: list[TokenTrace] = []
    for trace in traces:
        answer = np.array(trace.answer, np.int32)
        rows = random.choice(answer, (len(answer), NUM_RUNNER_UPS)).astype(np.int32)
        rows[:, 0] = answer
        found.append(replace(trace, runner_ups=rows))
    return found


def measure(
    traces: Sequence[TokenTrace], costs: Float64Array, knowledge: Knowledge = CONTEXT_ALONE
) -> Figures:
    """Replays answers whose prompts all have one length, and measures."""
    text = np.array(traces[0].prompt, np.int32)
    total, replay = Tally(), Replay(costs, knowledge)
    for trace in traces:
        total.add(replay.run(trace))
    tables, fixed = bytes_held(text, knowledge)
    return Figures(
        context_tokens=len(text),
        table_bytes=tables,
        fixed_bytes=fixed,
        steps=total.steps,
        draft_us_median=total.draft_us_median,
        draft_us_p99=total.draft_us_p99,
    )


def table(found: Sequence[Figures]) -> str:
    """A row for each length of context."""
    rows = [["tokens of context", "bytes a token", "fixed", "µs a step, median", "p99", "steps"]]
    rows += [
        [
            f"{item.context_tokens:,}",
            f"{item.bytes_per_token:.1f}",
            f"{item.fixed_bytes / 1e6:.1f} MB",
            f"{item.draft_us_median:.0f}",
            f"{item.draft_us_p99:.0f}",
            str(item.steps),
        ]
        for item in found
    ]
    return markdown(rows)


@click.command("context")
@click.option("--traces", required=True, type=existing_file, help="JSONL or .npz.")
@click.option("--vocab", type=existing_file, help="GGUF whose tokenizer is used; not for .npz.")
@click.option("--curve", default="cuda", show_default=True, help="A name or a JSON file.")
@click.option("--tokens", multiple=True, default=(4096, 32768), show_default=True, type=int)
@click.option("--answers", default=20, show_default=True, type=click.IntRange(1))
@click.option("--history", type=existing_file, help="With a datastore of these texts.")
@click.option("--runner-ups", is_flag=True, help="With runner-ups, made up from the answers.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def command(
    traces: Path,
    vocab: Path | None,
    curve: str,
    tokens: tuple[int, ...],
    answers: int,
    history: Path | None,
    runner_ups: bool,
    json_file: Path | None,
) -> None:
    """Measure the drafter's memory for each token of context, and what a step costs it.

    The last answers of the file are replayed, before each of them its prompt and other traces.
    """
    try:
        costs, recorded = load_curve(curve), load_traces([traces], vocab)
        knowledge = CONTEXT_ALONE
        if history:
            knowledge = knowledge.with_datastore(load_traces([history], vocab))
        found: list[Figures] = []
        for num_tokens in tokens:
            chosen = with_context(recorded, answers, num_tokens)
            chosen = with_runner_ups(chosen) if runner_ups else chosen
            found.append(measure(chosen, costs, knowledge))
        if json_file:
            rows = [{**asdict(item), "bytes_per_token": item.bytes_per_token} for item in found]
            write_atomic(
                json_file, (json.dumps({"figures": rows}, indent=1) + "\n").encode(), 0o644
            )
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found), nl=False)


if __name__ == "__main__":
    command()
