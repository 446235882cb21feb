"""Kept chats: a plain list of turns, bounded, and gone when forgotten."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sssd_local.draft.datastore import Datastore
from sssd_local.draft.tree import TokenSource
from sssd_local.store import memory_chats as module
from sssd_local.store import order
from sssd_local.store import store as store_module
from sssd_local.store.errors import BusyStoreError, DamagedStoreError, StoreError
from sssd_local.store.lock import WriterLock
from sssd_local.store.manifest import Manifest, read_manifest
from sssd_local.store.memory_chats import KeptChats, day_of, kept_chats, last_chat, patiently
from sssd_local.store.memory_turn import Turn, Worth
from sssd_local.store.segment import open_segment
from tests.store.kills import History, killed_after, moments, run_traced
from tests.store.memories import FOLDER, FRESH, all_bytes, says, texts, turn
from tests.store.stores import NUM_VOCAB

SECRET = [11, 12, 13, 14, 15, 16, 17]


@pytest.fixture
def kept(tmp_path: Path) -> KeptChats:
    return KeptChats(tmp_path / "memory" / FOLDER)


def test_nothing_is_there_before_the_first_turn(kept: KeptChats) -> None:
    assert not kept.exists
    assert kept.segments() == []
    kept.tidy(1)
    assert not kept.folder.parent.exists()
    assert kept_chats(kept.folder.parent) == []


def test_turns_come_back_in_order(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2], "a", 1.5), turn([3], "b", 2.5)])
    kept.add(FRESH, [turn([4, 5], "a", 3.5)])
    assert texts(kept) == [("a", [1, 2]), ("b", [3]), ("a", [4, 5])]
    sources = kept.sources()
    assert [(s.name, s.time, s.num_tokens, s.digest) for s in sources] == [
        ("a", 1.5, 2, ""), ("b", 2.5, 1, ""), ("a", 3.5, 2, ""),
    ]  # fmt: skip
    assert [known.folder for known in kept_chats(kept.folder.parent)] == [kept.folder]
    assert last_chat([kept]) == "a"
    assert last_chat([]) is None


def test_drafts_come_from_it(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2, 3, 4])])
    source = Datastore(kept.segments(), NUM_VOCAB, kind=TokenSource.MEMORY)
    found = source.candidates([2, 1])
    assert (found.tokens, found.match_length) == ([3], 2)
    assert source.continuation(found.positions[0]) == [3, 4]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_files_are_the_users_own(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2])])
    modes = {
        path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in kept.folder.parent.rglob("*")
    }
    assert modes == {True: 0o700, False: 0o600}
    assert stat.S_IMODE(kept.folder.parent.stat().st_mode) == 0o700
    assert kept.problems() == []
    (kept.folder / "lock").chmod(0o644)
    assert kept.problems() == [f"{kept.folder / 'lock'} may be read by others"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_users_own_folder_stays_as_it_is_and_only_that_of_the_chats_is_closed(
    kept: KeptChats,
) -> None:
    root = kept.folder.parent
    kept.folder.mkdir(parents=True)
    for folder in (root, kept.folder):
        folder.chmod(0o755)
    kept.add(FRESH, [turn([1, 2])])
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    # Nobody else gets past the inner folder.
    assert kept.problems() == []
    kept.folder.chmod(0o750)
    assert kept.problems() == [f"{kept.folder} may be read by others"]


def test_many_turns_are_few_segments(kept: KeptChats) -> None:
    for index in range(40):
        kept.add(FRESH, [turn([index] * 5, time=index)])
        kept.tidy(10**9)
    assert [tokens for _, tokens in texts(kept)] == [[index] * 5 for index in range(40)]
    assert len(kept.manifest().segments) <= 4


def test_tidying_what_is_tidy_writes_nothing(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2])])
    before = (kept.folder / "manifest.json").stat()
    kept.tidy(10**9)
    assert (kept.folder / "manifest.json").stat().st_ino == before.st_ino


def test_over_the_bound_the_oldest_turns_go(kept: KeptChats) -> None:
    for index in range(64):
        kept.add(FRESH, [turn([index % NUM_VOCAB] * 99, f"c{index}", index)])
    bound = kept.manifest().num_bytes // 2
    kept.tidy(bound)
    names = [name for name, _ in texts(kept)]
    assert names == [f"c{index}" for index in range(64 - len(names), 64)]
    assert 20 <= len(names) <= 32
    assert kept.manifest().num_bytes <= bound
    kept.tidy(1)
    assert [name for name, _ in texts(kept)] == ["c63"]


def test_a_turn_of_several_texts_goes_as_one(kept: KeptChats) -> None:
    for index in range(4):
        kept.add(FRESH, [turn([index] * 50, "a", index, more=[[index] * 50, [index] * 50])])
    assert len(kept.turns()) == 4
    assert len(texts(kept)) == 12
    # Room for two turns and a half.
    kept.tidy(int(kept.manifest().num_bytes * 2.5 / 4 * 8 / 7))
    assert [source.time for source, _ in kept.turns()] == [2.0, 3.0]
    assert texts(kept) == [("a", [index] * 50) for index in (2, 2, 2, 3, 3, 3)]
    assert kept.forget(lambda source: source.time == 2.0) == 1


def test_the_worth_of_days_is_kept_and_bounded(
    kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 86_400.0
    kept.add(FRESH, [turn([1, 2], time=9 * day, worth=Worth(1, 10, 4, 2.5))] * 2)
    assert kept.days() == {day_of(9 * day): Worth(2, 20, 8, 5.0)}
    monkeypatch.setattr(module, "MAX_DAYS", 3)
    for index in range(10, 14):
        kept.add(FRESH, [turn([1, 2], time=index * day)])
    assert sorted(kept.days()) == [day_of(index * day) for index in (11, 12, 13)]
    assert module.MAX_DAYS == 3
    kept.forget(lambda source: source.time >= 12 * day, since=12 * day)
    assert sorted(kept.days()) == [day_of(11 * day)]
    assert module._worth((1.0,)) == Worth()


def test_forgotten_bytes_are_gone(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2, 3], "a", 1.0)])
    kept.add(FRESH, [turn(SECRET, "secret", 2.0), turn([4, 5, 6], "b", 3.0)])
    kept.add(FRESH, [turn([*SECRET, 9], "secret", 4.0)])
    kept.tidy(10**9)
    root = kept.folder.parent
    assert says(root, SECRET)
    assert says(root, [1, 2, 3])
    assert kept.forget(lambda source: source.name == "secret") == 2
    assert not says(root, SECRET)
    assert b"secret" not in all_bytes(root)
    assert texts(kept) == [("a", [1, 2, 3]), ("b", [4, 5, 6])]
    assert kept.forget(lambda source: source.name == "secret") == 0


def test_running_chats_lose_what_is_forgotten(kept: KeptChats) -> None:
    kept.add(FRESH, [turn(SECRET, "secret")])
    source = Datastore(kept.segments(), NUM_VOCAB, kind=TokenSource.MEMORY)
    assert source.candidates(SECRET[1::-1]).tokens == [13]
    kept.forget(lambda source: True)
    assert not source.candidates([13]).tokens
    assert 13 not in source.continuation(0)


def test_files_that_were_joined_to_others_are_zeros_for_those_who_read_them(
    kept: KeptChats,
) -> None:
    kept.add(FRESH, [turn(SECRET, "secret")])
    source = Datastore(kept.segments(), NUM_VOCAB, kind=TokenSource.MEMORY)
    assert kept.is_current
    kept.add(FRESH, [turn([1, 2, 3], "b")])
    kept.tidy(10**9)
    assert (len(kept.manifest().segments), kept.is_current) == (1, False)
    assert not source.candidates([13]).tokens
    source.read(kept.segments())
    assert kept.is_current
    assert source.candidates(SECRET[1::-1]).tokens == [13]
    kept.forget_all()
    assert not source.candidates([13]).tokens
    assert not kept.is_current


def test_forgetting_everything_leaves_nothing(kept: KeptChats) -> None:
    kept.add(FRESH, [turn(SECRET)])
    (kept.folder / "000009.tokens.npy").write_bytes(b"left by a killed writer")
    kept.forget_all()
    assert not kept.folder.exists()
    kept.add(FRESH, [turn([1, 2])])
    (kept.folder / "manifest.json").write_text("damaged")
    kept.forget_all()
    assert list(kept.folder.parent.iterdir()) == []


def test_a_damaged_part_is_named_kept_and_can_be_forgotten(
    kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add(FRESH, [turn([1, 2])])
    kept.add(FRESH, [turn([3, 4])])
    path = kept.folder / "000000.tokens.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept.problems() == [f"{path} has another checksum: its content was changed"]
    with pytest.raises(DamagedStoreError, match=r"changed; `sssd-local memory forget --damaged`"):
        kept.tidy(10**9)
    # New turns are kept all the same.
    kept.add(FRESH, [turn([5, 6])])
    assert kept.manifest().num_texts == 3
    assert kept.forget(lambda source: False) == 1
    assert texts(kept) == [("a", [3, 4]), ("a", [5, 6])]
    assert kept.problems() == []
    (kept.folder / "manifest.json").write_text("{}")
    for action in (lambda: kept.add(FRESH, [turn([1])]), kept.segments, kept.sources):
        with pytest.raises(DamagedStoreError, match=r"manifest\.json is damaged"):
            action()
    assert len(kept.problems()) == 1


def test_what_a_killed_writer_left_is_swept(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2])])
    left = [kept.folder / name for name in ("000007.tokens.npy", ".manifest.json.x.tmp")]
    for path in left:
        path.write_bytes(b"text")
    kept.sweep()
    assert not any(path.exists() for path in left)


def test_a_busy_store_is_waited_for(kept: KeptChats, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.add(FRESH, [turn([1, 2])])
    assert module.PATIENCE_SECONDS == 10
    tries = []
    lock = WriterLock(kept.folder)
    lock.__enter__()

    def let_go(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) == 3:
            lock.__exit__(None, None, None)

    monkeypatch.setattr(module.time, "sleep", let_go)
    patiently(lambda: kept.add(FRESH, [turn([3, 4])]))
    assert tries == [module.TRY_SECONDS] * 3 == [0.02] * 3
    assert kept.manifest().num_texts == 2
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0)
    with WriterLock(kept.folder), pytest.raises(BusyStoreError, match="by another process"):
        patiently(lambda: kept.add(FRESH, [turn([3, 4])]))


def test_nobody_waits_past_the_end_that_was_set(
    kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add(FRESH, [turn([1, 2])])
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    with WriterLock(kept.folder), pytest.raises(BusyStoreError):
        patiently(lambda: kept.add(FRESH, [turn([3, 4])]), lambda: 0.0)
    assert slept == []


def test_a_reader_under_whom_everything_is_forgotten_sees_nothing(
    kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add(FRESH, [turn(SECRET)])

    def forgotten(folder: Path) -> None:
        kept.forget_all()
        raise FileNotFoundError(folder / "manifest.json")

    monkeypatch.setattr(module, "read_segments", forgotten)
    assert kept.segments() == []


@pytest.mark.parametrize("num_others", [0, 1])
def test_a_reader_starts_over_when_a_writer_forgets_under_it(
    kept: KeptChats, monkeypatch: pytest.MonkeyPatch, num_others: int
) -> None:
    """The manifest of before, and files that are zeros but not deleted yet."""
    kept.add(FRESH, [turn(SECRET, "secret"), *[turn([1, 2, 3], "b")] * num_others])
    manifests = [kept.manifest()]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        kept.forget(lambda source: source.name == "secret")
    with pytest.raises(DamagedStoreError, match="not as long as it was written"):
        open_segment(kept.folder, manifests[0].segments[0], NUM_VOCAB)

    def read(folder: Path) -> Manifest:
        return manifests.pop() if manifests else read_manifest(folder)

    monkeypatch.setattr(store_module, "read_manifest", read)
    segments = kept.segments()
    assert [len(segment.tokens) for segment in segments] == [5] * num_others


def test_zeros_that_nobody_forgot_are_damage(kept: KeptChats) -> None:
    kept.add(FRESH, [turn(SECRET)])
    path = kept.folder / "000000.order.npy"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamagedStoreError, match=r"000000\.order\.npy is damaged"):
        kept.segments()


def test_other_folders_beside_the_chats_are_the_users_own(kept: KeptChats) -> None:
    kept.add(FRESH, [turn([1, 2])])
    other = kept.folder.parent / "photos"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"x")
    assert [known.folder for known in kept_chats(kept.folder.parent)] == [kept.folder]


class PlainList(RuleBasedStateMachine):
    """Chats kept on disk beside a plain list of turns."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.kept = KeptChats(Path(self.folder.name) / "memory" / FOLDER)
        self.held: list[Turn] = []
        self.model: list[Turn] = []
        self.time = 0.0

    @rule(tokens=st.lists(st.integers(0, NUM_VOCAB - 1), max_size=20), chat=st.sampled_from("abcd"))
    def add(self, tokens: list[int], chat: str) -> None:
        self.time += 1
        self.held.append(turn(tokens, chat, self.time))

    @rule()
    def flush(self) -> None:
        if self.held:
            self.kept.add(FRESH, self.held)
        self.model += self.held
        self.held = []

    @rule()
    def merge(self) -> None:
        self.kept.tidy(10**9)

    @rule(share=st.floats(0.2, 1.5))
    def evict(self, share: float) -> None:
        if not self.kept.exists:
            return
        bound = int(self.kept.manifest().num_bytes * share)
        self.kept.tidy(bound)
        left = len(self.kept.turns())
        # The newest stay, and all of them where there is room.
        assert left or not self.model
        assert share < 1 or left == len(self.model)
        self.model = self.model[len(self.model) - left :]

    @rule(chat=st.sampled_from("abcd"))
    def forget_chat(self, chat: str) -> None:
        if self.kept.exists:
            gone = self.kept.forget(lambda source: source.name == chat)
            assert gone == sum(turn.chat == chat for turn in self.model)
            self.model = [turn for turn in self.model if turn.chat != chat]

    @rule(back=st.integers(0, 5))
    def forget_since(self, back: int) -> None:
        if self.kept.exists:
            since = self.time - back
            self.kept.forget(lambda source: source.time >= since)
            self.model = [turn for turn in self.model if turn.time < since]

    @rule()
    def forget_all(self) -> None:
        if self.kept.exists:
            self.kept.forget_all()
            self.model = []

    @rule()
    def reopen(self) -> None:
        self.kept = KeptChats(self.kept.folder)

    @invariant()
    def same(self) -> None:
        assert texts(self.kept) == [(turn.chat, turn.texts[0].tolist()) for turn in self.model]

    def teardown(self) -> None:
        self.folder.cleanup()


