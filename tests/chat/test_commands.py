"""Every command, in scripted chats with a real tiny model."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from sssd_local.chat.commands import ALIASES, COMMANDS
from sssd_local.llm import LLM
from tests.chat.scripted import Chat, answers

TinyModel = Callable[..., Path]


@pytest.fixture(scope="module")
def llm(tiny_model: TinyModel) -> Iterator[LLM]:
    with LLM(tiny_model(), ctx=512, threads=1, kv_type="f32", speculation=4) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(llm: LLM) -> None:
    llm.reset()


def test_help_lists_every_command(llm: LLM) -> None:
    text = Chat(llm, ["/help"]).text
    for name, command in COMMANDS.items():
        assert command.usage.startswith(f"/{name}")
        assert f"{command.usage} " in text
        assert command.help in text
    assert Chat(llm, ["/?"]).text == text
    assert set(ALIASES.values()) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/hlep", "error: unknown command '/hlep'; did you mean '/help'?\n"),
        ("/xyzzy 12", "error: unknown command '/xyzzy'; /help lists them\n"),
        ("/", "error: unknown command '/'; /help lists them\n"),
        ("/usr/bin\nmore", "error: unknown command '/usr/bin'; /help lists them\n"),
        ("/\x1b[2J", "error: unknown command '/\\x1b[2j'; /help lists them\n"),
        ("/set xyzzy 1", "error: unknown setting 'xyzzy'\n"),
        ("/set temp hot", "error: temperature must be a finite number, got 'hot'\n"),
        (
            "/show tsats",
            "error: unknown topic 'tsats'; did you mean 'stats'?; there are info, params, stats, "
            "system, chat\n",
        ),
        ("/show foo", "error: unknown topic 'foo'; there are info, params, stats, system, chat\n"),
        ("/show stats", "there is no answer yet\n"),
        ("/system", "no system message\n"),
        ("/read", "error: name a file: /read FILE…\n"),
        ("/read 'a", 'error: "\'a" has a quotation mark that is not closed\n'),
        ("/read /none", "error: /none cannot be read: No such file or directory\n"),
        ("/retry", "error: there is nothing to retry\n"),
        ("/undo", "error: there is nothing to undo\n"),
        ("/save x", "error: there is nothing to save yet\n"),
        ("/load", "error: name one file: /load FILE (quote a name with spaces)\n"),
        ("/load /none", "error: /none cannot be read: No such file or directory\n"),
        ("/spec 65", "error: speculation must be auto, off or a width from 1 to 64, got '65'\n"),
        ("/spec", "speculation 4\n"),
        ("/spec on", "speculation auto\n"),
        ("/quiet", "the line after each answer is shown\n"),
        ("/quiet on", "the line after each answer is left out\n"),
        ("/quiet off", "the line after each answer is shown\n"),
        ("/quiet please", "error: quiet must be on or off, got 'please'\n"),
        ("/set quiet off", "quiet off\n"),
        ("/set think on", "think show\n"),
    ],
)
def test_one_line_and_nothing_is_sent(llm: LLM, line: str, answer: str) -> None:
    chat = Chat(llm, [line])
    assert chat.text == answer
    assert chat.roles == []


@pytest.mark.parametrize("line", ["/exit", "/bye", "/quit", "/EXIT", "//exit"])
def test_leaving(llm: LLM, line: str) -> None:
    chat = Chat(llm, [line, "never read"])
    assert chat.user.prompts == [">>> "]
    assert chat.text == ""


def test_settings_apply_to_the_next_answer(llm: LLM) -> None:
    (first,) = answers(llm, "hi")
    chat = Chat(llm, ["/set max_tokens 3", "hi"])
    assert first.startswith(chat.contents[1])
    assert len(chat.contents[1]) < len(first)
    assert chat.text.startswith("max_tokens 3\n")
    assert "max_tokens 8\n" in Chat(llm, ["/set"]).text
    assert Chat(llm, ["/show params"]).text == Chat(llm, ["/set"]).text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set grammar {}/bad.gbnf", "the grammar cannot be used"),
        ("/set json_schema {}/bad.json", "the JSON schema cannot be used"),
        ("/set logit_bias 99999=1", "logit_bias names token 99999, the vocabulary ends at 319"),
        ("/set max_tokens 0", "max_tokens must be a whole number at least 1, got 0"),
        ("/set temp none of this", "temperature must be a finite number, got 'none of this'"),
    ],
)
def test_a_setting_that_cannot_be_used_leaves_the_old_one(
    llm: LLM, tmp_path: Path, line: str, message: str
) -> None:
    (expected,) = answers(llm, "hi")
    (tmp_path / "bad.gbnf").write_text('root ::= ( "a"')
    (tmp_path / "bad.json").write_text("[")
    chat = Chat(llm, [line.format(tmp_path), "hi"])
    first, rest = chat.text.split("\n", 1)
    assert first.startswith(f"error: {message}")
    assert "error" not in rest
    assert chat.contents == ["hi", expected]


def test_a_template_argument_that_breaks_the_template_is_refused(tiny_model: TinyModel) -> None:
    template = "{% if n %}{{ 'ok' + n }}{% endif %}{{ messages[0]['content'] }}"
    with LLM(tiny_model(), ctx=128, threads=1, speculation="off", chat_template=template) as made:
        chat = Chat(made, ["/set template n=1", '/set template n="a"', "/set template n=2"])
        assert chat.repl.settings.template_arguments == {"n": "a"}
        refusal = "error: the chat template failed: "
        assert [line.startswith(refusal) for line in chat.text.splitlines()] == [True, False, True]


def test_the_system_message(llm: LLM) -> None:
    chat = Chat(llm, ["/system Be kind.\nAlways.", "/system", "hi", "/system none", "/system"])
    assert chat.text.startswith("system message set\nBe kind.\nAlways.\n")
    assert chat.text.endswith("system message removed\nno system message\n")
    llm.reset()
    messages = [
        {"role": "system", "content": "Be kind.\nAlways."},
        {"role": "user", "content": "hi"},
    ]
    assert chat.contents[1] == llm.chat(messages, temperature=0.0, max_tokens=8).text


def test_files_go_with_the_next_message_and_feed_the_drafter(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "my notes.txt"
    path.write_text("the rain on the plain\n")
    chat = Chat(llm, [f"/read '{path}' '{path}'", "sum up", "and again"])
    part = f"{path}:\n```\nthe rain on the plain\n```"
    assert chat.contents[0] == f"{part}\n\n{part}\n\nsum up"
    assert chat.contents[2] == "and again"
    assert chat.text.startswith(f"{path} (22 characters) goes with the next message\n" * 2)
    drafted = llm._engine.drafter.context.history().tolist()
    assert "the rain on the plain" in llm.detokenize(drafted)


def test_of_several_files_all_are_read_or_none(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "long").write_text("long " * 400)
    for other, message in {"none": "cannot be read", "long": "the context holds 512"}.items():
        chat = Chat(llm, [f"/read {tmp_path}/a {tmp_path}/{other}", "hi"])
        assert chat.contents[0] == "hi"
        assert message in chat.text


def test_retry_and_undo(llm: LLM) -> None:
    one, two = answers(llm, "one", "two")
    chat = Chat(llm, ["one", "two", "/retry"])
    assert chat.contents == ["one", one, "two", two]
    chat = Chat(llm, ["one", "two", "/undo"])
    assert chat.contents == ["one", one]
    assert chat.text.endswith("removed: two\n")
    chat = Chat(llm, ["one", "x" * 80, "/undo", "/undo", "/undo", "/retry"])
    assert chat.contents == []
    assert f"removed: {'x' * 60}…\n" in chat.text


def test_clear_forgets_the_chat_and_the_cache(llm: LLM, tmp_path: Path) -> None:
    chat = Chat(llm, ["/system Be kind.", "one", "/clear"], last_chat=tmp_path / "last.json")
    assert (chat.roles, chat.repl.transcript.system) == ([], "Be kind.")
    assert llm._engine.ledger.length == 0
    assert len(llm._engine.drafter.context) == 0
    assert not (tmp_path / "last.json").exists()


@pytest.mark.parametrize("name", ["chat.json", "chat.md"])
def test_save_and_load(llm: LLM, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    chat = Chat(llm, ["/system Be kind.", "one", f"/save {path}"], model_name="m.gguf")
    assert chat.text.endswith(f"saved to {path}\n")
    other = Chat(llm, [f"/load {path}", "two"])
    assert other.text.startswith("2 messages loaded\n")
    assert other.repl.transcript.system == "Be kind."
    assert other.contents[:2] == chat.contents
    assert other.roles == ["user", "assistant"] * 2
    if name.endswith("json"):
        assert json.loads(path.read_text())["model"] == "m.gguf"


def test_a_save_that_fails_loses_nothing(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    chat = Chat(llm, ["one", f"/save {tmp_path}/mine", f"/save {tmp_path}/mine/x", "two"])
    assert chat.text.count("error: ") == 2
    assert chat.roles == ["user", "assistant"] * 2
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["chat.json", "chat.md"])
def test_a_full_disk_leaves_the_file_there_was(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    Chat(llm, ["one", f"/save {path}"])
    before = path.read_bytes()

    def fill() -> str:
        monkeypatch.setattr("sssd_local.files.os.fsync", fail)
        return f"/save {path}"

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    chat = Chat(llm, ["one", "two", fill, "three"])
    assert f"error: {path} cannot be written: No space left on device\n" in chat.text
    assert chat.roles == ["user", "assistant"] * 3
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_load_that_fails_loses_nothing(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no chat")
    chat = Chat(llm, ["one", f"/load {tmp_path}/x"])
    assert chat.roles == ["user", "assistant"]


def test_the_editor_writes_the_next_message(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[bytes | None] = [b"/written\nhere\n", None, b" \n", b"lost t\xffext"]
    starts: list[str] = []
    names: list[Path] = []

    def edit(*, filename: str) -> None:
        names.append(Path(filename))
        starts.append(names[-1].read_text())
        result = results.pop(0)
        if result is not None:
            names[-1].write_bytes(result)

    monkeypatch.setattr(click, "edit", edit)
    chat = Chat(llm, ["/edit begin", "/edit", "/edit", "/edit\tx"])
    assert chat.contents[0] == "/written\nhere"
    assert chat.contents[2] == "lost t\ufffdext"
    assert starts == ["begin", "", "", "x"]
    assert "nothing sent\nnothing sent\n" in chat.text
    assert not any(name.exists() for name in names)

    def fail(*, filename: str) -> None:
        raise click.ClickException("vi: Editing failed")

    monkeypatch.setattr(click, "edit", fail)
    assert Chat(llm, ["/edit"]).text == "error: vi: Editing failed\n"


def test_speculation_at_run_time_does_not_change_answers(llm: LLM) -> None:
    expected = answers(llm, "the rain", "on the", "plain")
    chat = Chat(llm, ["/spec off", "the rain", "/spec 8", "on the", "/spec auto", "plain"])
    assert chat.contents[1::2] == expected
    assert [line for line in chat.text.splitlines() if line.startswith("spec")] == [
        "speculation off",
        "speculation 8",
        "speculation auto",
    ]
    llm.set_speculation(4)
    assert llm._engine.width == 4


def test_sources_are_shown_on_demand(llm: LLM) -> None:
    chat = Chat(llm, ["/spec show", "/spec hide"])
    assert chat.text.startswith("model  prompt  output  datastore  memory  recycle\n")
    assert not chat.repl.settings.show_sources


def test_the_line_after_an_answer_can_be_left_out(llm: LLM) -> None:
    assert "8 tokens" not in Chat(llm, ["hi"]).text
    chat = Chat(llm, ["/quiet", "hi", "/quiet", "hi", "/show stats", "/show info"])
    assert chat.text.count("8 tokens · ") == 1
    assert "the line after each answer is left out\n" in chat.text
    assert "finish" not in chat.text
    assert "\ntokens 8\n" in chat.text
    assert "context 512 tokens\n" in chat.text
    assert "turns 2\n" in chat.text


def test_the_chat_can_be_shown(llm: LLM) -> None:
    (first,) = answers(llm, "hi")
    chat = Chat(llm, ["hi", "/show chat"])
    assert "user: hi\nassistant: " in chat.text
    assert chat.contents == ["hi", first]


def test_undo_after_a_failed_message_removes_that_message_only(llm: LLM) -> None:
    chat = Chat(llm, ["the rain", "rain " * 2000, "/undo", "/undo", "/undo", "/retry"])
    assert chat.contents == []
    lines = chat.text.splitlines()
    assert [line for line in lines if line.startswith(("removed", "error: there"))] == [
        "removed: rain rain rain rain rain rain rain rain rain rain rain rain …",
        "removed: the rain",
        "error: there is nothing to undo",
        "error: there is nothing to retry",
    ]


def test_a_system_message_set_in_the_chat_is_kept_for_the_next_run(
    llm: LLM, tmp_path: Path
) -> None:
    kept = tmp_path / "chat.json"
    Chat(llm, ["the rain", "/system be a pirate"], last_chat=kept)
    chat = Chat(llm, [], last_chat=kept)
    chat.repl.go_on()
    assert chat.repl.transcript.system == "be a pirate"


@pytest.mark.parametrize("line", ["/set\ttop_k 5", "/set top_k\t5", "/set  top_k   5"])
def test_any_space_separates_the_words_of_a_command(llm: LLM, line: str) -> None:
    chat = Chat(llm, [line])
    assert chat.repl.settings.options["top_k"] == 5


def test_numbers_of_very_many_digits_are_one_line(llm: LLM) -> None:
    value = "1" + "0" * 320
    chat = Chat(llm, [f"/set top_k {value}", f"/set temp {value}", "the rain"])
    assert len(chat.contents) == 2
    errors = [line for line in chat.text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert all(len(line) < 200 for line in errors)
