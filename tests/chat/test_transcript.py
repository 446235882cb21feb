"""Conversations, and files that give them back unchanged."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.chat import transcript as module
from sssd_local.chat.transcript import (
    ChatFileError,
    Message,
    Transcript,
    clean,
    from_markdown,
    load_chat,
    read_user_file,
    save_chat,
    split_names,
    to_markdown,
)

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi\n\n## User\n\n<!-- chat: user -->\nyou"},
    {"role": "assistant", "content": "\n Hello é 🎉\r\n"},
]
PARTS = ["\n", "\r", "a", "\\", "#", " ", "<!-- chat: user -->", "## User", "é"]
awkward = st.lists(st.sampled_from(PARTS)).map("".join)


def conversation(texts: list[str], system: str | None) -> list[Message]:
    turns = [{"role": ("user", "assistant")[at % 2], "content": t} for at, t in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def test_visible_messages_begin_with_the_system_message() -> None:
    chat = Transcript()
    chat.replace(CHAT)
    chat.ask("more")
    assert chat.visible() == [*CHAT, {"role": "user", "content": "more"}]
    assert chat.hide(2) == 1
    assert chat.visible() == [CHAT[0], {"role": "user", "content": "more"}]
    chat.withdraw()
    assert (chat.withdrawn, chat.messages) == ("more", CHAT[1:])
    assert chat.undo() == CHAT[1]["content"]
    assert (chat.messages, chat.num_hidden) == ([], 0)
    assert chat.undo() is None
    chat.clear()
    assert (chat.system, chat.withdrawn) == ("Be kind.", None)


def test_another_conversation_is_visible_from_its_start() -> None:
    chat = Transcript()
    chat.replace(CHAT)
    chat.hide(2)
    chat.replace(CHAT)
    assert chat.visible() == CHAT


def test_attachments_come_before_the_message_once() -> None:
    chat = Transcript(attachments=[("a.txt", "one\n"), ("b.md", "```\ntwo\n```\n")])
    assert chat.compose("sum up") == (
        "a.txt:\n```\none\n```\n\nb.md:\n````\n```\ntwo\n```\n````\n\nsum up"
    )
    assert chat.compose("again") == "again"


@pytest.mark.parametrize("name", ["chat.json", "chat.md", "folder/chat.MD"])
def test_a_saved_chat_comes_back(tmp_path: Path, name: str) -> None:
    path = save_chat(str(tmp_path / name), CHAT, "m.gguf")
    assert load_chat(str(path)) == CHAT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name != "posix"
    # A saved chat may be replaced.
    save_chat(str(path), CHAT[:1] + CHAT[1:], "m.gguf")


def test_markdown_reads_well() -> None:
    assert to_markdown([{"role": "user", "content": "Hi"}]) == (
        "<!-- sssd-local chat -->\n\n<!-- chat: user -->\n## User\n\nHi\n"
    )


@given(st.lists(awkward, min_size=1, max_size=4), st.none() | awkward)
def test_markdown_gives_every_text_back(texts: list[str], system: str | None) -> None:
    messages = conversation(texts, system)
    assert from_markdown(to_markdown(messages)) == messages


def test_a_last_message_without_an_answer_is_withdrawn(tmp_path: Path) -> None:
    chat = Transcript()
    chat.replace(CHAT[:2])
    assert (chat.messages, chat.withdrawn) == ([], CHAT[1]["content"])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "text",
        "{}",
        "[]",
        "[1]",
        '{"messages": 3}',
        '[{"role": "user"}]',
        '[{"role": "robot", "content": "a"}]',
        '[{"role": "assistant", "content": "a"}]',
        '[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]',
        '[{"role": "user", "content": ["a"]}]',
        "[" * 100_000,
        "<!-- sssd-local chat -->\n",
    ],
)
def test_what_is_no_saved_chat(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(ChatFileError, match="x is no saved chat"):
        load_chat(str(tmp_path / "x"))


def test_a_list_of_messages_is_a_chat_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('[{"role": "user", "content": "\\ud800a"}]')
    assert load_chat(str(tmp_path / "x")) == [{"role": "user", "content": "\ufffda"}]


def test_other_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ChatFileError, match="is no saved chat; choose another name"):
        save_chat(str(tmp_path / "notes.txt"), CHAT, "m")
    with pytest.raises(ChatFileError, match="is no saved chat; choose another name"):
        save_chat(str(tmp_path), CHAT, "m")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ChatFileError, match="cannot be written: "):
        save_chat(str(tmp_path / "file" / "x.json"), CHAT, "m")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_chat(str(tmp_path / "x.json"), CHAT, "m")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ChatFileError, match="cannot be written: No space left on device"):
        save_chat(str(tmp_path / "x.json"), CHAT[:1], "m")
    assert load_chat(str(tmp_path / "x.json")) == CHAT
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 2 << 20)
    (tmp_path / "large").write_bytes(b"a" * (2 << 20) + b"a")
    cases = {
        "none": "cannot be read: No such file",
        ".": "is a folder",
        "bytes": r"is not UTF-8 text \(byte 2\)",
        "large": "is larger than 2 MB",
        "a\0b": "cannot be read: ",
    }
    for name, message in cases.items():
        with pytest.raises(ChatFileError, match=message):
            read_user_file(f"{tmp_path}/{name}")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/zero", str(tmp_path / "pipe")):
        with pytest.raises(ChatFileError, match="is no ordinary file"):
            read_user_file(name)


def test_names_are_split_as_in_a_shell() -> None:
    assert split_names("a 'b c' \"d\"") == ["a", "b c", "d"]
    with pytest.raises(ChatFileError, match="is not closed"):
        split_names("it's")


def test_clean_text_can_be_encoded() -> None:
    assert clean("a\udcffb\ud83d\ude00") == "a\ufffdb😀"
