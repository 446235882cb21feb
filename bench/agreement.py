"""Does `sssd-local probe` measure what a plain loop measures, and twice the same?

The other timing shares no code with the probe: it calls llama_decode in a loop, on a context that
was evaluated for real, and takes medians over rounds of all widths in turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import llama_cpp
import numpy as np

from bench.options import CACHE, existing_file
from models.replay import QUANTS, SHAPES, cached_replay_model
from sssd_local.errors import SSSDError

# Milliseconds by (context length, width).
Curve = dict[tuple[int, int], float]
ROUNDS = 7


def probe(model: Path, threads: int | None, ctx: int) -> tuple[Curve, dict[str, Any]]:
    """What `sssd-local probe --json` prints, run as a user would on a machine it does not know."""
    command = [sys.executable, "-m", "sssd_local", "probe", str(model), "--fresh", "--json"]
    command += ["--ctx", str(ctx)] + (["--threads", str(threads)] if threads else [])
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "SSSD_LOCAL_HOME": home}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SSSDError(f"the probe of {model} failed: {done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    points = report["points"]
    return {(point["context"], point["width"]): point["ms"] for point in points}, report


def independent(
    model: Path, wanted: Sequence[tuple[int, int]], threads: int, threads_batch: int, rounds: int
) -> Curve:
    """Median milliseconds of batches of the wanted (context length, width)."""
    longest = max(context + width for context, width in wanted)
    llama = llama_cpp.Llama(
        os.fspath(model),
        n_ctx=longest + 1,
        n_threads=threads,
        n_threads_batch=threads_batch,
        logits_all=True,
        verbose=False,
    )
    try:
        found: Curve = {}
        for context in sorted({context for context, _ in wanted}):
            widths = [width for at, width in wanted if at == context]
            found |= _time_widths(llama, context, widths, rounds)
        return found
    finally:
        llama.close()


def _time_widths(llama: Any, context: int, widths: Sequence[int], rounds: int) -> Curve:
    tokens = np.random.default_rng(1).integers(0, llama.n_vocab(), 1 << 16).tolist()
    llama.reset()
    llama.eval(tokens[:context])
    seconds: dict[int, list[float]] = {width: [] for width in widths}
    for number in range(rounds + 1):
        for width in widths:
            started = time.perf_counter()
            _decode(llama, tokens[:width], context)
            # The first round warms up.
            if number:
                seconds[width].append(time.perf_counter() - started)
    return {(context, width): 1000 * statistics.median(times) for width, times in seconds.items()}


def _decode(llama: Any, tokens: Sequence[int], position: int) -> None:
    """One verify batch, all of whose logits are wanted, taken back again."""
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place] = token, position + place
            batch.n_seq_id[place], batch.logits[place] = 1, 1
            batch.seq_id[place][0] = 0
        if llama_cpp.llama_decode(llama.ctx, batch):
            raise SSSDError("llama_decode failed")
        llama_cpp.llama_synchronize(llama.ctx)
    finally:
        llama_cpp.llama_batch_free(batch)
    memory = llama_cpp.llama_get_memory(llama.ctx)
    llama_cpp.llama_memory_seq_rm(memory, 0, position, -1)


def differences(one: Mapping[tuple[int, int], float], two: Mapping[tuple[int, int], float]) -> Any:
    """How far two curves are apart: the median and the largest of |ratio - 1| over their points."""
    gaps = [abs(one[point] / two[point] - 1) for point in one if point in two]
    if not gaps:
        raise SSSDError("the two curves have no point in common")
    return {"points": len(gaps), "median": statistics.median(gaps), "largest": max(gaps)}


def compare(model: Path, threads: int | None, ctx: int, rounds: int) -> dict[str, Any]:
    """Two probes of a model with the other timing between them, and how far they are apart."""
    first, report = probe(model, threads, ctx)
    other = independent(model, list(first), report["threads"], report["threads_batch"], rounds)
    second, again = probe(model, threads, ctx)
    return {
        "model": model.name,
        "threads": [report["threads"], report["threads_batch"]],
        "threads_again": [again["threads"], again["threads_batch"]],
        "probe_and_timing": differences(first, other),
        "probe_and_probe": differences(first, second),
        "points": [
            {"context": context, "width": width, "probe_ms": first[context, width],
             "timing_ms": other[context, width], "again_ms": second.get((context, width))}
            for context, width in first
        ],
    }  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table, a row for each model."""
    lines = [
        "| model | probe against timing: median (largest) | probe against probe |\n",
        "| --- | ---: | ---: |\n",
    ]
    for model in found:
        cells = [
            f"{model[name]['median']:.1%} ({model[name]['largest']:.1%})"
            for name in ("probe_and_timing", "probe_and_probe")
        ]
        lines.append(f"| {model['model']} | {' | '.join(cells)} |\n")
    return "".join(lines)


@click.command("agreement")
@click.option("--vocab", required=True, type=existing_file, help="GGUF whose tokenizer is used.")
@click.option("--size", default="1b", show_default=True, type=click.Choice(list(SHAPES)))
@click.option(
    "--quant",
    "quants",
    multiple=True,
    default=("Q4_0", "Q4_K_M", "Q8_0"),
    show_default=True,
    type=click.Choice(QUANTS),
    help="Repeatable.",
)
@click.option("--threads", type=click.IntRange(1), help="[the probe's choice].")
@click.option("--ctx", default=2048, show_default=True, type=click.IntRange(256))
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--cache", default=CACHE, show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def command(
    vocab: Path,
    size: str,
    quants: Sequence[str],
    threads: int | None,
    ctx: int,
    rounds: int,
    cache: Path,
    json_file: Path | None,
) -> None:
    """Compare `sssd-local probe` with an independent timing of the same widths, and with itself.

    Leave the machine alone meanwhile. Of each model the probe is run twice with the timing between.
    """
    found = []
    try:
        for quant in quants:
            model = cached_replay_model(cache.expanduser(), vocab, size, quant, ctx)
            found.append(compare(model, threads, ctx, rounds))
            click.echo(table(found[-1:]).splitlines()[-1], err=True)
        if json_file:
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found), nl=False)
