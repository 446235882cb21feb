"""The memory of a running model: what it drafts from, what it writes and when, and what it says."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local.draft.datastore import Segment
from sssd_local.draft.tree import TokenSource
from sssd_local.errors import ModelError
from sssd_local.store import memory as module
from sssd_local.store import order
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.lock import WriterLock
from sssd_local.store.memory import Memory, chosen_memory, make_memory
from sssd_local.store.memory_chats import KeptChats
from sssd_local.store.memory_choice import Choice, memory_folder, write_choice
from sssd_local.store.memory_turn import Worth
from tests.store.memories import FOLDER, all_bytes, ids, says, stats, texts, turn
from tests.store.stores import new_manifest

TinyModel = Callable[..., Path]


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model()


@pytest.fixture
def kept(model: Path) -> KeptChats:
    return KeptChats(memory_folder() / tokenizer_fingerprint(model))


@pytest.fixture
def memory(model: Path) -> Iterator[Memory]:
    made = Memory()
    made.open(model)
    yield made
    made.close()


def say(memory: Memory, prompt: list[int], answer: list[int], tokens: int = 3) -> None:
    memory.begin(ids(prompt))
    memory.take(ids(prompt), ids(answer), stats(tokens))


def test_a_turn_is_on_disk_once_it_is_done(memory: Memory, kept: KeptChats) -> None:
    say(memory, [1, 2, 3], [4, 5])
    memory.close()
    ((chat, tokens),) = texts(kept)
    assert tokens == [1, 2, 3, 4, 5]
    say(memory, [1, 2, 3, 4, 5, 6], [7])
    memory.close()
    memory.close()
    assert texts(kept)[1] == (chat, [1, 2, 3, 4, 5, 6, 7])
    assert sum(kept.days().values(), Worth()) == Worth(2, 6, 0, 0.0)
    assert memory.problem == ""


def test_the_running_chat_is_no_source_and_the_next_one_sees_it(memory: Memory) -> None:
    assert memory.source.kind is TokenSource.MEMORY
    say(memory, [1, 2, 3], [4, 5])
    memory.close()
    say(memory, [1, 2, 3, 4, 5, 6], [7])
    assert memory.source.candidates([2, 1]).tokens == ()
    memory.begin(ids([8, 9]))
    assert memory.source.candidates([2, 1]).tokens == [3]
    assert memory.source.candidates([6]).tokens == [7]


def test_a_chat_reads_on_where_its_files_were_joined(
    memory: Memory, model: Path, kept: KeptChats
) -> None:
    say(memory, [1, 2, 3], [4, 5])
    memory.close()
    later = Memory()
    source = later.open(model)
    say(later, [8, 9], [10])
    later.close()
    assert len(kept.manifest().segments) == 1
    assert source.candidates([4, 3]).tokens != [5]
    later.begin(ids([8, 9, 10, 11]))
    assert source.candidates([4, 3]).tokens == [5]
    # Nothing of it is left to draft from once another program has forgotten it.
    kept.forget_all()
    assert source.candidates([4, 3]).tokens != [5]
    later.begin(ids([8, 9, 10, 11]))
    assert source.candidates([4, 3]).tokens == ()


def test_a_later_process_drafts_from_it(memory: Memory, model: Path) -> None:
    say(memory, [1, 2, 3], [4, 5])
    memory.close()
    later = Memory(keep=False)
    assert later.open(model).candidates([4, 3]).tokens == [5]


def test_text_is_found_before_it_is_on_disk(memory: Memory, kept: KeptChats) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    with WriterLock(kept.folder):
        say(memory, [4, 5], [6])
        memory.begin(ids([7, 8]))
        assert memory.source.candidates([5]).tokens == [6]
        assert memory.source.candidates([2]).tokens == [3]
        # The chat goes on meanwhile; the writer waits.
        assert kept.manifest().num_texts == 1
    memory.close()
    assert [tokens for _, tokens in texts(kept)] == [[1, 2, 3], [4, 5, 6]]


def test_held_turns_wait_for_the_answer(model: Path, kept: KeptChats) -> None:
    memory = Memory(keep=None)
    memory.open(model)
    assert not memory.asks
    say(memory, [1, 2], [3])
    memory.close()
    assert memory.asks
    assert not memory_folder().exists()
    memory.decide(True)
    memory.close()
    assert not memory.asks
    assert [tokens for _, tokens in texts(kept)] == [[1, 2, 3]]


def test_no_means_no(model: Path) -> None:
    memory = Memory(keep=None)
    memory.open(model)
    say(memory, [1, 2], [3])
    memory.decide(False)
    say(memory, [1, 2, 3, 4], [5])
    memory.close()
    assert not memory.asks
    assert not memory_folder().exists()


def test_a_conversation_forgotten_before_the_question_is_not_kept(model: Path) -> None:
    memory = Memory(keep=None)
    memory.open(model)
    say(memory, [1, 2], [3])
    memory.end_chat()
    assert not memory.asks


def test_reading_only_writes_nothing(memory: Memory, model: Path, kept: KeptChats) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    before = all_bytes(memory_folder())
    private = Memory(keep=False)
    assert private.open(model).num_tokens == 5
    assert not private.may_write
    say(private, [4, 5], [6])
    private.close()
    assert private.forget_chat() == 0
    assert all_bytes(memory_folder()) == before


def test_tokenizers_have_folders_of_their_own(memory: Memory, tiny_model: TinyModel) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    other = Memory()
    assert other.open(tiny_model(num_tokens=321)).num_tokens == 0
    say(other, [4, 5], [6])
    other.close()
    assert len([path for path in memory_folder().iterdir() if path.is_dir()]) == 2


def test_large_vocabularies(tmp_path: Path) -> None:
    kept = KeptChats(tmp_path / "x" / FOLDER)
    tokens = [70_000, 128_255, 32_768]
    kept.add(new_manifest(128_256), [turn(tokens)])
    assert texts(kept) == [("a", tokens)]
    assert says(tmp_path, tokens, 128_256)
    kept.forget(lambda source: True)
    assert not says(tmp_path, tokens, 128_256)


def test_forgetting_the_running_chat(memory: Memory, kept: KeptChats) -> None:
    say(memory, [1, 2], [3])
    memory.end_chat()
    say(memory, [40, 41, 42, 43], [44])
    assert memory.forget_chat() == 1
    assert not says(memory_folder(), [41, 42, 43])
    say(memory, [40, 41, 42, 43, 44, 45], [46])
    memory.close()
    assert texts(kept)[0][1] == [1, 2, 3]
    assert len(texts(kept)) == 2


def test_a_chat_begun_anew_by_undo_is_forgotten_whole(memory: Memory, kept: KeptChats) -> None:
    say(memory, [1, 40, 41, 42], [43])
    say(memory, [1, 50, 51, 52], [53])
    memory.close()
    assert len({chat for chat, _ in texts(kept)}) == 2
    assert memory.forget_chat() == 2
    assert not says(memory_folder(), [40, 41, 42])
    assert memory.source.num_tokens == 0


def test_an_ended_chat_can_be_forgotten_until_the_next_begins(
    memory: Memory, kept: KeptChats
) -> None:
    say(memory, [40, 41, 42], [43])
    memory.end_chat()
    assert memory.forget_chat() == 1
    assert texts(kept) == []


def test_what_is_said_while_memory_is_off_is_not_kept_later(
    memory: Memory, kept: KeptChats
) -> None:
    say(memory, [1, 2, 3], [4])
    memory.close()
    memory.decide(False)
    say(memory, [1, 2, 3, 4, *range(40, 60)], [60])
    memory.decide(True)
    say(memory, [1, 2, 3, 4, *range(40, 61), 5], [6])
    memory.close()
    assert not says(memory_folder(), list(range(40, 50)))


def test_a_conversation_gone_on_with_is_not_kept_again(memory: Memory, kept: KeptChats) -> None:
    memory.resume(ids(range(40, 80)))
    say(memory, [*range(40, 80), 5], [6])
    memory.close()
    assert not says(memory_folder(), list(range(40, 50)))
    assert texts(kept)[0][1][-2:] == [5, 6]


def test_what_is_not_kept_is_not_drafted_from(model: Path) -> None:
    memory = Memory(keep=None)
    memory.open(model)
    say(memory, [1, 2, 3], [4])
    say(memory, [7, 8, 9], [10])
    assert memory.source.num_tokens > 0
    memory.end_chat()
    assert memory.source.num_tokens == 0


def test_a_no_elsewhere_ends_the_writing_of_a_running_chat(model: Path, kept: KeptChats) -> None:
    write_choice(Choice(keep=True))
    memory = chosen_memory(may_write=True, may_ask=True)
    assert memory is not None
    memory.open(model)
    say(memory, [1, 2, 3], [4])
    memory.close()
    write_choice(Choice(keep=False))
    say(memory, [1, 2, 3, 4, *range(40, 60)], [60])
    memory.close()
    assert not says(memory_folder(), list(range(40, 50)))
    assert len(texts(kept)) == 1


def test_forgetting_a_held_chat(model: Path) -> None:
    memory = Memory(keep=None)
    memory.open(model)
    say(memory, [1, 2], [3])
    assert memory.forget_chat() == 1
    assert not memory.asks


def test_the_bound_is_kept(model: Path, kept: KeptChats) -> None:
    assert Memory()._max_bytes == 64_000_000
    memory = Memory(max_bytes=4_000)
    memory.open(model)
    for index in range(12):
        memory.end_chat()
        say(memory, [index] * 200, [1])
        memory.close()
    memory._writer.join()  # type: ignore[union-attr]
    assert 1 <= len(texts(kept)) < 12
    assert texts(kept)[-1][1] == [11] * 200 + [1]


def test_what_is_held_is_bounded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_HELD == 1 << 20
    monkeypatch.setattr(module, "MAX_HELD", 10)
    memory = Memory(keep=None)
    memory.open(model)
    for index in range(4):
        say(memory, [index * 10] * 5, [1])
    assert [turn.num_tokens for turn in memory._held] == [6]
    say(memory, [200] * 50, [1])
    assert [turn.num_tokens for turn in memory._held] == [51]


@pytest.mark.skipif(os.name != "posix", reason="POSIX folders")
def test_a_disk_that_refuses_is_a_problem_and_no_end(
    model: Path, kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    memory = Memory()
    memory.open(model)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        say(memory, [1, 2], [3])
        memory.close()
        assert "cannot be written: No space left on device" in memory.problem
        say(memory, [1, 2, 3, 4], [5])
        memory.close()
    assert texts(kept) == []
    # Once there is room, nothing was lost.
    say(memory, [1, 2, 3, 4, 5, 6], [7])
    memory.close()
    assert memory.problem == ""
    assert [tokens[-1] for _, tokens in texts(kept)] == [3, 5, 7]


def test_a_busy_store_loses_nothing(
    memory: Memory, kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    monkeypatch.setattr("sssd_local.store.memory_chats.PATIENCE_SECONDS", 0)
    with WriterLock(kept.folder):
        say(memory, [1, 2, 3, 4], [5])
        memory.close()
        assert "is being written by another process" in memory.problem
    memory.close()
    assert len(texts(kept)) == 2


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_closing_waits_for_another_process_only_so_long_however_often(
    memory: Memory, kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    clock = Clock(monkeypatch)
    with WriterLock(kept.folder):
        say(memory, [1, 2, 3, 4], [5])
        assert memory._writer is not None
        memory._writer.join()
        assert 10 <= clock.now < 10.05
        for _ in range(3):
            memory.close()
        assert 20 <= clock.now < 20.05
    # What is said after it is waited for again.
    with WriterLock(kept.folder):
        say(memory, [1, 2, 3, 4, 5, 6], [7])
        memory._writer.join()
        assert 30 <= clock.now < 30.1
    memory.close()
    assert [tokens[-1] for _, tokens in texts(kept)] == [3, 5, 7]


def test_tidying_waits_for_nobody(
    memory: Memory, kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    lock = WriterLock(kept.folder)
    add = memory._chats.add

    def add_then_lose_the_lock(*arguments: Any) -> None:
        add(*arguments)
        lock.__enter__()

    monkeypatch.setattr(memory._chats, "add", add_then_lose_the_lock)
    say(memory, [1, 2], [3])
    memory.close()
    lock.__exit__(None, None, None)
    assert (clock.now, memory.problem) == (0.0, "")
    assert [tokens for _, tokens in texts(kept)] == [[1, 2, 3]]


LETTERS = {token: bytes([token]) for token in range(128)}
SECRET = list(b"hunter2-correct-horse")


def letters(text: str) -> list[int]:
    return list(text.encode())


@pytest.fixture
def careful(model: Path) -> Iterator[Memory]:
    """A memory that ignores passwords, with a token for each letter."""
    made = Memory(ignore=["(?i)password"])
    made.open(model)
    made.piece = LETTERS.__getitem__
    yield made
    made.close()


def test_ignored_lines_are_neither_on_disk_nor_drafted_from(
    careful: Memory, kept: KeptChats
) -> None:
    question = letters("Log me in.\nMy password is ") + SECRET + letters("\nThanks!\n")
    answer = letters("Sure.\nPassword: ") + SECRET + letters("\nDone.\n")
    say(careful, question, answer)
    careful.close()
    careful.begin(ids(letters("another chat")))
    for part in (SECRET, SECRET[:4], letters("assw")):
        assert not says(memory_folder(), part)
    runs = [tokens for _, tokens in texts(kept)]
    assert ["".join(map(chr, tokens)) for tokens in runs] == [
        "Log me in.\n", "\nThanks!\nSure.\n", "\nDone.\n",
    ]  # fmt: skip
    # Nothing goes on over the place of the line.
    assert careful.source.candidates(letters("in.\n")[::-1]).match_length == 1
    assert careful.source.candidates(letters("ank")[::-1]).tokens == [ord("s")]


def test_a_turn_that_is_ignored_has_those_before_it_tried_again(
    careful: Memory, kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("sssd_local.store.store.write_segment", full)
        say(careful, letters("hello\n"), letters("there\n"))
        careful._writer.join()  # type: ignore[union-attr]
    assert texts(kept) == []
    say(careful, letters("password"), letters("!"))
    careful._writer.join()  # type: ignore[union-attr]
    assert [bytes(text) for _, text in texts(kept)] == [b"hello\nthere\n"]


def test_ignored_lines_are_not_held_for_the_question(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(keep=None, ignore=["password"])
    memory.open(model)
    memory.piece = LETTERS.__getitem__
    say(memory, letters("password ") + SECRET, letters("!"))
    assert not memory.asks
    say(memory, letters("fine\npassword ") + SECRET, letters("\nfine"))
    assert [text.tolist() for turn in memory._held for text in turn.texts] == [
        letters("fine\n"), letters("\nfine"),
    ]  # fmt: skip
    found: list[Segment] = []
    monkeypatch.setattr(memory.source, "read", found.extend)
    memory.begin(ids(letters("another chat")))
    (segment,) = found
    end = memory.source.num_vocab
    assert segment.tokens.tolist() == [end, *letters("fine\n"), end, *letters("\nfine"), end]


def test_what_a_later_turn_repeats_of_an_ignored_line_is_ignored(
    careful: Memory, kept: KeptChats
) -> None:
    first = letters("a\npassword ") + SECRET
    say(careful, first, letters("5"))
    say(careful, [*first, *letters("5678")], letters("\nwell\n"))
    careful.close()
    assert [tokens for _, tokens in texts(kept)] == [letters("a\n"), letters("\nwell\n")]
    assert sum(kept.days().values(), Worth()).answers == 2


def test_without_a_vocabulary_nothing_is_kept_that_might_be_ignored(model: Path) -> None:
    memory = Memory(ignore=["password"])
    memory.open(model)
    say(memory, [1, 2], [3])
    memory.close()
    assert memory.problem == (
        "lines to ignore cannot be told without a vocabulary; nothing is kept"
    )
    assert not memory_folder().exists()


def test_two_chats_at_once_lose_nothing(model: Path, kept: KeptChats) -> None:
    memories = [Memory(), Memory()]
    for memory in memories:
        memory.open(model)

    def chat(memory: Memory, first: int) -> None:
        for index in range(12):
            memory.end_chat()
            say(memory, [first, index, 1], [2])
        memory.close()

    threads = [threading.Thread(target=chat, args=(m, 50 + i)) for i, m in enumerate(memories)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [memory.problem for memory in memories] == ["", ""]
    found = [tokens for _, tokens in texts(kept)]
    assert sorted(found) == sorted([f, i, 1, 2] for f in (50, 51) for i in range(12))
    for first in (50, 51):
        assert [t for t in found if t[0] == first] == [[first, i, 1, 2] for i in range(12)]


def test_damage_is_a_problem_and_an_empty_source(
    memory: Memory, model: Path, kept: KeptChats
) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    (kept.folder / "manifest.json").write_text("{}")
    later = Memory()
    assert later.open(model).num_tokens == 0
    assert "manifest.json is damaged" in later.problem
    with pytest.raises(ModelError):
        Memory().open("none.gguf")


def test_a_part_damaged_under_a_chat_is_left_aside_with_a_warning(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = Segment(np.array([300, 1, 2], np.uint16), np.array([2], np.uint32))
    memory.source.read([damaged])
    with caplog.at_level(logging.WARNING, "sssd_local"):
        assert memory.source.candidates([2]).tokens == ()
    assert caplog.messages == [
        "the memory is damaged and a part of it is left aside; see what with "
        "`sssd-local memory verify`"
    ]


def test_what_is_wanted(tmp_path: Path) -> None:
    assert make_memory(False) is make_memory(None) is None
    made = make_memory(True)
    assert made is not None
    assert (made.folder, made.may_write) == (memory_folder(), True)
    assert make_memory(made) is made
    for path in (tmp_path, str(tmp_path)):
        at_path = make_memory(path)
        assert at_path is not None
        assert at_path.folder == tmp_path


@pytest.mark.parametrize(
    ("keep", "may_write", "may_ask", "found"),
    [
        (None, True, True, (True, None)),
        (None, True, False, None),
        (None, False, True, None),
        (True, True, False, (True, True)),
        (True, True, True, (True, True)),
        (True, False, True, (False, False)),
        (False, True, True, None),
    ],
)
def test_what_the_user_decided(
    keep: bool | None, may_write: bool, may_ask: bool, found: tuple[bool, bool | None] | None
) -> None:
    if keep is not None:
        write_choice(Choice(keep, 3))
    memory = chosen_memory(may_write=may_write, may_ask=may_ask)
    if found is None:
        assert memory is None
    else:
        assert memory is not None
        assert (memory.may_write, memory._keep) == found
        assert memory._max_bytes == (3_000_000 if keep else 64_000_000)


def test_what_a_killed_process_left_goes_when_a_chat_begins(
    memory: Memory, model: Path, kept: KeptChats
) -> None:
    say(memory, [1, 2], [3])
    memory.close()
    left = kept.folder / "000033.tokens.npy"
    left.write_bytes(b"text")
    with WriterLock(kept.folder):
        Memory().open(model)
    assert left.exists()
    Memory(keep=False).open(model)
    assert left.exists()
    Memory().open(model)
    assert not left.exists()


def test_a_writer_that_cannot_be_nice_writes(
    model: Path, kept: KeptChats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse, raising=False)
    memory = Memory()
    memory.open(model)
    say(memory, [1, 2], [3])
    memory.close()
    assert len(texts(kept)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("num_turns", [1, 2, 5, 9, 14, 20])
def test_a_chat_that_is_killed_keeps_what_was_written(
    model: Path, kept: KeptChats, monkeypatch: pytest.MonkeyPatch, num_turns: int
) -> None:
    # The library's threads do not live on in a forked process.
    monkeypatch.setattr(order, "library", lambda: None)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            memory = Memory()
            memory.open(model)
            for index in range(100_000):
                memory.end_chat()
                say(memory, [index % 200, 7], [8])
                if not index:
                    memory.close()
                os.write(writer, b"x")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        for _ in range(num_turns):
            assert pipe.read(1) == b"x"
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert kept.problems() == []
    later = Memory()
    later.open(model)
    say(later, [1, 2], [3])
    later.close()
    found = [tokens for _, tokens in texts(kept)]
    assert len(found) > 1
    assert found == [[index % 200, 7, 8] for index in range(len(found) - 1)] + [[1, 2, 3]]
