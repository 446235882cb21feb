"""Writing to a store: texts become segments, and one swap of the manifest commits them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from sssd_local.draft.datastore import OrderArray, Segment, TokenArray
from sssd_local.draft.tree import Int32Array
from sssd_local.files import make_folder, overwrite
from sssd_local.store.errors import DamagedStoreError, StoreError
from sssd_local.store.lock import NAME as LOCK
from sssd_local.store.lock import WriterLock
from sssd_local.store.manifest import NAME, Manifest, read_manifest, write_manifest
from sssd_local.store.segment import (
    SegmentRecord,
    SourceRecord,
    damage,
    join,
    open_segment,
    read_sources,
    split,
    write_segment,
)

# Segments up to so many times as large as what follows them are sorted anew with it.
MERGE_RATIO = 8
# How often a reader starts over when a writer swaps files under it.
READ_TRIES = 10
_LEFTOVER = re.compile(
    r"[0-9]{6,12}\.(tokens\.npy|order\.npy|sources\.json)|\.manifest\.json\..*\.tmp", re.DOTALL
)


class Store:
    """A store open for writing. `manifest` is what it will hold once `commit` is called."""

    def __init__(self, folder: Path, manifest: Manifest, *, wipes: bool = False) -> None:
        """Use `create_store` or `open_store`, which hold the lock.

        `wipes` puts zeros into files of no more use, so that nobody reads on in them.
        """
        self.folder = folder
        self.manifest = manifest
        self._wipes = wipes

    def append(
        self, texts: Sequence[Int32Array | TokenArray], sources: Sequence[SourceRecord]
    ) -> None:
        """Writes a segment of some texts; those of each source follow the one's before.

        Merges what is there once it would fill a segment. Raises StoreError.
        """
        claimed = sum(source.num_texts for source in sources)
        if claimed != len(texts):
            raise ValueError(f"{len(texts)} texts come from {claimed} sources' texts")
        tokens = join(texts, self.manifest.num_vocab)
        segments = self.manifest.segments
        if segments and sum(s.num_tokens for s in segments[self._num_kept() :]) + len(tokens) > (
            self.manifest.segment_tokens
        ):
            self.merge()
        self._write(len(self.manifest.segments), [tokens], sources)

    def add(self, tokens: TokenArray, order: OrderArray, sources: Sequence[SourceRecord]) -> None:
        """Writes a segment that was made elsewhere, as `join` and `context_order` do.

        Merges nothing. Raises StoreError.
        """
        record = self._new(tokens, sources, order)
        self.manifest = replace(self.manifest, segments=(*self.manifest.segments, record))

    def merge(self) -> None:
        """Joins the last segments to a larger one, as far as sizes allow. Raises StoreError."""
        kept = self._num_kept()
        if kept < len(self.manifest.segments) - 1:
            self._write(kept, [], [])

    def keep(self, wanted: Callable[[SourceRecord], bool]) -> None:
        """Leaves out the texts of all sources that are not wanted. Raises StoreError."""
        segments: list[SegmentRecord] = []
        for record in self.manifest.segments:
            tokens, sources = self._read(record)
            if all(map(wanted, sources)):
                segments.append(record)
                continue
            texts = split(tokens, self.manifest.num_vocab)
            kept = [
                (source, [text for _, text in zip(range(source.num_texts), texts, strict=False)])
                for source in sources
            ]
            kept = [(source, some) for source, some in kept if wanted(source)]
            if kept:
                joined = join([text for _, some in kept for text in some], self.manifest.num_vocab)
                segments.append(self._new(joined, [source for source, _ in kept]))
        self.manifest = replace(self.manifest, segments=tuple(segments))

    def commit(self) -> None:
        """Makes the changes last and visible to readers, then deletes files of no more use."""
        with writing(self.folder):
            write_manifest(self.folder, self.manifest)
        self.sweep()

    def sweep(self) -> None:
        """Deletes what no manifest names: what was replaced, and what a killed writer left."""
        named = {file.name for record in self.manifest.segments for file in record.files}
        for path in self.folder.iterdir():
            if _LEFTOVER.fullmatch(path.name) and path.name not in named:
                if self._wipes:
                    overwrite(path)
                # Windows keeps files that a reader has mapped; a later writer finds them again.
                with suppress(OSError):
                    path.unlink()

    def sources(self) -> Iterator[SourceRecord]:
        """Where all texts came from, oldest first. Raises StoreError."""
        for record in self.manifest.segments:
            with reading(self.folder):
                found = read_sources(self.folder, record)
            yield from found

    def texts(self) -> Iterator[TokenArray]:
        """All texts, oldest first. Raises StoreError."""
        for record in self.manifest.segments:
            yield from split(self._read(record)[0], self.manifest.num_vocab)

    def _num_kept(self) -> int:
        """How many segments a merge leaves as they are, the oldest ones."""
        sizes = [record.num_tokens for record in self.manifest.segments]
        merged = sizes.pop() if sizes else 0
        while sizes and sizes[-1] <= MERGE_RATIO * merged:
            if sizes[-1] + merged > self.manifest.segment_tokens:
                break
            merged += sizes.pop()
        return len(sizes)

    def _write(
        self, num_kept: int, parts: list[TokenArray], sources: Sequence[SourceRecord]
    ) -> None:
        """Puts one segment in the place of all but the first `num_kept`, with `parts` added."""
        old = [self._read(record) for record in self.manifest.segments[num_kept:]]
        parts = [tokens for tokens, _ in old] + parts
        # Each part begins with the separator that ends the one before.
        tokens = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
        record = self._new(tokens, [*(s for _, found in old for s in found), *sources])
        segments = (*self.manifest.segments[:num_kept], record)
        self.manifest = replace(self.manifest, segments=segments)

    def _new(
        self,
        tokens: TokenArray,
        sources: Sequence[SourceRecord],
        order: OrderArray | None = None,
    ) -> SegmentRecord:
        number = self.manifest.next_number
        self.manifest = replace(self.manifest, next_number=number + 1)
        with writing(self.folder):
            return write_segment(
                self.folder, number, tokens, sources, self.manifest.num_vocab, order
            )

    def _read(self, record: SegmentRecord) -> tuple[TokenArray, list[SourceRecord]]:
        """Tokens and sources of a segment, which must be as they were written."""
        path = self.folder / record.tokens.name
        problem = damage(path, record.tokens)
        if problem:
            raise DamagedStoreError(f"{path} {problem}; build the datastore anew")
        with reading(self.folder):
            segment = open_segment(self.folder, record, self.manifest.num_vocab)
            return segment.tokens, read_sources(self.folder, record)


@contextmanager
def create_store(folder: Path, manifest: Manifest, *, wipes: bool = False) -> Iterator[Store]:
    """A store, locked: the one that is there, or else a new one with this manifest.

    Nothing is written at once. `wipes` as for Store. Raises StoreError.
    """
    with writing(folder):
        make_folder(folder)
    with _locked(folder):
        if (folder / NAME).exists():
            with reading(folder):
                manifest = read_manifest(folder)
        store = Store(folder, manifest, wipes=wipes)
        store.sweep()
        yield store


@contextmanager
def open_store(folder: Path, *, wipes: bool = False) -> Iterator[Store]:
    """An existing store, locked. `wipes` as for Store. Raises StoreError."""
    with _locked(folder):
        with reading(folder):
            store = Store(folder, read_manifest(folder), wipes=wipes)
        store.sweep()
        yield store


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = WriterLock(folder)
    with writing(folder):
        lock.__enter__()
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def delete_store(folder: Path) -> None:
    """Deletes a store whose lock the caller holds: first what makes it one. Raises OSError."""
    (folder / NAME).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    if os.name == "posix":
        (folder / LOCK).unlink()
        folder.rmdir()


def read_segments(folder: Path) -> tuple[Manifest, list[Segment]]:
    """The manifest and the mapped segments of a store that others may be writing to.

    Raises FileNotFoundError where there is no store, other OSErrors and StoreErrors.
    """
    for _ in range(READ_TRIES):
        manifest = read_manifest(folder)
        try:
            return manifest, [
                open_segment(folder, record, manifest.num_vocab) for record in manifest.segments
            ]
        except FileNotFoundError as error:
            problem = DamagedStoreError(f"{error.filename} is missing")
        except DamagedStoreError as error:
            problem = error
        # A writer that merged or forgot it meanwhile has swapped the manifest before.
        if read_manifest(folder) == manifest:
            break
    raise problem


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns OSErrors of writing into StoreErrors."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written: {error.strerror or error}; what was stored before is "
            "kept. Check the space and the permissions there"
        ) from error


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turns OSErrors of reading into DamagedStoreErrors."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedStoreError(f"{error.filename} is missing") from error
    except OSError as error:
        raise DamagedStoreError(f"{folder} cannot be read: {error.strerror or error}") from error
