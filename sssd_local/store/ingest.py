"""Taking files into a store: read and tokenised side by side, committed now and then."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from sssd_local.config import GenerationConfig, SamplingConfig
from sssd_local.draft.tree import Int32Array
from sssd_local.engine.model import Model
from sssd_local.errors import ConfigError
from sssd_local.store.manifest import DEFAULT_SEGMENT_TOKENS
from sssd_local.store.order import MAX_TOKENS
from sssd_local.store.reading import Reading, tokenize
from sssd_local.store.segment import SourceRecord
from sssd_local.store.sources import STDIN, Place, Skipped, examine, find_files, stdin_place
from sssd_local.store.store import Store

# What a killed build loses at most.
CHECKPOINT_TOKENS = 1 << 22
# Texts handed to the tokenising threads ahead of time, for each thread: enough to keep them busy
# while a segment is sorted.
AHEAD = 128


@dataclass(slots=True)
class Report:
    """What a build took in, and what it passed over; also its progress while it runs.

    `num_files` of `num_found` files were taken in and `num_answers` of `num_prompts` prompts
    answered; texts and tokens are of both.
    """

    num_found: int = 0
    num_files: int = 0
    num_prompts: int = 0
    num_answers: int = 0
    num_texts: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """`segment_tokens` bounds the memory that sorting takes, 24 bytes a token; `threads` tokenise
    (None: as many as there are processors); `cluster` is the address of a Dask scheduler whose
    workers read the files instead; `max_tokens` and `temperature` are for answers to prompts;
    `progress` is called now and then; `stdin` is what the path `-` stands for. Raises ConfigError.
    """

    segment_tokens: int = DEFAULT_SEGMENT_TOKENS
    threads: int | None = None
    cluster: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    progress: Callable[[Report], None] = lambda report: None
    stdin: Callable[[], bytes] = lambda: sys.stdin.buffer.read()

    def __post_init__(self) -> None:
        if not 1 <= self.segment_tokens <= MAX_TOKENS:
            raise ConfigError(
                f"segment_tokens must be from 1 to {MAX_TOKENS}, got {self.segment_tokens}"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads must be at least 1, got {self.threads}")
        GenerationConfig(max_tokens=self.max_tokens)
        SamplingConfig(temperature=self.temperature)


DEFAULTS = BuildOptions()


class Ingestion:
    """Texts on their way into a store, in order, committed now and then."""

    def __init__(
        self,
        store: Store,
        vocabulary: Model,
        options: BuildOptions,
        report: Report,
        *,
        all_or_nothing: bool = False,
    ) -> None:
        """`all_or_nothing` commits nothing; the caller does at the end."""
        self._store = store
        self._vocabulary = vocabulary
        self._options = options
        self._all_or_nothing = all_or_nothing
        self._report = report
        self._start = time.monotonic()
        self._checkpoint = min(CHECKPOINT_TOKENS, options.segment_tokens)
        # Not yet in a segment.
        self._texts: list[Int32Array] = []
        self._sources: list[SourceRecord] = []
        self._num_waiting = 0
        # Contents that are stored as a whole, and how many texts are of others.
        self._whole: set[str] = set()
        self._num_stored: Counter[str] = Counter()

    def run(self, roots: Sequence[str]) -> None:
        """Takes in all texts of the roots that are not stored yet. Raises StoreError."""
        for source in self._store.sources():
            self._num_stored[source.digest] += source.num_texts
            if source.done:
                self._whole.add(source.digest)
        files = list(find_files(root for root in roots if root != STDIN))
        self._report.num_found = len(files) + (STDIN in roots)
        found: Iterable[Place | Skipped] = map(examine, files)
        if self._options.cluster is not None and files:
            found = self._on_cluster(self._options.cluster, files)
        if STDIN in roots:
            found = itertools.chain([stdin_place(self._options.stdin(), time.time())], found)
        self._take_all(found)
        if self._sources:
            self._store.append(self._texts, self._sources)
        if self._options.cluster is None:
            self._store.merge()
        self._tell()

    def _on_cluster(self, address: str, files: list[Path]) -> list[Place | Skipped]:
        """Takes in what a cluster can read; returns the rest."""
        from sssd_local.store.cluster import Cluster

        store, rest, wanted = self._store, list[Place | Skipped](), list[Place]()
        with Cluster(address, store.manifest, self._options.segment_tokens) as cluster:
            for item in cluster.examine(files):
                # A part of it may be stored, or it may be more than a worker takes at once.
                if isinstance(item, Place) and (
                    self._num_stored[item.digest] or not cluster.takes(item)
                ):
                    rest.append(item)
                elif self._is_new(item):
                    wanted.append(item)
            for part in cluster.parts(wanted):
                for source in part.sources:
                    self._count(source)
                self._report.skipped += part.skipped
                if len(part.tokens):
                    store.add(part.tokens, part.order, part.sources)
                    self._commit()
                self._tell()
        return rest

    def _take_all(self, found: Iterable[Place | Skipped]) -> None:
        threads = self._options.threads or os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            try:
                for reading, tokens in self._tokenized(found, pool, AHEAD * threads):
                    if tokens is None:
                        self._end(reading)
                    else:
                        self._take(reading, tokens)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _tokenized(
        self, found: Iterable[Place | Skipped], pool: ThreadPoolExecutor, ahead: int
    ) -> Iterator[tuple[Reading, Int32Array | None]]:
        """The texts of all places as tokens, in order; None where a place ends."""
        waiting: deque[tuple[Reading, Future[Int32Array] | None]] = deque()
        for item in found:
            if not self._is_new(item):
                continue
            reading = Reading(item, self._num_stored[item.digest])
            for text in reading.texts():
                waiting.append((reading, pool.submit(tokenize, self._vocabulary, text)))
                if len(waiting) > ahead:
                    yield _awaited(*waiting.popleft())
            waiting.append((reading, None))
        while waiting:
            yield _awaited(*waiting.popleft())

    def _is_new(self, item: Place | Skipped) -> TypeGuard[Place]:
        """Whether it is to be read; duplicates and what is no text are passed over."""
        if isinstance(item, Place) and item.digest in self._whole:
            item = Skipped(item.name, "stored already")
        if isinstance(item, Skipped):
            self._report.skipped.append(item)
            self._tell()
            return False
        self._whole.add(item.digest)
        return True

    def _take(self, reading: Reading, tokens: Int32Array) -> None:
        self._texts.append(tokens)
        self._num_waiting += len(tokens) + 1
        reading.num_texts += 1
        reading.num_tokens += len(tokens)
        if self._num_waiting >= self._checkpoint:
            self._add_source(reading, done=False)
            self._flush()

    def _end(self, reading: Reading) -> None:
        self._report.skipped += reading.problems()
        if not reading.is_empty:
            self._add_source(reading, done=reading.whole)
        self._tell()

    def _add_source(self, reading: Reading, *, done: bool) -> None:
        source = reading.record(done=done)
        self._sources.append(source)
        self._count(source)

    def _count(self, source: SourceRecord) -> None:
        self._report.num_texts += source.num_texts
        self._report.num_tokens += source.num_tokens
        self._report.num_files += source.done

    def _flush(self) -> None:
        self._store.append(self._texts, self._sources)
        self._commit()
        self._texts, self._sources, self._num_waiting = [], [], 0
        self._tell()

    def _commit(self) -> None:
        if not self._all_or_nothing:
            self._store.commit()

    def _tell(self) -> None:
        self._report.seconds = time.monotonic() - self._start
        self._options.progress(self._report)


def _awaited(
    reading: Reading, future: Future[Int32Array] | None
) -> tuple[Reading, Int32Array | None]:
    return reading, None if future is None else future.result()


def nothing(report: Report) -> str:
    """Why nothing was stored."""
    reasons = ", ".join(dict.fromkeys(item.reason for item in report.skipped))
    return f"there is no text to store ({reasons or 'no file was found'}); check the paths"
