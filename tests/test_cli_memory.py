"""`sssd-local memory`: what it prints and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sssd_local.cli_memory import memory
from sssd_local.llm import LLM
from sssd_local.store.lock import WriterLock
from sssd_local.store.memory_chats import kept_chats
from sssd_local.store.memory_choice import Choice, memory_folder, read_choice
from tests.help import lines_of_help
from tests.store.memories import all_bytes, texts

TinyModel = Callable[..., Path]
PROMPT = "the rain on the plain"


def run(*words: object) -> Result:
    return CliRunner().invoke(memory, [str(word) for word in words])


@pytest.fixture
def chats(tiny_model: TinyModel) -> Path:
    """Two chats in the app's folder; the path of the model they were with."""
    path = tiny_model()
    with LLM(path, memory=True, ctx=128, threads=1, speculation=4) as llm:
        for prompt in (PROMPT, "other words"):
            llm.generate(prompt, max_tokens=4, temperature=0.0)
    return path


def num_turns() -> int:
    return sum(len(texts(kept)) for kept in kept_chats(memory_folder()))


def test_on_off_and_path() -> None:
    assert run("path").stdout == f"{memory_folder()}\n"
    assert not memory_folder().exists()
    assert run("on").stdout == f"chats are kept in {memory_folder()}\n"
    assert read_choice() == Choice(True, 64)
    run("on", "--max-mb", 5)
    assert run("off").stdout == "chats are not kept\n"
    assert read_choice() == Choice(False, 5)
    result = run("on", "--max-mb", 0)
    assert result.exit_code == 2
    assert "error: memory may take from 1 to" in result.stderr


def test_off_says_that_chats_stay(chats: Path) -> None:
    second = run("off").stdout.splitlines()[1]
    assert second == "those of before are: `sssd-local memory forget --all` deletes them"


def test_status(chats: Path) -> None:
    run("on")
    first, second, *_ = run("status").stdout.splitlines()
    assert first == f"memory is on; {memory_folder()}"
    assert second.startswith(f"{chats.name}: 2 chats, ")
    assert json.loads(run("status", "--json").stdout)["models"][0]["chats"] == 2


def test_export(chats: Path) -> None:
    first, second = map(json.loads, run("export").stdout.splitlines())
    assert first["text"].startswith(PROMPT)
    assert second["text"].startswith("other words")
    assert first["chat"] != second["chat"]
    assert run("export", "--model", chats).stdout == run("export").stdout


@pytest.mark.parametrize(
    ("words", "left", "said"),
    [
        (["--last"], 1, "1 turn forgotten"),
        (["--since", "2h"], 0, "2 turns forgotten"),
        (["--since", "0m"], 2, "0 turns forgotten"),
        (["--chat", "nobody"], 2, "0 turns forgotten"),
        (["--damaged"], 2, "0 turns forgotten"),
        (["--all"], 0, "all chats are forgotten"),
    ],
)
def test_forget(chats: Path, words: list[str], left: int, said: str) -> None:
    result = run("forget", *words)
    assert (result.exit_code, result.stdout) == (0, f"{said}\n")
    assert num_turns() == left


