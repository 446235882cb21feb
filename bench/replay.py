"""Times methods side by side on recorded answers, with a model that gives exactly those answers."""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench.limit import Limit, measure_limit
from bench.method import Method, Run, Setup
from bench.methods import LLAMA_SERVER, method_factory
from bench.peers_server import server_version
from bench.traces import TokenTrace, load_traces
from models.replay import ReplayFile, cached_replay_model
from sssd_local.config import KV_TYPES
from sssd_local.errors import ConfigError, ModelError, SSSDError
from sssd_local.hardware.threads import default_threads

# Room for drafts past the end of an answer: a learned position past the last aborts llama.cpp.
DRAFT_ROOM = 64
CTX_BLOCK = 256
MIN_SECONDS = 1e-6
WARM_UP_PROMPT = 16
WARM_UP_TOKENS = 24
FIRST_ORDINARY_TOKEN = 3

Load = Callable[[Setup], Method]
Say = Callable[[str], None]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is run: traces by files, the model by size and quant, methods by names with commas.

    `threads` None is the physical cores, `ctx` None enough for the longest trace, `busy` how many
    endless loops run beside them, `llama_server` the program of the methods of that name. Raises
    ConfigError for methods or KV types that do not exist.
    """

    traces: tuple[Path, ...]
    vocab: Path
    size: str
    quant: str
    methods: str
    cache: Path
    per_task: int | None = None
    min_tokens: int = 32
    threads: int | None = None
    ctx: int | None = None
    repeat: int = 1
    kv_type: str = "f16"
    busy: int = 0
    llama_server: Path | None = None

    def __post_init__(self) -> None:
        names = self.names
        if not names or len(set(names)) != len(names):
            raise ConfigError("name at least one method, and each only once")
        for name in names:
            method_factory(name)
        if self.kv_type not in KV_TYPES:
            raise ConfigError(f"kv_type must be one of {', '.join(KV_TYPES)}, got {self.kv_type!r}")
        wanting = [name for name in names if name.startswith(LLAMA_SERVER)]
        if wanting and self.llama_server is None:
            raise ConfigError(f"the method {wanting[0]} needs --llama-server PATH")

    @property
    def names(self) -> list[str]:
        """The methods' names."""
        return [name.strip() for name in self.methods.split(",") if name.strip()]

    @property
    def command(self) -> str:
        """The command line that does the same; files by their names, without their folders."""
        words = ["python", "-m", "bench", "replay"]
        for item in fields(self):
            value = getattr(self, item.name)
            if value in (None, 0) or item.name == "cache":
                continue
            for one in value if isinstance(value, tuple) else [value]:
                text = one.name if isinstance(one, Path) else str(one)
                words += [f"--{item.name.replace('_', '-')}", text]
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one trace: medians over the repeats; `tokens` are the answer's.

    `seconds` run from the first token to the last and `tokens_per_second` counts those after the
    first. `identical` says that every repeat gave the recorded tokens.
    """

    trace: str
    task: str
    method: str
    tokens: int
    seconds: float
    tokens_per_second: float
    steps: int
    tested: int
    accepted: int
    identical: bool

    def line(self) -> str:
        """One line for people."""
        rate = f"{self.tokens} tokens  {self.tokens_per_second:.1f} tok/s"
        mark = "" if self.identical else "  NOT IDENTICAL"
        return f"{self.trace}  {self.task}  {self.method}  {rate}{mark}"


def run(options: Options, say: Say) -> tuple[list[Result], dict[str, object], Limit]:
    """Does a whole benchmark: chooses traces, finds the model, runs the methods.

    Returns the results, the settings they depend on and the machine's limit; `say` hears of traces
    left out, of the limit and of each result. Raises SSSDError when nothing can be run.
    """
    chosen = load_traces(options.traces, options.vocab, options.per_task, options.min_tokens)
    threads = options.threads or default_threads()
    ctx = options.ctx or needed_ctx(chosen)
    kept, left_out = fitting(chosen, ctx)
    for trace in left_out:
        say(f"skipped {trace.id}: {len(trace)} tokens and room for drafts do not fit into {ctx}")
    if not kept:
        raise SSSDError("no trace is left to run; lower --min-tokens or raise --ctx")
    cache = options.cache.expanduser()
    model = cached_replay_model(
        cache, options.vocab, options.size, options.quant, ctx, num_threads=threads
    )
    setup = Setup(
        model=model,
        ctx=ctx,
        threads=threads,
        kv_type=options.kv_type,
        llama_server=options.llama_server,
    )
    limit = measure_limit(setup)
    say(limit.line())
    loads = [method_factory(name) for name in options.names]
    with busy_machine(options.busy):
        results = replay(kept, loads, setup, repeat=options.repeat, say=say)
    settings = asdict(options) | {
        "traces": [path.name for path in options.traces],
        "vocab": options.vocab.name,
        "threads": threads,
        "ctx": ctx,
        "skipped": [trace.id for trace in left_out],
        "command": options.command,
    }
    del settings["cache"], settings["llama_server"]
    if options.llama_server is not None:
        settings["llama_server"] = server_version(options.llama_server)
    return results, settings, limit


@contextmanager
def busy_machine(num_loops: int) -> Iterator[None]:
    """Endless loops in processes of their own, so that the methods share the processor."""
    with ExitStack() as stack:
        for _ in range(num_loops):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def needed_ctx(traces: Sequence[TokenTrace]) -> int:
    """The context that holds the longest trace and drafts past its end, in llama.cpp's steps."""
    longest = max(map(len, traces), default=0)
    return -(-(longest + DRAFT_ROOM) // CTX_BLOCK) * CTX_BLOCK


def fitting(traces: Sequence[TokenTrace], ctx: int) -> tuple[list[TokenTrace], list[TokenTrace]]:
    """Splits traces into those that fit into a context and those that do not."""
    fit = [trace for trace in traces if len(trace) + DRAFT_ROOM <= ctx]
    return fit, [trace for trace in traces if len(trace) + DRAFT_ROOM > ctx]


def replay(
    traces: Sequence[TokenTrace],
    loads: Sequence[Load],
    setup: Setup,
    *,
    repeat: int = 1,
    say: Say = lambda _: None,
) -> list[Result]:
    """Runs every method on every trace and returns the results in that order.

    All methods stay loaded. Per trace each has its turn before the next repeat, in an order that
    moves on by one each time, so that no method always runs on a warm or a hot machine.
    """
    results: list[Result] = []
    with ReplayFile(setup.model) as file, ExitStack() as stack:
        seats = [stack.enter_context(_seated(load, setup, file)) for load in loads]
        try:
            for index, trace in enumerate(traces):
                found = _replay_trace(trace, rotated(seats, index), file, repeat)
                results += [found[seat.name] for seat in seats]
                for seat in seats:
                    say(found[seat.name].line())
        except KeyboardInterrupt:
            if not results:
                raise
            say("stopped; the traces done so far are reported")
    return results


def _replay_trace(
    trace: TokenTrace, seats: Sequence[_Seat], file: ReplayFile, repeat: int
) -> dict[str, Result]:
    """One trace by all methods, the results by their names."""
    file.set_text(trace.answer, len(trace.prompt))
    runs: dict[str, list[Run]] = {}
    for turn in range(repeat):
        for seat in rotated(seats, turn):
            runs.setdefault(seat.name, []).append(seat.run(trace.prompt, len(trace.answer)))
    return {name: summarise(trace, name, timed) for name, timed in runs.items()}


def rotated(items: Sequence[Item], start: int) -> list[Item]:
    """The items from number `start` (modulo their number) on, then those before."""
    cut = start % len(items)
    return [*items[cut:], *items[:cut]]


def summarise(trace: TokenTrace, method: str, runs: Sequence[Run]) -> Result:
    """Medians over the repeats of one method on one trace."""
    # An answer broken off at its first token took no time; it is not identical, but has a ratio.
    seconds = max(statistics.median(run.seconds for run in runs), MIN_SECONDS)
    tokens = len(trace.answer)
    return Result(
        trace=trace.id,
        task=trace.task,
        method=method,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=(tokens - 1) / seconds,
        steps=statistics.median_low(run.steps for run in runs),
        tested=statistics.median_low(run.tested for run in runs),
        accepted=statistics.median_low(run.accepted for run in runs),
        identical=all(run.token_ids == trace.answer for run in runs),
    )


class _Seat:
    """A method's place at the table: its model is loaded anew only if it cannot see new texts."""

    def __init__(self, load: Load, setup: Setup) -> None:
        self._load, self._setup = load, setup
        self._method = load(setup)
        self.name = self._method.name
        self.sees_new_texts = True

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        if not self.sees_new_texts:
            self._method.close()
            self._method = self._load(self._setup)
        return self._method.run(prompt, max_tokens)

    def close(self) -> None:
        self._method.close()


@contextmanager
def _seated(load: Load, setup: Setup, file: ReplayFile) -> Iterator[_Seat]:
    """Loads a method and warms it up on a text set afterwards: does it see what changed?

    Where llama.cpp maps the file it does; else the model must be loaded again for each text.
    """
    with closing(_Seat(load, setup)) as seat:
        for _ in range(2):
            prompt, text = _warm_up_text(file)
            file.set_text(text, len(prompt))
            seen = seat.run(prompt, len(text)).token_ids
            if seen == tuple(text):
                break
            if not seat.sees_new_texts:
                raise ModelError(
                    f"{seat.name} does not give back the text set in {file.path}: got "
                    f"{list(seen[:8])}… for {text[:8]}…; delete the file to have it written anew"
                )
            seat.sees_new_texts = False
        yield seat


def _warm_up_text(file: ReplayFile) -> tuple[list[int], list[int]]:
    """A prompt and an answer of random tokens, others each time.

    Nothing repeats, so nothing is learned about how often drafts come true.
    """
    # Not seeded: a text that the file already held would be seen by a model that sees no change.
    rng = np.random.default_rng()
    ordinary = rng.integers(FIRST_ORDINARY_TOKEN, file.num_tokens, WARM_UP_PROMPT + WARM_UP_TOKENS)
    tokens = [int(token) for token in ordinary if token != file.eos]
    return tokens[:WARM_UP_PROMPT], tokens[WARM_UP_PROMPT:]
