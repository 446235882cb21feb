"""The chats kept on disk for one tokenizer: adding, bounding, forgetting and reading them."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import TypeVar

from sssd_local.draft.datastore import Segment, TokenArray
from sssd_local.files import make_folder, overwrite
from sssd_local.store.datastores import store_problems
from sssd_local.store.errors import BusyStoreError, DamagedStoreError
from sssd_local.store.lock import WriterLock
from sssd_local.store.manifest import NAME, Manifest, read_manifest
from sssd_local.store.memory_turn import Turn, Worth
from sssd_local.store.segment import SegmentRecord, SourceRecord, damage
from sssd_local.store.store import (
    Store,
    create_store,
    delete_store,
    open_store,
    read_segments,
    reading,
    writing,
)

# Chats are few tokens a day; a merge of so many takes a second of idle time.
SEGMENT_TOKENS = 1 << 22
# Once over its bound memory shrinks to this part of it, so that it is rewritten seldom.
SHRUNK = 7 / 8
MAX_DAYS = 400
# How long a writer waits for another one, in all and at a time.
PATIENCE_SECONDS = 10.0
TRY_SECONDS = 0.02

Result = TypeVar("Result")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


class KeptChats:
    """The chats of one tokenizer, in a folder of their own; each turn is a source of the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[Path] = []

    @property
    def exists(self) -> bool:
        """Whether anything is kept. Raises StoreError where nobody may look."""
        with reading(self.folder):
            return (self.folder / NAME).exists()

    def manifest(self) -> Manifest:
        """What the store says of itself. Raises StoreError."""
        with reading(self.folder):
            return read_manifest(self.folder)

    def segments(self) -> list[Segment]:
        """All kept text, to draft from; nothing where nothing is kept. Raises StoreError."""
        self._files = []
        if not self.exists:
            return []
        with reading(self.folder):
            try:
                manifest, segments = read_segments(self.folder)
            except FileNotFoundError:
                # Another program forgot everything just now.
                return []
        self._files = [self.folder / file.name for part in manifest.segments for file in part.files]
        return segments

    @property
    def is_current(self) -> bool:
        """Whether what `segments` gave last is still there; otherwise it is zeros by now."""
        return all(path.exists() for path in self._files)

    def add(self, fresh: Manifest, turns: Sequence[Turn]) -> None:
        """Keeps turns; `fresh` describes a store that is not there yet. Raises StoreError.

        Work and writing are those of the turns, and now and then of what is merged with them.
        """
        with writing(self.folder):
            _secure(self.folder)
        fresh = replace(fresh, segment_tokens=SEGMENT_TOKENS)
        with _hinting(), create_store(self.folder, fresh, wipes=True) as store:
            texts = [text for turn in turns for text in turn.texts]
            store.append(texts, [_source(turn) for turn in turns])
            counters = store.manifest.counters
            for turn in turns:
                counters = _counted(counters, turn)
            store.manifest = replace(store.manifest, counters=counters)
            store.commit()

    def tidy(self, max_bytes: int) -> None:
        """Joins small segments, and drops the oldest turns over the bound. Raises StoreError."""
        if not self.exists:
            return
        with _opened(self.folder) as store:
            before = store.manifest
            if store.manifest.num_bytes > max_bytes:
                _evict(store, max_bytes * SHRUNK)
            store.merge()
            if store.manifest != before:
                store.commit()

    def forget(
        self, is_forgotten: Callable[[SourceRecord], bool], since: float | None = None
    ) -> int:
        """Deletes turns, and damaged parts whatever they held; returns how many turns.

        Their bytes are overwritten before the files go, so that running chats lose them too. With
        `since` the counters from that day on go as well. Raises StoreError.
        """
        with _opened(self.folder) as store:
            before = store.manifest
            whole = [part for part in before.segments if not _is_damaged(self.folder, part)]
            store.manifest = replace(before, segments=tuple(whole))
            # Of what is damaged only the number of texts is known.
            number = before.num_texts - store.manifest.num_texts
            number += sum(map(is_forgotten, store.sources()))
            store.keep(lambda source: not is_forgotten(source))
            if since is not None:
                days = {d: n for d, n in before.counters.items() if d < day_of(since)}
                store.manifest = replace(store.manifest, counters=days)
            if store.manifest != before:
                store.commit()
            return number

    def forget_all(self) -> None:
        """Deletes everything, damaged or not. Raises StoreError."""
        with writing(self.folder):
            with WriterLock(self.folder):
                (self.folder / NAME).unlink(missing_ok=True)
                for path in self.folder.glob("*.*"):
                    # What cannot be overwritten is still deleted.
                    overwrite(path)
                delete_store(self.folder)
            if os.name == "nt":
                # Which deletes no file that is open, as the lock was until now.
                shutil.rmtree(self.folder)

    def sweep(self) -> None:
        """Deletes what a killed process left; StoreError if another one writes now."""
        with _opened(self.folder):
            pass

    def turns(self) -> list[tuple[SourceRecord, list[TokenArray]]]:
        """All turns with their texts, oldest first. Raises StoreError."""
        with _opened(self.folder) as store:
            texts = store.texts()
            return [
                (source, list(itertools.islice(texts, source.num_texts)))
                for source in store.sources()
            ]

    def sources(self) -> list[SourceRecord]:
        """What is known of each turn but its text, oldest first. Raises StoreError."""
        with _opened(self.folder) as store:
            return list(store.sources())

    def days(self) -> dict[str, Worth]:
        """The worth of each day, as YYYY-MM-DD. Raises StoreError."""
        return {day: _worth(numbers) for day, numbers in self.manifest().counters.items()}

    def problems(self) -> list[str]:
        """What is wrong with its files, a line each; [] for nothing. Reads all."""
        try:
            found = store_problems(self.folder, self.manifest)
        except DamagedStoreError as error:
            return [str(error)]
        return found + _open_to_others([self.folder, *self.folder.iterdir()])


