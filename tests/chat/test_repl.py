"""Whole chats: scripted ones with a real tiny model, and some whose model misbehaves."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local import overflow
from sssd_local.chat.render import visible
from sssd_local.chat.repl import run_repl
from sssd_local.chat.settings import ChatSettings
from sssd_local.draft.tree import Int32Array
from sssd_local.errors import BackendError, ContextFullError
from sssd_local.files import app_folder
from sssd_local.llm import LLM, Chunk
from sssd_local.stats import Tally
from tests.chat.scripted import Chat, User, answers

TinyModel = Callable[..., Path]
LETTERS_ONLY = dict.fromkeys(range(259), float("-inf"))
STATS = Tally(3).finish(reused_tokens=0, prompt_seconds=0.0, plain=None)


@pytest.fixture(scope="module")
def llm(tiny_model: TinyModel) -> Iterator[LLM]:
    with LLM(tiny_model(), ctx=512, threads=1, kv_type="f32", speculation=4) as made:
        yield made


class FakeLLM:
    """Says given pieces; an exception among them is raised."""

    n_ctx, threads, speculation_note, num_dropped_messages = 64, 1, "", 0
    memory = None

    def __init__(self, *pieces: str | BaseException, prompt: str = "") -> None:
        self._pieces = pieces
        self._prompt = prompt
        self.asked: list[list[dict[str, str]]] = []
        self.options: list[dict[str, Any]] = []
        self.num_cancelled = 0

    def render_chat(self, messages: Any, arguments: Any) -> str:
        return self._prompt

    def check_answer(self, **options: Any) -> None:
        pass

    def resume_chat(self, messages: Any) -> None:
        pass

    def cancel(self) -> None:
        self.num_cancelled += 1

    def stream_chat(self, messages: Any, **options: Any) -> Iterator[Chunk]:
        self.asked.append(messages)
        self.options.append(options)
        cancelled = self.num_cancelled
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield Chunk(piece, (5,), ("model",), (piece,))
            if self.num_cancelled > cancelled:
                yield Chunk("", (), (), (), "cancelled", STATS)
                return
        yield Chunk("", (), (), (), "stop", STATS)


def test_a_chat_of_two_turns(llm: LLM) -> None:
    one, two = answers(llm, "one", "two")
    chat = Chat(llm, ["", "  ", "one", " two "])
    assert chat.contents == ["one", one, "two", two]
    assert chat.text == "".join(f"{visible(text.lstrip())}\n" for text in (one, two))
    assert set(chat.user.prompts) == {">>> "}


def test_the_second_turn_evaluates_only_its_new_text(llm: LLM) -> None:
    # Letters only: bytes that are no text come back as U+FFFD, which is other text.
    options = {"temperature": 0.0, "max_tokens": 8, "logit_bias": LETTERS_ONLY}
    llm.reset()
    chat = Chat(llm, ["one", "two"], settings=ChatSettings(options=options, quiet=True))
    stats = chat.repl._stats
    assert stats is not None
    # All of the first turn but the last token of its answer, which was never evaluated.
    assert stats.reused_tokens == len(llm.tokenize("user: one\nassistant: ")) + 7
    again = len(llm.tokenize("\nuser: two\nassistant: ", add_special=False)) + 1
    assert stats.prompt_tokens - stats.reused_tokens == again


def test_blocks_between_quotes(llm: LLM) -> None:
    chat = Chat(llm, ['"""/set', "", "up", 'end"""', '"""one line"""', '"""\nboth\n"""'])
    assert chat.contents[::2] == ["/set\n\nup\nend", "one line", "both"]
    assert chat.user.prompts[:4] == [">>> ", "... ", "... ", "... "]
    gone = Chat(llm, ['"""open', KeyboardInterrupt(), "/show chat", '"""open'])
    assert gone.contents == []
    assert gone.text == "the block was not ended; nothing sent\n" * 2


def test_pasted_lines_are_one_message(llm: LLM) -> None:
    assert Chat(llm, ["one\ntwo\n\nthree"]).contents[0] == "one\ntwo\n\nthree"


def test_ctrl_c_at_the_prompt_gives_a_hint(llm: LLM) -> None:
    chat = Chat(llm, [KeyboardInterrupt(), KeyboardInterrupt(), "/exit"])
    assert chat.text == "Ctrl-D or /exit leaves\n" * 2


@pytest.mark.parametrize(
    "end", [EOFError(), OSError(5, "gone"), ValueError("closed"), RuntimeError("lost sys.stdin")]
)
def test_the_end_of_the_input_ends_it(llm: LLM, end: BaseException) -> None:
    assert Chat(llm, [end, "never read"]).user.prompts == [">>> "]


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Interrupting(FakeLLM):
    """Ctrl-C comes before the first piece, or after the second."""

    def __init__(self, after: int) -> None:
        super().__init__("a", "b", "c", "d")
        self._after = after

    def stream_chat(self, messages: Any, **options: Any) -> Iterator[Chunk]:
        for number, chunk in enumerate(super().stream_chat(messages, **options)):
            if number == self._after:
                interrupt()
            yield chunk


def test_ctrl_c_stops_the_answer_and_keeps_it() -> None:
    fake = Interrupting(after=1)
    chat = Chat(fake, ["go", "/quiet", "on"], settings=ChatSettings())
    assert chat.contents == ["go", "ab", "on", "ab"]
    assert chat.text == "ab\n0 tokens · stopped\nthe line after each answer is left out\nab\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_real_answer(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = answers(llm, "one")
    original = llm.stream_chat

    def stream(messages: Any, **options: Any) -> Iterator[Chunk]:
        for number, chunk in enumerate(original(messages, **{**options, "max_tokens": 400})):
            yield chunk
            if number == 1:
                interrupt()

    monkeypatch.setattr(llm, "stream_chat", stream)
    chat = Chat(llm, ["one"], settings=ChatSettings(options={"temperature": 0.0}))
    assert expected.startswith(chat.contents[1]) or chat.contents[1].startswith(expected)
    assert chat.text.endswith(" · stopped\n")
    assert llm._engine.ledger.check() == ""


def test_ctrl_c_before_the_model_listens_is_handed_on() -> None:
    class Early(FakeLLM):
        def stream_chat(self, messages: Any, **options: Any) -> Iterator[Chunk]:
            interrupt()
            yield from super().stream_chat(messages, **options)

    fake = Early("a", "b", "c")
    assert Chat(fake, ["go"]).contents == ["go", "a"]
    assert fake.num_cancelled == 2


def test_ctrl_d_while_a_prompt_is_read_is_heard_before_a_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = [True]

    class Reading(FakeLLM):
        def stream_chat(self, messages: Any, **options: Any) -> Iterator[Chunk]:
            options["prompt_progress"](256, 512)
            yield from super().stream_chat(messages, **options)

    monkeypatch.setattr("sssd_local.chat.repl.take_ctrl_d", lambda: bool(typed and typed.pop()))
    chat = Chat(Reading(KeyboardInterrupt()), ["go", "never asked"])
    assert chat.user.prompts == [">>> "]


def test_ctrl_c_before_the_answer_withdraws_the_message() -> None:
    fake = FakeLLM(KeyboardInterrupt())
    chat = Chat(fake, ["go", "/retry", "other"])
    assert chat.contents == []
    assert [asked[-1]["content"] for asked in fake.asked] == ["go", "go", "other"]
    assert chat.text == "stopped before the answer began; /retry asks again\n" * 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BackendError("it\nbroke"), "it broke"),
        (ContextFullError("too long"), "too long"),
        (MemoryError(), "MemoryError"),
        (ValueError("odd"), "odd"),
        (OSError(errno.ENOSPC, "No space left"), "[Errno 28] No space left"),
    ],
)
def test_an_error_is_one_line_and_the_chat_goes_on(error: Exception, message: str) -> None:
    chat = Chat(FakeLLM(error), ["one", "two"])
    assert chat.text == f"error: {message}\n" * 2
    assert chat.repl.transcript.withdrawn == "two"
    chat = Chat(FakeLLM("half", error), ["one"])
    assert chat.text == f"half\nerror: {message}\n"
    assert chat.contents == ["one", "half"]


def test_a_retry_that_fails_keeps_the_answer_there_was(tmp_path: Path) -> None:
    fake = FakeLLM("good")
    last = tmp_path / "last.json"

    def fail() -> str:
        fake._pieces = (BackendError("it broke"),)
        return "/retry"

    chat = Chat(fake, ["one", fail], last_chat=last)
    assert chat.contents == ["one", "good"]
    assert chat.text == "good\nerror: it broke\n"
    assert [item["content"] for item in json.loads(last.read_text())["messages"]] == chat.contents


def test_a_retry_that_fails_leaves_out_what_was_left_out() -> None:
    fake = FakeLLM("good")

    def drop() -> str:
        fake.num_dropped_messages = 2
        return "three"

    def fail() -> str:
        fake.num_dropped_messages = 0
        fake._pieces = (BackendError("it broke"),)
        return "/retry"

    chat = Chat(fake, ["one", "two", drop, fail])
    assert chat.repl.transcript.num_hidden == 2
    assert [message["content"] for message in chat.repl.transcript.visible()] == [
        "two", "good", "three", "good",
    ]  # fmt: skip


def test_an_error_leaves_no_further_turns_out() -> None:
    fake = FakeLLM("good")

    def fail() -> str:
        fake.num_dropped_messages = 2
        fake._pieces = (BackendError("it broke"),)
        return "three"

    chat = Chat(fake, ["one", "two", fail, "four"])
    assert chat.repl.transcript.num_hidden == 0


def test_an_empty_answer_is_no_turn() -> None:
    assert Chat(FakeLLM(), ["one"]).text == "the model had nothing to say; /retry asks again\n"


def test_text_of_the_model_cannot_steer_the_terminal() -> None:
    chat = Chat(FakeLLM("a\x1b", "]0;title\x07\x9b2J\r"), ["go"])
    assert chat.text == "a␛]0;title␇\\u009b2J␍\n"


def test_a_prompt_that_opens_thinking() -> None:
    settings = ChatSettings(think=False, quiet=True, template_arguments={"a": 1})
    fake = FakeLLM("hm", "</think>", "\nYes", prompt="assistant:\n<think>\n")
    chat = Chat(fake, ["go"], settings=settings)
    assert chat.text == "thinking …\nYes\n"
    assert chat.contents[1] == "hm</think>\nYes"
    assert fake.options[0]["template_arguments"] == {"a": 1}


STRIPPING = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}{{ '\\n' }}"
    "{% endfor %}assistant: {% if think %}<think>{% endif %}"
)


def test_what_a_template_strips_costs_no_more_than_itself(tiny_model: TinyModel) -> None:
    """The cache is kept up to the stripped thinking, and answers are those of a fresh model."""
    options: dict[str, Any] = {"ctx": 512, "threads": 1, "kv_type": "f32", "speculation": 4}
    with LLM(tiny_model(), chat_template=STRIPPING, **options) as llm:
        settings = ChatSettings(
            options={"temperature": 0.0, "max_tokens": 8},
            template_arguments={"think": True},
            quiet=True,
        )
        chat = Chat(llm, ["one"], settings=settings)
        chat.repl.transcript.messages[1]["content"] += "</think> so"
        chat.repl.send("two")
        shown = "user: one\nassistant:  so\nuser: two\nassistant: <think>"
        assert llm.render_chat(chat.repl.transcript.visible()[:3], {"think": True}) == shown
        assert chat.repl._stats is not None
        assert chat.repl._stats.reused_tokens >= len(llm.tokenize("user: one\nassistant:")) - 1
        ids = llm._engine.ledger.tokens.tolist()
        prompt = ids[: chat.repl._stats.prompt_tokens]
        assert llm.detokenize(prompt) == shown
        with LLM(tiny_model(), **options) as fresh:
            again = fresh.generate(prompt, temperature=0.0, max_tokens=8)
        assert again.text == chat.contents[3]


def test_thirty_turns_past_the_end_of_the_context(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is what a fresh model says to the history that was visible to it."""
    options: dict[str, Any] = {"ctx": 192, "threads": 1, "kv_type": "f32"}
    # Without an end token no answer is empty.
    greedy: dict[str, Any] = {"temperature": 0.0, "logit_bias": {2: float("-inf")}}
    # What the model had before it and what it wrote after that, anew when room was made.
    started: list[tuple[list[int], int]] = []
    original = overflow.drop_turns

    def drop_turns(*arguments: Any) -> overflow.MakeRoom:
        make_room = original(*arguments)

        def spy(history: Int32Array, num_written: int) -> Int32Array | None:
            shorter = make_room(history, num_written)
            if shorter is not None:
                started.append((shorter.tolist(), num_written))
            return shorter

        return spy

    monkeypatch.setattr(overflow, "drop_turns", drop_turns)
    num_shortened = num_turns = num_past_the_end = num_anew = 0
    with (
        LLM(tiny_model(seed=3), speculation=4, **options) as llm,
        LLM(tiny_model(seed=3), speculation="off", **options) as fresh,
    ):
        settings = ChatSettings(
            options={**greedy, "max_tokens": 12, "overflow": "drop-oldest"}, quiet=True
        )
        chat = Chat(llm, ["/system Be kind."], settings=settings)
        while num_past_the_end < 30:
            started.clear()
            asked = f"question {num_turns}"
            chat.repl.say(asked)
            num_turns += 1
            num_past_the_end += chat.repl.transcript.num_hidden > 0
            assert chat.repl._stats is not None
            num_anew += chat.repl._stats.reused_tokens < 30
            prompt, num_before = list(llm._session._prompt.ids), 0
            if started:
                prompt, num_before = started[-1]
                num_shortened += 1
            text = llm.detokenize(prompt)
            assert text.startswith("system: Be kind.\nuser: question ")
            assert f"user: {asked}\nassistant: " in text
            fresh.reset()
            again = fresh.generate(prompt, max_tokens=12 - num_before, **greedy)
            # The last token of an answer is not in the cache.
            cached = llm._engine.ledger.tokens.tolist()[len(prompt) :]
            assert len(cached) >= len(again.token_ids) - 1
            assert cached == list(again.token_ids)[: len(cached)]
            assert chat.contents[-1].endswith(again.text)
            shown = chat.repl.transcript.visible()
            assert [m["role"] for m in shown[:2]] == ["system", "user"]
    # Some within an answer, most before one; nearly every other turn goes on from the cache.
    assert 1 <= num_shortened < num_anew <= num_turns // 3
    assert chat.repl.transcript.num_hidden >= 2 * 25
    assert chat.text.count("the context is full: the oldest ") == 1
    assert len(chat.contents) == 2 * num_turns
    assert np.all([role == "user" for role in chat.roles[::2]])