TestPlainList = PlainList.TestCase
TestPlainList.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)

NUM_KILLS = 220
FIRST, HIDDEN, LAST = [1, 2, 3, 4], SECRET, [5, 6, 7, 8]
STATES = [
    [],
    [("a", FIRST)],
    [("a", FIRST), ("s", HIDDEN), ("b", [9])],
    [("a", FIRST), ("s", HIDDEN), ("b", [9])],
    [("a", FIRST), ("b", [9])],
    [("a", FIRST), ("b", [9]), ("c", LAST)],
    [("c", LAST)],
    [],
]


def write_history(kept: KeptChats, committed: Callable[[], None]) -> None:
    """Flushes, merges, forgets, evicts and forgets all; calls `committed` after each."""
    for action in (
        lambda: kept.add(FRESH, [turn(FIRST, "a", 1.0)]),
        lambda: kept.add(FRESH, [turn(HIDDEN, "s", 2.0), turn([9], "b", 3.0)]),
        lambda: kept.tidy(10**9),
        lambda: kept.forget(lambda source: source.name == "s"),
        lambda: kept.add(FRESH, [turn(LAST, "c", 4.0)]),
        lambda: kept.tidy(1),
        kept.forget_all,
    ):
        action()
        committed()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_killed_at_any_line_loses_nothing_and_leaves_no_forgotten_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library's threads do not live on in a forked process.
    monkeypatch.setattr(order, "library", lambda: None)

    def history(root: Path) -> History:
        return partial(write_history, KeptChats(root / FOLDER))

    num_lines = run_traced(history(tmp_path / "whole"), -1, lambda: None)
    for line in moments(num_lines, NUM_KILLS):
        root = tmp_path / str(line)
        commits = killed_after(history(root), line)
        kept = KeptChats(root / FOLDER)
        if kept.exists:
            kept.sweep()
            assert kept.problems() == []
        held = texts(kept)
        assert held in STATES[commits : commits + 2]
        if commits >= 4 and kept.exists:
            assert not says(root, HIDDEN)
        kept.add(FRESH, [turn(LAST, "z", 9.0)])
        assert texts(kept) == [*held, ("z", LAST)]
        for name, tokens in STATES[2]:
            assert (name, tokens) in held or not says(root, tokens) or len(tokens) < 2


def test_times_are_days_of_the_place() -> None:
    assert day_of(time.mktime((2026, 11, 24, 23, 59, 0, 0, 0, -1))) == "2026-11-24"


def test_a_full_disk_is_an_error_and_costs_nothing(
    kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add(FRESH, [turn([1, 2])])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="cannot be written: No space left on device"):
            kept.add(FRESH, [turn([3, 4])])
        with pytest.raises(StoreError):
            kept.forget(lambda source: True)
    assert texts(kept) == [("a", [1, 2])]