@contextmanager
def _opened(folder: Path) -> Iterator[Store]:
    with _hinting(), open_store(folder, wipes=True) as store:
        yield store


@contextmanager
def _hinting() -> Iterator[None]:
    """Says of a damaged store what helps."""
    try:
        yield
    except DamagedStoreError as error:
        raise DamagedStoreError(
            f"memory is damaged: {str(error).partition(';')[0]}; `sssd-local memory forget "
            "--damaged` deletes what cannot be read, `forget --all` everything"
        ) from error


def _secure(folder: Path) -> None:
    """Makes a folder of chats with its parents, for the user only. Raises OSError.

    A parent that was there is the user's own, and stays as it is.
    """
    make_folder(folder)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def kept_chats(root: Path) -> list[KeptChats]:
    """The chats of all tokenizers, also those whose files are damaged or half deleted."""
    if not root.is_dir():
        return []
    with reading(root):
        # In a home of the user's own there may be other folders.
        folders = sorted(p for p in root.iterdir() if _FINGERPRINT.fullmatch(p.name) and p.is_dir())
        return [KeptChats(folder) for folder in folders if any(folder.iterdir())]


def last_chat(chats: Iterable[KeptChats]) -> str | None:
    """The name of the chat with the newest turn. Raises StoreError."""
    sources = [source for kept in chats if kept.exists for source in kept.sources()]
    return max(sources, key=lambda source: source.time).name if sources else None


def patiently(
    action: Callable[[], Result], until: Callable[[], float] = lambda: math.inf
) -> Result:
    """Does what needs a store's lock, trying again while another process has it.

    Raises BusyStoreError where that lasts; a finite `until`, of `time.monotonic()`, says how long.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return action()
        except BusyStoreError:
            last = until()
            if time.monotonic() >= (last if last < math.inf else end):
                raise
        time.sleep(TRY_SECONDS)


def _source(turn: Turn) -> SourceRecord:
    # A digest would let others test whether a text was said.
    return SourceRecord(
        name=turn.chat,
        digest="",
        time=turn.time,
        num_texts=len(turn.texts),
        num_tokens=turn.num_tokens,
    )


def _evict(store: Store, max_bytes: float) -> None:
    """Drops the oldest turns until the rest takes about `max_bytes`."""
    sources = list(store.sources())
    bytes_each = store.manifest.num_bytes / sum(map(_num_places, sources))
    kept: set[tuple[str, float]] = set()
    room = max_bytes
    for source in reversed(sources):
        room -= bytes_each * _num_places(source)
        if room < 0 and kept:
            break
        kept.add((source.name, source.time))
    store.keep(lambda source: (source.name, source.time) in kept)


def _num_places(source: SourceRecord) -> int:
    """Its tokens and separators."""
    return source.num_tokens + source.num_texts


def _counted(counters: Mapping[str, Sequence[float]], turn: Turn) -> dict[str, Sequence[float]]:
    days = dict(counters)
    day = day_of(turn.time)
    days[day] = astuple(_worth(days.get(day, ())) + turn.worth)
    return {name: days[name] for name in sorted(days)[-MAX_DAYS:]}


def _worth(numbers: Sequence[float]) -> Worth:
    if len(numbers) != 4:
        return Worth()
    answers, tokens, from_memory = map(int, numbers[:3])
    return Worth(answers, tokens, from_memory, float(numbers[3]))


def day_of(seconds: float) -> str:
    """The local date of a moment, YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _is_damaged(folder: Path, part: SegmentRecord) -> bool:
    return any(damage(folder / file.name, file) for file in part.files)


def _open_to_others(paths: Iterable[Path]) -> list[str]:
    if os.name != "posix":
        return []
    return [f"{path} may be read by others" for path in paths if path.stat().st_mode & 0o077]