def test_forget_all_deletes_what_a_chat_keeps_elsewhere(home: Path) -> None:
    app = home / "app"
    names = ("last_chat.json", "history", ".last_chat.json.x1.tmp")
    app.mkdir()
    (app / "config.toml").write_text("")
    for name in names:
        (app / name).write_text(f"{PROMPT} in {name}")
    assert PROMPT.encode() in all_bytes(home)
    with ExitStack() as stack:
        held = [stack.enter_context((app / name).open("rb", 0)) for name in names]
        result = run("forget", "--all")
        # On Windows files that are open stay, as zeros.
        assert os.name == "nt" or (result.exit_code, result.stdout.splitlines()) == (0, [
            "all chats are forgotten",
            f"the last chat, for `run -c`, is deleted: {app / 'last_chat.json'}",
            f"what was typed is deleted: {app / 'history'}",
            f"a part of the last chat is deleted: {app / '.last_chat.json.x1.tmp'}",
        ])  # fmt: skip
        for name, file in zip(names, held, strict=True):
            assert file.read() == bytes(len(f"{PROMPT} in {name}"))
    assert PROMPT.encode() not in all_bytes(home)
    assert os.name == "nt" or [path.name for path in app.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("words", [["--last"], ["--since", "2h"], ["--damaged"]])
def test_forgetting_less_leaves_what_a_chat_keeps_elsewhere(home: Path, words: list[str]) -> None:
    (home / "app").mkdir()
    (home / "app" / "history").write_text(PROMPT)
    assert run("forget", *words).exit_code == 0
    assert (home / "app" / "history").read_text() == PROMPT


def test_forgetting_a_chat_tells_what_may_still_say_it(chats: Path, home: Path) -> None:
    path = home / "app" / "history"
    path.write_text(PROMPT)
    assert run("forget", "--last").stdout.splitlines() == [
        "1 turn forgotten",
        f"what was typed is kept apart: {path}; --all deletes that too",
    ]
    assert run("forget", "--chat", "nobody").stdout == "0 turns forgotten\n"


def test_a_busy_memory_does_not_save_what_was_typed(
    chats: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "app" / "history"
    path.write_text(PROMPT)
    monkeypatch.setattr("sssd_local.store.memory_chats.PATIENCE_SECONDS", 0)
    (kept,) = kept_chats(memory_folder())
    with WriterLock(kept.folder):
        result = run("forget", "--all")
    assert (result.exit_code, result.stdout) == (1, f"what was typed is deleted: {path}\n")
    assert "is being written by another process" in result.stderr
    assert not path.exists()


def test_what_cannot_be_deleted_is_an_error_and_is_zeros(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "app" / "history"
    path.parent.mkdir()
    path.write_text(PROMPT)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    result = run("forget", "--all")
    assert (result.exit_code, result.stdout) == (1, "all chats are forgotten\n")
    assert result.stderr == f"error: {path} cannot be deleted: Permission denied\n"
    assert path.read_bytes() == bytes(len(PROMPT))


def test_forget_the_chat_that_export_names(chats: Path) -> None:
    name = json.loads(run("export").stdout.splitlines()[0])["chat"]
    run("forget", "--chat", name)
    (line,) = run("export").stdout.splitlines()
    assert PROMPT not in line
    assert name.encode() not in all_bytes(memory_folder())


@pytest.mark.parametrize("words", [[], ["--last", "--all"], ["--since", "2h", "--chat", "x"]])
def test_forget_wants_one_thing(words: list[str]) -> None:
    result = run("forget", *words)
    assert result.exit_code == 2
    assert "say what: --last, --since TIME" in result.stderr


def test_a_wrong_time_is_a_usage_error() -> None:
    result = run("forget", "--since", "soon")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: 'soon' is no time" in result.stderr


def test_verify(chats: Path) -> None:
    result = run("verify")
    assert (result.exit_code, result.stdout) == (0, "all that is kept is as it was written\n")
    (kept,) = kept_chats(memory_folder())
    path = next(kept.folder.glob("*.order.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = run("verify")
    assert result.exit_code == 1
    assert result.stdout == f"{path} has another checksum: its content was changed\n"
    assert "`sssd-local memory forget --damaged`" in result.stderr
    assert run("forget", "--damaged").exit_code == 0
    assert run("verify").exit_code == 0


def test_nothing_kept_is_no_error() -> None:
    for words in (["status"], ["export"], ["verify"], ["forget", "--all"], ["forget", "--last"]):
        assert run(*words).exit_code == 0
    assert not memory_folder().exists()


def test_no_text_is_printed_but_by_export(chats: Path) -> None:
    assert "rain" in run("export").stdout
    for words in (["status"], ["status", "--json"], ["verify"], ["forget", "--last"]):
        result = run(*words)
        assert (result.exit_code, bool(result.stdout)) == (0, True)
        assert "rain" not in result.stdout + result.stderr


def test_every_command_has_a_help_text() -> None:
    assert sorted(memory.commands) == [
        "export", "forget", "off", "on", "path", "status", "verify",
    ]  # fmt: skip
    for name in memory.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "--debug" in result.stdout


def test_help_imports_neither_numpy_nor_llama_cpp() -> None:
    lines = lines_of_help("memory", "forget", heavy={"numpy", "llama_cpp"})
    assert "memory forget [OPTIONS]" in lines[0]
    assert lines[-1] == "[]"
