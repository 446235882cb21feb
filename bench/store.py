"""`python -m bench store`: what a datastore costs by its size, in time and memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.datastore import Datastore, Segment, TokenArray
from sssd_local.errors import ConfigError
from sssd_local.plot import new_figure
from sssd_local.store.manifest import DEFAULT_SEGMENT_TOKENS, Manifest
from sssd_local.store.order import context_order, library
from sssd_local.store.segment import SourceRecord, token_type
from sssd_local.store.store import create_store, read_segments

TEXT_TOKENS = 500
CONTEXT_TOKENS = 32
NUM_LOOKUPS = 4000
CHUNK = 1 << 20
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Size:
    """What was measured at one size; lookups are of a step's root, with pages in memory."""

    num_tokens: int
    num_vocab: int
    num_segments: int
    sort_tokens_per_second: float
    sort_bytes_per_token: float
    disk_bytes_per_token: float
    open_ms: float
    lookup_median_us: float
    lookup_p99_us: float
    levels_median_us: float
    mean_match: float
    private_bytes_after: int


def synthetic_texts(num_tokens: int, num_vocab: int, seed: int = 0) -> TokenArray:
    """Texts of TEXT_TOKENS tokens with word frequencies like a language's and many repetitions.

    Ids follow a Zipf law; a third of the places belong to a copy of 4 to 60 earlier tokens.
    """
    random = np.random.default_rng(seed)
    weights = np.cumsum(1 / np.arange(1, num_vocab + 1) ** 1.05)
    weights /= weights[-1]
    tokens: TokenArray = np.empty(num_tokens, token_type(num_vocab))  # type: ignore[assignment]
    for start in range(0, num_tokens, CHUNK):
        part = tokens[start : start + CHUNK]
        part[:] = np.minimum(np.searchsorted(weights, random.random(len(part))), num_vocab - 1)
        for _ in range(len(part) // 100):
            size = int(random.integers(4, 60))
            source = int(random.integers(0, max(1, start + len(part) - size)))
            target = start + int(random.integers(0, max(1, len(part) - size)))
            tokens[target : target + size] = tokens[source : source + size]
    tokens[::TEXT_TOKENS] = num_vocab
    tokens[-1] = num_vocab
    return tokens


def contexts(tokens: TokenArray, count: int, num_vocab: int, seed: int = 1) -> list[list[int]]:
    """Contexts, newest token first: 1 to 8 tokens as in the store, before them random ones."""
    random = np.random.default_rng(seed)
    found: list[list[int]] = []
    while len(found) < count:
        end = int(random.integers(CONTEXT_TOKENS, len(tokens)))
        context = tokens[end : end - CONTEXT_TOKENS : -1].tolist()
        known = int(random.integers(1, 9))
        context[known:] = random.integers(0, num_vocab, CONTEXT_TOKENS - known).tolist()
        if num_vocab not in context:
            found.append(context)
    return found


def build(folder: Path, tokens: TokenArray, num_vocab: int, segment_tokens: int) -> None:
    """Writes the texts as segments of the given size."""
    manifest = Manifest(
        fingerprint="synthetic", num_vocab=num_vocab, model="-", segment_tokens=segment_tokens
    )
    with create_store(folder, manifest) as store:
        for start in range(0, len(tokens), segment_tokens):
            part = tokens[start : start + segment_tokens]
            texts = [text for text in _texts(part, num_vocab) if len(text)]
            source = SourceRecord(
                name="-", digest=str(start), time=0.0, num_texts=len(texts), num_tokens=len(part)
            )
            store.append(texts, [source])
        store.commit()


def _texts(tokens: TokenArray, num_vocab: int) -> list[TokenArray]:
    return np.split(tokens[tokens != num_vocab], range(TEXT_TOKENS, len(tokens), TEXT_TOKENS))


def sorting(num_tokens: int, num_vocab: int) -> tuple[float, float]:
    """Tokens a second, and peak bytes a token with the tokens themselves; in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        return pool.apply(_sort_alone, (num_tokens, num_vocab))


def _sort_alone(num_tokens: int, num_vocab: int) -> tuple[float, float]:
    tokens = synthetic_texts(num_tokens, num_vocab)
    library()
    # Counts numpy's and ctypes' arrays, which are all that is large.
    tracemalloc.start()
    start = time.perf_counter()
    context_order(tokens, num_vocab)
    seconds = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    return num_tokens / seconds, peak / num_tokens + tokens.itemsize


def private_bytes() -> int:
    """Anonymous memory of this process; 0 where the system does not tell (Linux does)."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines[1:])
    return int(fields["Anonymous"].split()[0]) * 1024


def lookups(folder: Path, queries: list[list[int]]) -> dict[str, Any]:
    """Opening and asking a store, with all of it in memory; half of the questions warm it up."""
    start = time.perf_counter()
    manifest, segments = read_segments(folder)
    store = Datastore(segments, manifest.num_vocab)
    open_seconds = time.perf_counter() - start
    _touch(segments)
    half = len(queries) // 2
    before = private_bytes()
    for query in queries[:half]:
        list(store.matches(query))
    grown = private_bytes() - before
    queries = queries[half:]
    times, matches = _timed(lambda query: store.candidates(query).match_length, queries)
    levels, _ = _timed(lambda query: len(list(store.matches(query))), queries)
    return {
        "num_segments": len(segments),
        "disk_bytes_per_token": manifest.num_bytes / manifest.num_tokens,
        "open_ms": open_seconds * 1e3,
        "lookup_median_us": float(np.median(times)) * 1e6,
        "lookup_p99_us": float(np.quantile(times, 0.99)) * 1e6,
        "levels_median_us": float(np.median(levels)) * 1e6,
        "mean_match": float(np.mean(matches)),
        "private_bytes_after": grown,
    }


def _touch(segments: list[Segment]) -> None:
    """Brings all pages into memory, so that no look-up waits for the disk."""
    for segment in segments:
        for array in (segment.tokens, segment.order):
            array[:: PAGE_BYTES // array.itemsize].sum()


def _timed(
    ask: Callable[[list[int]], int], queries: list[list[int]]
) -> tuple[NDArray[np.float64], list[int]]:
    times, answers = np.empty(len(queries)), []
    for index, query in enumerate(queries):
        start = time.perf_counter()
        answers.append(ask(query))
        times[index] = time.perf_counter() - start
    return times, answers


def measure(num_tokens: int, num_vocab: int, segment_tokens: int, num_lookups: int) -> Size:
    """All numbers of one size."""
    rate, peak = sorting(min(num_tokens, segment_tokens), num_vocab)
    tokens = synthetic_texts(num_tokens, num_vocab)
    queries = contexts(tokens, num_lookups, num_vocab)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "store"
        build(folder, tokens, num_vocab, segment_tokens)
        del tokens
        return Size(
            num_tokens=num_tokens,
            num_vocab=num_vocab,
            sort_tokens_per_second=rate,
            sort_bytes_per_token=peak,
            **lookups(folder, queries),
        )


def table(sizes: list[Size]) -> str:
    """A markdown table of all sizes."""
    rows = [
        "| tokens | segments | look-up median | p99 | with shorter matches | open | sorting |"
        " peak a token | disk a token | private memory |",
        "| ---: " * 10 + "|",
    ]
    rows += [
        f"| {size.num_tokens:,} | {size.num_segments} | {size.lookup_median_us:.0f} µs "
        f"| {size.lookup_p99_us:.0f} µs | {size.levels_median_us:.0f} µs | {size.open_ms:.1f} ms "
        f"| {size.sort_tokens_per_second / 1e6:.1f} M tokens/s "
        f"| {size.sort_bytes_per_token:.1f} B | {size.disk_bytes_per_token:.1f} B "
        f"| {size.private_bytes_after / 1e6:+.1f} MB |"
        for size in sizes
    ]
    return "\n".join(rows) + "\n"


def merged(path: Path, sizes: list[Size]) -> list[Size]:
    """The sizes of a results file, with new ones in the place of old."""
    known = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.exists() else []
    found = {item["num_tokens"]: Size(**item) for item in known}
    found.update({size.num_tokens: size for size in sizes})
    return [found[key] for key in sorted(found)]


def plot(path: Path, sizes: list[Size]) -> None:
    """Look-up times over the number of tokens. Raises ConfigError without matplotlib."""
    try:
        figure, axes = new_figure(6, 3.6)
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'sssd-local[bench]'") from error
    counts = [size.num_tokens for size in sizes]
    axes.plot(counts, [size.lookup_median_us for size in sizes], "o-", label="median")
    axes.plot(counts, [size.lookup_p99_us for size in sizes], "s--", label="99 of 100 below")
    axes.set(xscale="log", xlabel="tokens in the datastore", ylabel="look-up of a step's root, µs")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


@click.command()
@click.option("--tokens", multiple=True, type=float, default=[1e6], help="Size; repeatable.")
@click.option("--vocab", default=32_000, show_default=True, type=click.IntRange(2))
@click.option("--segment-tokens", default=DEFAULT_SEGMENT_TOKENS, show_default=True, type=int)
@click.option("--lookups", "num_lookups", default=NUM_LOOKUPS, show_default=True, type=int)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
def command(
    tokens: tuple[float, ...], vocab: int, segment_tokens: int, num_lookups: int, out: Path
) -> None:
    """Measure building and reading datastores of some sizes.

    Results join those that OUT/store.json has of other sizes; a table and a plot lie beside it.
    """
    sizes = [measure(int(count), vocab, segment_tokens, num_lookups) for count in tokens]
    out.mkdir(parents=True, exist_ok=True)
    sizes = merged(out / "store.json", sizes)
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "sorted_by": "libdivsufsort" if library() else "numpy",
    }
    content = {"sizes": [asdict(size) for size in sizes], "machine": facts}
    (out / "store.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "store.md").write_text(table(sizes), encoding="utf-8")
    plot(out / "store.svg", sizes)
    click.echo(table(sizes))


if __name__ == "__main__":
    command()
