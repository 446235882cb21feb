"""Reading files on a Dask cluster: each worker turns some of them into a whole segment.

Workers need this package, and the files and the model under the same paths. They write nothing:
what they made comes back and is committed here, so that a worker that dies only costs time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from sssd_local.config import ModelConfig
from sssd_local.draft.datastore import OrderArray, TokenArray
from sssd_local.engine.model import Model
from sssd_local.store.errors import StoreError
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.manifest import Manifest
from sssd_local.store.order import context_order
from sssd_local.store.reading import Reading, tokenize
from sssd_local.store.segment import SourceRecord, join
from sssd_local.store.sources import Place, Skipped, examine

CONNECT_SECONDS = 10
WORKER_SECONDS = 30
# A token has at least so many bytes in almost any text; a part must not be more than a segment.
BYTES_A_TOKEN = 2
# What a worker makes at once: 800 MB while it is sorted, 200 MB that come back.
MAX_PART_TOKENS = 1 << 25
MIN_PART_BYTES = 1 << 20
FILES_A_LOOK = 64
# Parts that a worker is given ahead.
AHEAD = 2


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A segment made of some places: its arrays, where its texts came from, what was left out."""

    tokens: TokenArray
    order: OrderArray
    sources: list[SourceRecord]
    skipped: list[Skipped]


class Cluster:
    """A running Dask cluster; a context manager. Its methods raise StoreError where it fails."""

    def __init__(self, address: str, manifest: Manifest, segment_tokens: int) -> None:
        """Parts are for a store with this manifest, of at most `segment_tokens` tokens."""
        self._address = address
        self._task = functools.partial(
            make_part, manifest.model, manifest.fingerprint, manifest.num_vocab
        )
        self._part_bytes = BYTES_A_TOKEN * min(segment_tokens, MAX_PART_TOKENS)

    def __enter__(self) -> Cluster:
        try:
            self._dask: Any = import_module("distributed")
        except ImportError as error:
            raise StoreError("a cluster needs Dask: pip install 'sssd-local[cluster]'") from error
        try:
            self._client = self._dask.Client(
                self._address, timeout=CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"there is no Dask scheduler at {self._address} ({error}); start one with "
                "`dask scheduler`, and workers with `dask worker`"
            ) from error
        try:
            self._client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError as error:
            self._client.close()
            raise StoreError(
                f"the Dask scheduler at {self._address} has no workers; start some with "
                f"`dask worker {self._address}`"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def examine(self, files: Sequence[Path]) -> Iterator[Place | Skipped]:
        """What each file is, in order."""
        looks = [
            self._client.submit(examine_all, list(files[start : start + FILES_A_LOOK]), pure=False)
            for start in range(0, len(files), FILES_A_LOOK)
        ]
        with self._failures():
            for look in looks:
                yield from look.result()

    def takes(self, place: Place) -> bool:
        """Whether it is no more than a worker should make a part of."""
        return place.num_bytes <= self._part_bytes

    def parts(self, places: Sequence[Place]) -> Iterator[Part]:
        """The parts made of all places, as they come in."""
        num_workers = max(1, len(self._client.nthreads()))
        share = -(-sum(place.num_bytes for place in places) // num_workers)
        groups = iter(grouped(places, min(max(share, MIN_PART_BYTES), self._part_bytes)))
        # No more than these wait in the workers' memory.
        first = itertools.islice(groups, AHEAD * num_workers)
        done = self._dask.as_completed(
            map(self._submit, first), loop=self._client.loop, with_results=True
        )
        with self._failures():
            for future, part in done:
                yield part
                future.release()
                for group in itertools.islice(groups, 1):
                    done.add(self._submit(group))

    def _submit(self, group: list[Place]) -> Any:
        return self._client.submit(self._task, group, pure=False)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        lost = (self._dask.KilledWorker, self._dask.CancelledError, OSError, TimeoutError)
        try:
            yield
        except lost as error:
            raise StoreError(
                f"the cluster at {self._address} failed: {str(error) or type(error).__name__}; "
                "what was stored is kept, run the same command again to go on"
            ) from error


def grouped(places: Sequence[Place], max_bytes: int) -> Iterator[list[Place]]:
    """The places in order in groups of about `max_bytes`; a larger place is a group of its own."""
    group: list[Place] = []
    num_bytes = 0
    for place in places:
        if group and num_bytes + place.num_bytes > max_bytes:
            yield group
            group, num_bytes = [], 0
        group.append(place)
        num_bytes += place.num_bytes
    if group:
        yield group


def examine_all(files: Sequence[Path]) -> list[Place | Skipped]:
    """Runs on a worker: what some files are."""
    return [examine(path) for path in files]


def make_part(model: str, fingerprint: str, num_vocab: int, places: Sequence[Place]) -> Part:
    """Runs on a worker: a segment of some places. Raises StoreError, and ModelError."""
    vocabulary, found = _vocabulary(model)
    if found != fingerprint:
        raise StoreError(
            f"a worker has another model at {model}; give all workers the same file there"
        )
    texts, sources, skipped = [], list[SourceRecord](), list[Skipped]()
    for place in places:
        reading = Reading(place)
        for text in reading.texts():
            texts.append(tokenize(vocabulary, text))
            reading.num_texts += 1
            reading.num_tokens += len(texts[-1])
        skipped += reading.problems()
        if not reading.is_empty:
            sources.append(reading.record(done=reading.whole))
    tokens = join(texts, num_vocab)
    return Part(tokens, context_order(tokens, num_vocab), sources, skipped)


@functools.lru_cache(maxsize=1)
def _vocabulary(model: str) -> tuple[Model, str]:
    return Model(model, ModelConfig(), vocab_only=True), tokenizer_fingerprint(Path(model))
