"""Building datastores by name, putting more into them, and reading all anew."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sssd_local.config import ModelConfig
from sssd_local.engine.model import Model
from sssd_local.errors import ConfigError
from sssd_local.store.answers import Answer, Answering
from sssd_local.store.datastores import check_tokenizer, datastore_folder, find_datastore
from sssd_local.store.errors import StoreError
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.ingest import DEFAULTS, BuildOptions, Ingestion, Report, nothing
from sssd_local.store.manifest import Manifest
from sssd_local.store.prompts import PROMPTS, Prompt, read_prompts
from sssd_local.store.sources import STDIN, find_files, leads_somewhere
from sssd_local.store.store import Store, create_store, delete_store, open_store


def build_datastore(
    name: str,
    model: Path,
    roots: Iterable[str],
    options: BuildOptions = DEFAULTS,
    *,
    prompts: Iterable[Path] = (),
) -> Report:
    """Makes a datastore from files, folders and globs, or goes on with one that was cut off.

    The model's answers to the prompts of files are stored too; see `read_prompts`. Raises
    StoreError if it is there already, and for what cannot be read or written.
    """
    folder, wanted = datastore_folder(name), _checked_roots(roots, prompts)
    with _vocabulary(model) as vocabulary:
        fingerprint = tokenizer_fingerprint(model)
        num_vocab = vocabulary.facts.num_vocab
        fresh = Manifest(
            fingerprint=fingerprint,
            num_vocab=num_vocab,
            model=os.path.abspath(model),
            segment_tokens=options.segment_tokens,
        )
        with create_store(folder, fresh) as store:
            if store.manifest is not fresh:
                if not store.manifest.unfinished:
                    raise StoreError(
                        f"there is a datastore {name} already; use `sssd-local datastore add "
                        f"{name}` to put more into it, or remove it first"
                    )
                check_tokenizer(name, store.manifest, fingerprint, num_vocab)
            try:
                return _fill(store, vocabulary, wanted, options)
            finally:
                if not store.manifest.segments:
                    with suppress(OSError):
                        delete_store(folder)


def add_to_datastore(
    name: str,
    roots: Iterable[str],
    model: Path | None = None,
    options: BuildOptions = DEFAULTS,
    *,
    prompts: Iterable[Path] = (),
) -> Report:
    """Puts more into a datastore; files that it holds already are passed over.

    `model` replaces the model file it was built with, which must have the same tokenizer. Raises
    StoreError.
    """
    wanted = _checked_roots(roots, prompts)
    with open_store_named(name) as store:
        path = Path(store.manifest.model) if model is None else model
        with _vocabulary(path) as vocabulary:
            fingerprint = tokenizer_fingerprint(path)
            check_tokenizer(name, store.manifest, fingerprint, vocabulary.facts.num_vocab)
            store.manifest = replace(store.manifest, model=os.path.abspath(path))
            return _fill(store, vocabulary, wanted, options)


def rebuild_datastore(
    name: str,
    model: Path | None = None,
    *,
    skip_missing: bool = False,
    options: BuildOptions = DEFAULTS,
) -> Report:
    """Reads all that a datastore was built from anew, for another tokenizer or newer files.

    Prompts are answered again. The old content serves readers until the new one is complete.
    Raises StoreError, also where a path is gone (or was stdin), unless `skip_missing` leaves those
    out.
    """
    with open_store_named(name) as store:
        old = store.manifest
        roots = list(dict.fromkeys((*old.roots, *old.unfinished)))
        missing = [root for root in roots if not _is_there(root)]
        if missing and not skip_missing:
            raise StoreError(
                f"{', '.join(missing[:5])} cannot be read again; use --skip-missing to leave out "
                "what came from there"
            )
        path = Path(old.model) if model is None else model
        with _vocabulary(path) as vocabulary:
            store.manifest = replace(
                old,
                fingerprint=tokenizer_fingerprint(path),
                num_vocab=vocabulary.facts.num_vocab,
                model=os.path.abspath(path),
                segments=(),
                roots=(),
                unfinished=(),
            )
            wanted = [root for root in roots if root not in missing]
            return _fill(store, vocabulary, wanted, options, all_or_nothing=True)


@contextmanager
def open_store_named(name: str) -> Iterator[Store]:
    """A datastore open for writing. Raises StoreError."""
    find_datastore(name)
    with open_store(datastore_folder(name)) as store:
        yield store


def _fill(
    store: Store,
    vocabulary: Model,
    roots: Sequence[str],
    options: BuildOptions,
    *,
    all_or_nothing: bool = False,
) -> Report:
    """Takes in some roots and those of a build that was cut off. Raises StoreError."""
    old, report = store.manifest, Report()
    resumed = [root for root in old.unfinished if _is_there(root)]
    roots = list(dict.fromkeys((*resumed, *roots)))
    known = tuple(dict.fromkeys((*old.roots, *roots)))
    store.manifest = replace(old, roots=known, unfinished=tuple(roots))
    files = [root for root in roots if not root.startswith(PROMPTS)]
    Ingestion(store, vocabulary, options, report, all_or_nothing=all_or_nothing).run(files)
    prompts = [root for root in roots if root.startswith(PROMPTS)]
    if prompts:
        store.manifest = replace(store.manifest, unfinished=tuple(prompts))
        answering = Answering(
            store, report, progress=options.progress, all_or_nothing=all_or_nothing
        )
        wanted = answering.wanted(prompts)
        if wanted:
            with _answers(vocabulary.path, options) as answer:
                answering.run(wanted, answer)
    if not store.manifest.segments:
        raise StoreError(nothing(report))
    store.manifest = replace(store.manifest, unfinished=())
    store.commit()
    return report


@contextmanager
def _vocabulary(path: Path) -> Iterator[Model]:
    model = Model(path, ModelConfig(), vocab_only=True)
    try:
        yield model
    finally:
        model.close()


@contextmanager
def _answers(path: Path, options: BuildOptions) -> Iterator[Answer]:
    """What the whole model answers."""
    # It draws on stores itself.
    from sssd_local.llm import LLM

    with LLM(path, threads=options.threads) as llm:

        def answer(prompt: Prompt) -> Sequence[int]:
            return llm.chat(
                prompt.messages, temperature=options.temperature, max_tokens=options.max_tokens
            ).token_ids

        yield answer


def _is_there(root: str) -> bool:
    """Whether a root can be read again."""
    if root.startswith(PROMPTS):
        return Path(root.removeprefix(PROMPTS)).is_file()
    return root != STDIN and leads_somewhere(root)


def _checked_roots(roots: Iterable[str], prompts: Iterable[Path]) -> list[str]:
    """Roots as a manifest keeps them; what leads nowhere is told before anything is written."""
    paths = [root if root == STDIN else os.path.abspath(root) for root in roots]
    files = [Path(os.path.abspath(path)) for path in prompts]
    if not paths and not files:
        raise ConfigError("give at least one file or folder")
    for root in paths:
        if root != STDIN:
            next(find_files([root]), None)
    for path in files:
        read_prompts(path)
    return list(dict.fromkeys((*paths, *(f"{PROMPTS}{path}" for path in files))))
