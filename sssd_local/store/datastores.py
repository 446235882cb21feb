"""Datastores by name: where they are, opening them for drafts, checking and removing them."""

from __future__ import annotations

import difflib
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sssd_local.draft.datastore import Datastore, Segment
from sssd_local.draft.tree import TokenSource
from sssd_local.errors import ConfigError
from sssd_local.files import app_folder
from sssd_local.gguf_file import Header
from sssd_local.store.errors import DamagedStoreError, StoreError
from sssd_local.store.fingerprint import tokenizer_of
from sssd_local.store.lock import WriterLock
from sssd_local.store.manifest import NAME, Manifest, read_manifest
from sssd_local.store.segment import damage, open_segment
from sssd_local.store.store import delete_store, read_segments, reading, writing

_VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = logging.getLogger("sssd_local")


def datastores_folder() -> Path:
    """The folder that has one folder for each datastore."""
    return app_folder() / "datastores"


def datastore_folder(name: str) -> Path:
    """The folder of a datastore, there or not. Raises ConfigError for an impossible name."""
    if not _VALID_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a datastore; use up to 64 letters, digits and . _ -"
        )
    return datastores_folder() / name


def datastore_names() -> list[str]:
    """The names of all datastores, sorted."""
    folder = datastores_folder()
    if not folder.is_dir():
        return []
    with reading(folder):
        return sorted(
            path.name
            for path in folder.iterdir()
            if _VALID_NAME.fullmatch(path.name) and (path / NAME).exists()
        )


def find_datastore(name: str) -> Manifest:
    """The manifest of a datastore. Raises StoreError, with the names there are if it is none."""
    folder = datastore_folder(name)
    if not (folder / NAME).exists():
        names = datastore_names()
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names) or 'none'}"
        raise StoreError(
            f"there is no datastore {name} ({hint}); make it with "
            f"`sssd-local datastore build {name}`"
        )
    with reading(folder):
        return read_manifest(folder)


def open_datastore(
    name: str, fingerprint: str, num_vocab: int, kind: TokenSource = TokenSource.DATASTORE
) -> Datastore:
    """A datastore as a source of drafts for the model with this tokenizer.

    A damaged one is left aside: a warning in the log, and a source that holds nothing. Raises
    StoreError if there is none of this name or if it was built with another tokenizer.
    """
    folder = datastore_folder(name)
    segments: list[Segment] = []
    try:
        check_tokenizer(name, find_datastore(name), fingerprint, num_vocab)
        with reading(folder):
            manifest, segments = read_segments(folder)
        check_tokenizer(name, manifest, fingerprint, num_vocab)
    except DamagedStoreError as error:
        log.warning("the datastore %s is left aside: %s", name, error)
    return Datastore(segments, num_vocab, name=name, kind=kind)


def open_datastores(
    names: Sequence[str], model: str | os.PathLike[str] | Header
) -> list[Datastore]:
    """Datastores as sources of drafts for a GGUF file, of which the header is enough.

    Raises ModelError for the file, and StoreError as `open_datastore` does.
    """
    if not names:
        return []
    fingerprint, num_vocab = tokenizer_of(model)
    return [open_datastore(name, fingerprint, num_vocab) for name in names]


def check_tokenizer(name: str, manifest: Manifest, fingerprint: str, num_vocab: int) -> None:
    """Raises StoreError if a datastore is for another tokenizer than a model's."""
    if (manifest.fingerprint, manifest.num_vocab) != (fingerprint, num_vocab):
        raise StoreError(
            f"the datastore {name} was built for the tokenizer of {manifest.model}, which is not "
            f"this model's; run `sssd-local datastore rebuild {name} --model MODEL` with it"
        )


def verify_datastore(name: str) -> list[str]:
    """What is wrong with the files of a datastore, a line each; [] for nothing. Reads all."""
    try:
        return store_problems(datastore_folder(name), lambda: find_datastore(name))
    except DamagedStoreError as error:
        return [str(error)]


def store_problems(folder: Path, read: Callable[[], Manifest]) -> list[str]:
    """What is wrong with the files that the manifest names, a line each. Reads all.

    Another program may merge segments meanwhile, so damage counts only if the manifest that `read`
    gives is still the same.
    """
    manifest = read()
    while True:
        found = _problems(folder, manifest)
        before, manifest = manifest, read() if found else manifest
        if manifest == before:
            return found


def _problems(folder: Path, manifest: Manifest) -> list[str]:
    problems = []
    for record in manifest.segments:
        found = [
            f"{folder / file.name} {problem}"
            for file in record.files
            if (problem := damage(folder / file.name, file))
        ]
        if not found:
            try:
                segment = open_segment(folder, record, manifest.num_vocab)
                problem = _inconsistent(segment, manifest.num_vocab)
                found += [f"{folder / record.tokens.name} {problem}"] if problem else []
            except (OSError, StoreError) as error:
                found.append(str(error))
        problems += found
    return problems


def _inconsistent(segment: Segment, num_vocab: int) -> str:
    """What of a segment cannot be, though its files are as they were written."""
    tokens, order = segment.tokens, segment.order
    if not len(tokens) or int(tokens.max()) > num_vocab:
        return "has tokens outside the vocabulary"
    if tokens[0] != num_vocab or tokens[-1] != num_vocab:
        return "does not begin and end with a separator"
    inner = (tokens[:-1] != num_vocab) & (tokens[1:] != num_vocab)
    seen = np.zeros(len(tokens), np.bool_)
    if len(order) and int(order.max()) >= len(tokens):
        return "is sorted by places it does not have"
    seen[order] = True
    if len(order) != np.count_nonzero(inner) or not np.array_equal(seen[:-1], inner):
        return "is sorted by wrong places"
    return ""


def remove_datastore(name: str) -> None:
    """Deletes a datastore, damaged or not. Raises StoreError if there is none or it is in use."""
    folder = datastore_folder(name)
    if not folder.is_dir():
        find_datastore(name)
    with writing(folder):
        with WriterLock(folder):
            delete_store(folder)
        # Windows deletes no file that is open.
        shutil.rmtree(folder, ignore_errors=True)
