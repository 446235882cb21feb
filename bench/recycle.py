"""`python -m bench recycle`: what runner-ups and knowledge kept across prompts bring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from bench.answers import read_answers
from bench.compare import Outcome, compare, gain, markdown
from bench.curves import curve_names
from bench.knowledge import Knowledge
from bench.options import existing_file
from sssd_local.cli_status import StatusLine
from sssd_local.errors import SSSDError
from sssd_local.files import write_atomic

KINDS = {
    "emptied": Knowledge(keep=False, recycle=False),
    "emptied, recycling": Knowledge(keep=False, recycle=True),
    "kept": Knowledge(keep=True, recycle=False),
    "kept, recycling": Knowledge(keep=True, recycle=True),
}
# Each kind with recycling, and what it is measured against.
PAIRS = {"emptied, recycling": "emptied", "kept, recycling": "kept"}


def table(found: Sequence[Outcome]) -> str:
    """Tokens per step with a fixed number of nodes, and the speed-up on each curve."""
    by_name = {outcome.name: outcome for outcome in found}
    curves = list(found[0].on_curves)
    rows = [["knowledge", "tokens/step", *curves]]
    for outcome in found:
        speedups = [f"{outcome.on_curves[curve].speedup:.3f}" for curve in curves]
        rows.append([outcome.name, f"{_forced(outcome):.3f}", *speedups])
    for name, base_name in PAIRS.items():
        new, base = by_name[name], by_name[base_name]
        gains = [
            gain(new.on_curves[curve].speedup, base.on_curves[curve].speedup) for curve in curves
        ]
        rows.append([f"recycling, {base_name}", gain(_forced(new), _forced(base)), *gains])
    return markdown(rows)


def _forced(outcome: Outcome) -> float:
    return outcome.forced.tokens_per_step if outcome.forced is not None else 0.0


@click.command("recycle")
@click.option(
    "--traces", multiple=True, required=True, type=existing_file, help=".npz; repeatable."
)
@click.option("--nodes", default=16, show_default=True, type=click.IntRange(1, 64))
@click.option("--curve", "curves", multiple=True, help="Name or file; repeatable [all that ship].")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="For recycle.*")
def command(
    traces: tuple[Path, ...], nodes: int, curves: tuple[str, ...], out: Path | None
) -> None:
    """Compare tables emptied for each prompt or kept, with and without the model's runner-ups.

    For each file of `record`: tokens per step when a number of nodes is tested at every step, and
    the speed-up on each curve when the cost rule chooses.
    """
    status, results, texts = StatusLine(), {}, []
    try:
        for path in traces:
            answers = read_answers(path)
            found = compare(
                answers, KINDS, curves or curve_names(), num_nodes=nodes, say=status.show
            )
            status.wipe()
            num_tokens = sum(len(answer.answer) for answer in answers)
            texts.append(
                f"{path.stem}: {len(answers)} answers of {num_tokens} tokens; tokens per step with "
                f"{nodes} nodes at every step, then the speed-up on each curve\n\n{table(found)}"
            )
            results[path.stem] = [outcome.as_dict() for outcome in found]
        if out:
            content = {"num_nodes": nodes, "models": results}
            write_atomic(
                out / "recycle.json", (json.dumps(content, indent=1) + "\n").encode(), 0o644
            )
            write_atomic(out / "recycle.md", "\n".join(texts).encode(), 0o644)
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        status.wipe()
    click.echo("\n".join(texts), nl=False)


if __name__ == "__main__":
    command()