def test_the_last_chat_is_kept_and_gone_on_with(llm: LLM, home: Path) -> None:
    settings = {"temperature": 0.0, "max_tokens": 8}

    def run(*lines: str, **options: Any) -> str:
        output = io.StringIO()
        run_repl(
            llm,  # type: ignore[arg-type, unused-ignore]
            settings=ChatSettings(options=dict(settings), quiet=True),
            model_name="m.gguf",
            read=User(lines),
            output=output,
            **options,
        )
        return output.getvalue()

    greeting = "m.gguf · 512 tokens of context\n"
    assert run(go_on=True) == f"{greeting}there is no last chat; this is a new one\n"
    run("one", system="Be kind.")
    path = app_folder() / "last_chat.json"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    shown = run("/show chat", go_on=True)
    assert shown.startswith(f"{greeting}going on with the last chat, 2 messages\nsystem: Be kind.")
    before = path.read_bytes()
    private = run("two", private=True)
    assert private.startswith(greeting.rstrip() + " · private: no text is kept\n")
    run("two", history=False)
    assert path.read_bytes() == before
    assert json.loads(before)["messages"][1]["content"] == "one"
    path.write_text("damaged")
    assert "is no saved chat" in run(go_on=True)


def test_a_folder_that_cannot_be_written_is_told_once(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chat = Chat(llm, ["one", "two"], last_chat=tmp_path / "file" / "last.json")
    assert chat.text.count("this chat cannot be kept: ") == 1
    assert len(chat.contents) == 4


def test_a_terminal_that_is_gone_ends_it(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sssd_local.chat.signals.os.dup2", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        run_repl(llm, read=User(["one"]), output=Gone())
    assert left.value.code == 129


def test_a_message_without_an_answer_leaves_the_last_chat(llm: LLM) -> None:
    kept = app_folder() / "last_chat.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("an earlier chat")
    chat = Chat(llm, ["word " * 600], last_chat=kept)
    assert "error: " in chat.text
    assert kept.read_text() == "an earlier chat"


def test_an_unreadable_last_chat_is_left_as_it_is(llm: LLM) -> None:
    kept = app_folder() / "last_chat.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("no chat at all")
    chat = Chat(llm, [], last_chat=kept)
    chat.repl.go_on()
    chat.repl.say("one")
    assert "this chat is not kept" in chat.text
    assert kept.read_text() == "no chat at all"


def test_files_of_a_message_that_failed_are_spoken_of(llm: LLM, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("short notes")
    chat = Chat(llm, [f"/read {file}", "word " * 600])
    assert "the files were part of that message" in chat.text
