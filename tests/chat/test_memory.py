"""Memory in a chat: the question at its end, `/memory`, and privacy."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sssd_local.chat.repl import run_repl
from sssd_local.chat.settings import ChatSettings
from sssd_local.errors import ConfigError, ContextFullError
from sssd_local.llm import LLM
from sssd_local.store.memory import Memory, chosen_memory
from sssd_local.store.memory_chats import kept_chats
from sssd_local.store.memory_choice import Choice, memory_folder, read_choice, write_choice
from sssd_local.store.memory_export import export_lines
from tests.chat.scripted import Line, User
from tests.store.memories import all_bytes, says, texts

TinyModel = Callable[..., Path]
LETTERS_ONLY = dict.fromkeys(range(259), float("-inf"))
OPTIONS = {"temperature": 0.0, "max_tokens": 8, "logit_bias": LETTERS_ONLY}
QUESTION = "Keep what you write to make later chats faster? [y/N] stored in "


@pytest.fixture
def start(tiny_model: TinyModel) -> Callable[..., str]:
    """A whole chat of given lines; returns the last prompt and what was printed."""

    def run(*lines: Line, private: bool = False, **options: Any) -> str:
        output, user = io.StringIO(), User(lines)
        memory = chosen_memory(may_write=not private, may_ask=True) or False
        with LLM(tiny_model(), ctx=512, threads=1, speculation=4, memory=memory) as llm:
            run_repl(
                llm,
                settings=ChatSettings(options=dict(OPTIONS), quiet=True),
                private=private,
                history=False,
                read=user,
                output=output,
                **options,
            )
        return user.prompts[-1] + "\n" + output.getvalue()

    return run


def kept_text() -> list[list[int]]:
    return [tokens for kept in kept_chats(memory_folder()) for _, tokens in texts(kept)]


@pytest.mark.parametrize("answer", ["y", " YES "])
def test_yes_keeps_the_chat_and_all_later_ones(start: Callable[..., str], answer: str) -> None:
    said = start("one", "two", "/exit", answer)
    assert f"{QUESTION}{memory_folder()}: \n" in said
    assert said.endswith("kept from now on; `sssd-local memory` has status, off and forget\n")
    assert read_choice() == Choice(True)
    assert len(kept_text()) == 2
    again = start("three", "/exit", "y")
    assert QUESTION not in again
    tokens = sum(map(len, kept_text()[:2])) + 3
    assert f" · {tokens} tokens of earlier chats\n" in again
    assert len(kept_text()) == 3


@pytest.mark.parametrize("keep", [True, False])
def test_what_was_decided_in_another_chat_meanwhile_is_not_asked(
    start: Callable[..., str], keep: bool
) -> None:
    def decide() -> str:
        write_choice(Choice(keep))
        return "/exit"

    assert QUESTION not in start("one", decide, "y" if not keep else "n")
    assert read_choice() == Choice(keep)
    assert len(kept_text()) == int(keep)


@pytest.mark.parametrize("answer", ["n", "", "yo", EOFError(), KeyboardInterrupt()])
def test_all_else_is_no_and_is_not_asked_again(start: Callable[..., str], answer: Line) -> None:
    said = start("one", "/exit", answer)
    assert said.endswith("nothing is kept; `sssd-local memory on` changes that\n")
    assert [path.name for path in memory_folder().iterdir()] == ["choice.json"]
    assert QUESTION not in start("one", "/exit", "y")
    assert kept_text() == []


def test_nothing_said_nothing_asked(start: Callable[..., str]) -> None:
    assert QUESTION not in start("/help", "/exit", "y")
    assert QUESTION not in start("one", "/clear", "/exit", "y")
    assert not memory_folder().exists()


def test_private_neither_asks_nor_writes(start: Callable[..., str]) -> None:
    assert QUESTION not in start("one", "/exit", "y", private=True)
    assert not memory_folder().exists()
    start("one", "/exit", "y")
    before = all_bytes(memory_folder())
    said = start("secret words", "/memory on", "two", "/memory forget", "/exit", private=True)
    assert "private: no text is kept" in said
    assert "later chats are kept" in said
    assert "0 turns of this chat forgotten" in said
    assert all_bytes(memory_folder()) == before


def test_a_second_chat_drafts_from_the_first(tiny_model: TinyModel) -> None:
    chat = [{"role": "user", "content": "one two three"}]
    for sources in ({"model", "output"}, {"model", "memory"}):
        with LLM(tiny_model(), ctx=512, threads=1, speculation=8, memory=True) as llm:
            answer = llm.chat(chat, **{**OPTIONS, "max_tokens": 30})
            assert set(answer.sources) <= sources | {"prompt", "output", "recycle"}
    assert "memory" in answer.sources


def test_the_embedder_keeps_nothing_by_default(tiny_model: TinyModel) -> None:
    write_choice(Choice(True))
    with LLM(tiny_model(), ctx=128, threads=1, speculation=4) as llm:
        assert llm.memory is None
        llm.generate("one", max_tokens=3)
    assert kept_text() == []


def test_an_answer_that_is_left_is_kept(tiny_model: TinyModel, tmp_path: Path) -> None:
    with LLM(tiny_model(), ctx=128, threads=1, speculation=4, memory=tmp_path / "m") as llm:
        stream = llm.stream("one", max_tokens=20, temperature=0.0)
        first = next(stream)
        stream.close()
        with pytest.raises(ContextFullError):
            llm.generate([])
        expected = [*llm.tokenize("one"), *first.token_ids]
    ((_, tokens),) = [turn for kept in kept_chats(tmp_path / "m") for turn in texts(kept)]
    assert tokens == expected


def test_commands(start: Callable[..., str]) -> None:
    said = start("one", "/memory", "/memory on", "/memory status", "/memory forget", "two", "/exit")
    assert "memory is off until you say yes" in said
    assert f"this chat and later ones are kept in {memory_folder()}" in said
    assert f"memory is on; {memory_folder()}" in said
    assert "1 turn of this chat forgotten" in said
    assert len(kept_text()) == 1
    said = start("one", "/memory off", "two", "/memory none", "/exit", "y")
    assert "chats are not kept; `sssd-local memory forget`" in said
    assert "error: unknown word none" in said.replace("'", "")
    assert QUESTION not in said
    assert len(kept_text()) == 2
    said = start("/memory forget", "/memory on", "/exit")
    assert "0 turns of this chat forgotten" in said
    assert "later chats are kept in" in said


@pytest.mark.skipif(os.name != "posix", reason="POSIX folders")
def test_a_home_that_cannot_be_written_is_told(
    start: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSSD_LOCAL_HOME", "/dev/null/app")
    said = start("one", "/exit", "y")
    assert "error: /dev/null/app/memory cannot be written" in said


def test_a_disk_that_refuses_is_noted_once(
    start: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_choice(Choice(True))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = start("one", "two", "three", "/exit")
    assert said.count("memory: ") == 1
    assert "No space left on device" in said


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    log = logging.getLogger("sssd_local")
    log.addHandler(handler)
    level, _ = log.level, log.setLevel(logging.DEBUG)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def test_no_text_in_the_log(start: Callable[..., str], records: list[logging.LogRecord]) -> None:
    write_choice(Choice(True))
    start("a remarkable sentence", "/exit")
    (kept,) = kept_chats(memory_folder())
    (kept.folder / "manifest.json").write_text("{}")
    said = start("a remarkable sentence", "/exit")
    assert said.count("manifest.json is damaged") == 1
    assert not [record for record in records if "remarkable" in record.getMessage()]


def test_memory_can_be_given_ready_made(tiny_model: TinyModel, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", keep=None)
    with LLM(tiny_model(), ctx=128, threads=1, speculation="off", memory=memory) as llm:
        assert llm.memory is memory
        llm.generate("one", max_tokens=3)
        assert memory.asks
        llm.reset()
        assert not memory.asks


def test_lines_to_ignore_are_found_in_the_models_own_pieces(tiny_model: TinyModel) -> None:
    path, secret = tiny_model(), "hunter the second"
    memory = Memory(ignore=["pass(word|phrase)"])
    with LLM(path, ctx=512, threads=1, speculation=4, memory=memory) as llm:
        message = f"the rain\nmy passphrase is {secret}\non the plain"
        llm.chat([{"role": "user", "content": message}], **OPTIONS)
        memory.close()
        tokens = llm.tokenize(f" {secret}", add_special=False)
        text = "".join(json.loads(line)["text"] for line in export_lines(memory_folder(), path))
    assert "the rain" in text
    assert "on the plain" in text
    assert "passphrase" not in text
    assert "hunter" not in text
    assert len(tokens) > 3
    assert not says(memory_folder(), tokens[1:4], memory.source.num_vocab)
    assert len(kept_text()) == 2


def test_a_wrong_expression_is_told_before_anything_is_kept() -> None:
    with pytest.raises(ConfigError, match=r"'\(' is no regular expression: "):
        Memory(ignore=["("])
