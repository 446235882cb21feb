"""`python -m bench history`: what earlier texts bring, kept by the drafter or in a datastore."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from bench.compare import Outcome, compare, gain, markdown
from bench.curves import curve_names
from bench.knowledge import CONTEXT_ALONE, known
from bench.options import existing_file
from bench.traces import load_traces
from sssd_local.cli_status import StatusLine
from sssd_local.errors import SSSDError
from sssd_local.files import write_atomic

ALONE, DATASTORE, KEPT = "context alone", "datastore", "kept in the process"


def table(found: Sequence[Outcome]) -> str:
    """A row per curve: tokens per step and speed-up of each kind, with gains over the first."""
    base, *others = found
    head = ["curve", f"tokens/step, {base.name}", *[item.name for item in others]]
    head += [f"speed-up, {base.name}", *[item.name for item in others]]
    rows = [head]
    for curve, alone in base.on_curves.items():
        tallies = [item.on_curves[curve] for item in others]
        row = [curve, f"{alone.tokens_per_step:.3f}"]
        row += [_figure(item.tokens_per_step, alone.tokens_per_step) for item in tallies]
        row += [f"{alone.speedup:.3f}", *[_figure(item.speedup, alone.speedup) for item in tallies]]
        rows.append(row)
    return markdown(rows)


def _figure(new: float, old: float) -> str:
    return f"{new:.3f} ({gain(new, old)})"


@click.command("history")
@click.option("--traces", required=True, type=existing_file, help="JSONL or .npz.")
@click.option("--history", required=True, type=existing_file, help="Earlier texts, JSONL or .npz.")
@click.option("--vocab", type=existing_file, help="GGUF whose tokenizer is used; not for .npz.")
@click.option("--curve", "curves", multiple=True, help="Name or file; repeatable [all that ship].")
@click.option("--kept", is_flag=True, help="Also as texts the process has read before.")
@click.option("--per-task", type=click.IntRange(1), help="First N traces of each task [all].")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def command(
    traces: Path,
    history: Path,
    vocab: Path | None,
    curves: tuple[str, ...],
    kept: bool,
    per_task: int | None,
    json_file: Path | None,
) -> None:
    """Compare drafting from the context alone with a datastore of earlier texts.

    Traces are forgotten one by one and the odds are cold at the start, with and without the store.
    With --kept the process has read the history itself, and keeps the traces too.
    """
    status = StatusLine()
    try:
        chosen = load_traces([traces], vocab, per_task)
        texts = load_traces([history], vocab)
        kinds = {ALONE: CONTEXT_ALONE, DATASTORE: known(texts, datastore=True, keep=False)}
        if kept:
            kinds[KEPT] = known(texts, datastore=False, keep=True)
        found = compare(chosen, kinds, curves or curve_names(), say=status.show)
        if json_file:
            content = {"kinds": [outcome.as_dict() for outcome in found]}
            write_atomic(json_file, (json.dumps(content, indent=1) + "\n").encode(), 0o644)
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        status.wipe()
    num_tokens = sum(map(len, texts))
    click.echo(f"{len(chosen)} answers; a history of {len(texts)} texts, {num_tokens} tokens\n")
    click.echo(table(found), nl=False)


if __name__ == "__main__":
    command()
