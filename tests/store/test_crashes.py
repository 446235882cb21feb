"""Writers killed at any moment, and files damaged in any way."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from sssd_local.draft.datastore import Datastore
from sssd_local.store import datastores, order
from sssd_local.store.datastores import datastore_folder, open_datastore, verify_datastore
from sssd_local.store.errors import StoreError
from sssd_local.store.manifest import read_manifest
from sssd_local.store.store import create_store, open_store, read_segments
from tests.store.kills import killed_after, moments, run_traced
from tests.store.stores import NUM_VOCAB, append, arrays, files_of, lists, new_manifest, source_of

NUM_KILLS = 240
NUM_CORRUPTIONS = 1200


def write_history(folder: Path, committed: Callable[[], None]) -> None:
    """Builds, adds, merges and forgets; calls `committed` after each commit."""
    with create_store(folder, new_manifest(segment_tokens=200)) as store:
        append(store, [[1, 2, 3]] * 5, "a")
        store.commit()
        committed()
    with open_store(folder) as store:
        append(store, [[4, 5]] * 9, "b")
        append(store, [[6] * 30], "c")
        store.commit()
        committed()
        store.merge()
        store.commit()
        committed()
    with open_store(folder) as store:
        store.keep(lambda source: source.name != "b")
        store.commit()
        committed()
        store.append(arrays([[7, 8]] * 2), [source_of([[7, 8]] * 2, "d")])
        store.commit()
        committed()


STATES: list[list[list[int]]] = [
    [],
    [[1, 2, 3]] * 5,
    [[1, 2, 3]] * 5 + [[4, 5]] * 9 + [[6] * 30],
    [[1, 2, 3]] * 5 + [[4, 5]] * 9 + [[6] * 30],
    [[1, 2, 3]] * 5 + [[6] * 30],
    [[1, 2, 3]] * 5 + [[6] * 30] + [[7, 8]] * 2,
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_writer_killed_at_any_line_loses_nothing_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library's threads do not live on in a forked process.
    monkeypatch.setattr(order, "library", lambda: None)
    whole = tmp_path / "whole"
    num_lines = run_traced(partial(write_history, whole), -1, lambda: None)
    with open_store(whole) as store:
        assert lists(store) == STATES[-1]
    for line in moments(num_lines, NUM_KILLS):
        folder = tmp_path / str(line)
        commits = killed_after(partial(write_history, folder), line)
        with create_store(folder, new_manifest(segment_tokens=200)) as store:
            held = lists(store)
            assert held in STATES[commits : commits + 2]
            assert len(files_of(folder)) == 3 * len(store.manifest.segments)
            append(store, [[9, 9]], "e")
            store.commit()
        with open_store(folder) as store:
            assert lists(store) == [*held, [9, 9]]


def a_datastore(name: str) -> tuple[Path, dict[str, bytes]]:
    """A datastore of several segments, and the bytes of its files."""
    folder = datastore_folder(name)
    numbers = random.Random(3)
    with create_store(folder, new_manifest(segment_tokens=400)) as store:
        for index in range(3):
            texts = [[numbers.randrange(NUM_VOCAB) for _ in range(40)] for _ in range(8)]
            append(store, texts, f"{index}.txt")
        store.commit()
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def corrupted(data: bytes, numbers: random.Random) -> bytes | None:
    """The data with one thing wrong; None for a file that is gone."""
    at = numbers.randrange(len(data))
    size = numbers.randrange(1, 64)
    noise = numbers.randbytes(size)
    return numbers.choice(
        [
            data[:at] + bytes([data[at] ^ 1 << numbers.randrange(8)]) + data[at + 1 :],
            data[:at],
            b"",
            data[:at] + bytes(size) + data[at + size :],
            data[:at] + noise + data[at + size :],
            data[:at] + noise + data[at:],
            data + noise,
            numbers.randbytes(len(data)),
            None,
        ]
    )


def replace_file(path: Path, data: bytes | None) -> None:
    # A new file each time: maps of the old one stay whole.
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)


def all_answers(store: Datastore, numbers: random.Random) -> Iterator[int]:
    for _ in range(6):
        context = [numbers.randrange(NUM_VOCAB) for _ in range(numbers.randrange(1, 4))]
        for found in store.matches(context):
            yield from found.tokens
            for position in found.positions:
                yield from store.continuation(position)


def test_damage_never_crashes_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    folder, files = a_datastore("notes")
    whole = read_manifest(folder)
    numbers = random.Random(1)
    names = sorted(set(files) - {"lock"})
    num_damaged = 0
    for _ in range(NUM_CORRUPTIONS):
        name = numbers.choice(names)
        data = corrupted(files[name], numbers)
        replace_file(folder / name, data)
        with ExitStack() as stack:
            stack.callback(replace_file, folder / name, files[name])
            if name == "manifest.json" and data is None:
                with pytest.raises(StoreError, match="there is no datastore notes"):
                    open_datastore("notes", "abc", NUM_VOCAB)
                continue
            store = open_datastore("notes", "abc", NUM_VOCAB)
            assert all(0 <= token < NUM_VOCAB for token in all_answers(store, numbers))
            problems = verify_datastore("notes")
            if name == "manifest.json" and not problems:
                # Only blanks between its values changed.
                assert read_manifest(folder) == whole
            elif data != files[name]:
                num_damaged += 1
                assert len(problems) == 1
                assert name in problems[0]
    assert num_damaged > 1000
    assert verify_datastore("notes") == []


def test_a_damaged_store_is_left_aside_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    folder, files = a_datastore("notes")
    name = "000001.tokens.npy"
    replace_file(folder / name, files[name][:-1])
    with caplog.at_level(logging.WARNING, "sssd_local"):
        store = open_datastore("notes", "abc", NUM_VOCAB)
    assert store.num_tokens == 0
    (record,) = caplog.records
    assert record.getMessage().startswith("the datastore notes is left aside: ")
    assert name in record.getMessage()


def test_verify_sees_what_checksums_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = a_datastore("notes")
    _, (segment, *_) = read_segments(folder)
    inconsistent = datastores._inconsistent
    assert inconsistent(segment, NUM_VOCAB) == ""
    for change, message in (
        ((0, 3), "does not begin and end with a separator"),
        ((5, NUM_VOCAB + 1), "has tokens outside the vocabulary"),
        ((5, NUM_VOCAB), "is sorted by wrong places"),
    ):
        tokens = segment.tokens.copy()
        tokens[change[0]] = change[1]
        assert inconsistent(type(segment)(tokens, segment.order), NUM_VOCAB) == message
    order = segment.order.copy()
    order[0] = len(segment.tokens)
    found = inconsistent(type(segment)(segment.tokens, order), NUM_VOCAB)
    assert found == "is sorted by places it does not have"
    monkeypatch.setattr(datastores, "_inconsistent", lambda *_: "is wrong")
    problems = verify_datastore("notes")
    assert [line.rpartition(os.sep)[2] for line in problems] == [
        f"00000{number}.tokens.npy is wrong" for number in range(3)
    ]
