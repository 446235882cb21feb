"""What a step costs outside llama_decode, by stage, where the model's weights push code and tables
out of the processor's caches as they do for a user."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.options import CACHE, existing_file
from bench.traces import TokenTrace, load_traces
from models.replay import QUANTS, SHAPES, ReplayFile, cached_replay_model
from sssd_local.engine import decode
from sssd_local.engine.decode import Engine, Request, answer
from sssd_local.engine.output import Output
from sssd_local.engine.sampling import Greedy
from sssd_local.errors import SSSDError
from sssd_local.hardware.threads import default_threads
from sssd_local.llm import LLM

# Kind of step: the engine's width, and how many drafted nodes are tested (None: does not draft).
KINDS: dict[str, tuple[int | None, int | None]] = {
    "plain": (1, None),
    "undrafted": (None, 0),
    "drafted": (None, 3),
}
# Stages of a step by the names they have in engine/decode.py; `decode` without llama_decode.
STAGES = ("make_room", "draft", "decode", "verify", "keep", "observe", "emit")
PARTS = {"drafter": ("draft", "observe"), "sizer": ("costs", "choose", "observe")}


class Stopwatch:
    """Seconds spent in wrapped functions, a list for each name, by the step they belong to."""

    def __init__(self) -> None:
        self.step: dict[str, float] = {}
        self._stack = ExitStack()

    def wrap(self, owner: Any, attribute: str, label: str) -> None:
        """Times `owner.attribute` until `close`."""
        inner: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                spent = time.perf_counter() - started
                self.step[label] = self.step.get(label, 0.0) + spent

        self._stack.enter_context(replaced(owner, attribute, timed))

    def close(self) -> None:
        """Puts all functions back."""
        self._stack.close()


@contextmanager
def replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """Another value for an attribute, the old state afterwards."""
    was = vars(owner).get(attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if was is None:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, was)


def watch(engine: Engine) -> Stopwatch:
    """A stopwatch on every stage of an engine's step and the parts of drafting and sizing."""
    clock = Stopwatch()
    for stage in STAGES:
        owner: Any = {"verify": decode, "emit": Output}.get(stage, engine)
        clock.wrap(owner, stage, stage)
    for part, names in PARTS.items():
        for name in names:
            clock.wrap(getattr(engine, part), name, f"{part}.{name}")
    return clock


def measure(engine: Engine, trace: TokenTrace, kind: str) -> list[dict[str, float]]:
    """Seconds by stage of each step of a kind, and `all`, everything outside llama_decode."""
    width, num_tested = KINDS[kind]
    engine.width = width
    engine.reset()
    request = Request(
        prompt=np.array(trace.prompt, np.int32),
        sampler=Greedy(),
        max_tokens=len(trace.answer),
        stop=(),
        make_room=lambda history: None,
        should_stop=lambda: False,
    )
    steps: list[dict[str, float]] = []
    with ExitStack() as stack:
        if num_tested is not None:
            chosen = num_tested
            choose = replaced(engine.sizer, "choose", lambda probs, *_: min(len(probs), chosen))
            stack.enter_context(choose)
        clock = watch(engine)
        stack.callback(clock.close)
        last = 0.0
        for step in answer(engine, request):
            now = time.perf_counter()
            found, clock.step = clock.step, {}
            wanted = num_tested is None or bool(step.tested) == bool(num_tested)
            if last and step.decode_seconds and wanted:
                found["decode"] -= step.decode_seconds
                steps.append({"all": now - last - step.decode_seconds, **found})
            last = time.perf_counter()
    return steps


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median microseconds of each stage over the steps that have it; `steps` is their number."""
    names = dict.fromkeys(name for step in steps for name in step)
    found = {
        name: 1e6 * statistics.median(step[name] for step in steps if name in step)
        for name in names
    }
    return {"steps": float(len(steps)), **found}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A markdown table: a row per stage, a column per kind of step, µs."""
    parts = [f"{part}.{name}" for part, names in PARTS.items() for name in names]
    lines = [
        f"| µs a step (median) | {' | '.join(found)} |\n",
        f"| --- |{' ---: |' * len(found)}\n",
    ]
    for name in ("all", *STAGES, *parts, "steps"):
        cells = [f"{kind[name]:.0f}" if name in kind else "–" for kind in found.values()]
        label = {"all": "**all outside llama_decode**", "steps": "steps"}.get(name, name)
        lines.append(f"| {label} | {' | '.join(cells)} |\n")
    return "".join(lines)


def run(
    traces: Sequence[TokenTrace], model: Path, *, ctx: int, threads: int, repeat: int
) -> dict[str, dict[str, float]]:
    """Measures every kind of step on the same texts in turn; by kind the medians."""
    steps: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with (
        LLM(model, ctx=ctx, threads=threads, threads_batch=threads) as llm,
        llm.engine() as engine,
        ReplayFile(model) as file,
    ):
        for trace in traces:
            file.set_text(trace.answer, len(trace.prompt))
            for _ in range(repeat):
                for kind in KINDS:
                    steps[kind] += measure(engine, trace, kind)
        engine.reset()
    return {kind: medians(found) for kind, found in steps.items()}


@click.command("overhead")
@click.option("--traces", "traces_file", required=True, type=existing_file, help="JSONL.")
@click.option("--vocab", required=True, type=existing_file, help="GGUF whose tokenizer is used.")
@click.option("--size", default="1b", show_default=True, type=click.Choice(list(SHAPES)))
@click.option("--quant", default="Q4_0", show_default=True, type=click.Choice(QUANTS))
@click.option("--per-task", default=1, show_default=True, type=click.IntRange(1))
@click.option("--min-tokens", default=100, show_default=True, type=click.IntRange(2))
@click.option("--threads", type=click.IntRange(1), help="[physical cores].")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1))
@click.option("--cache", default=CACHE, show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures here.")
def command(
    traces_file: Path,
    vocab: Path,
    size: str,
    quant: str,
    per_task: int,
    min_tokens: int,
    threads: int | None,
    repeat: int,
    cache: Path,
    json_file: Path | None,
) -> None:
    """Measure what a step costs outside llama_decode, by stage.

    Three kinds of step on the same recorded answers: plain decoding, one that looks for a draft
    and tests none, and one that tests up to 3 drafted nodes. The clocks add about 1 µs a stage.
    """
    from bench.replay import needed_ctx

    try:
        traces = load_traces([traces_file], vocab, per_task, min_tokens)
        if not traces:
            raise SSSDError("no trace is left to run; lower --min-tokens")
        ctx, threads = needed_ctx(traces), threads or default_threads()
        model = cached_replay_model(
            cache.expanduser(), vocab, size, quant, ctx, num_threads=threads
        )
        found = run(traces, model, ctx=ctx, threads=threads, repeat=repeat)
        if json_file:
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(found), nl=False)
