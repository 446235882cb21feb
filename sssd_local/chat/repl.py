"""The chat in the terminal: read, command or answer, print, again."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sssd_local.chat.commands import COMMANDS, run_command
from sssd_local.chat.editor import (
    CONTINUATION,
    PLACEHOLDER,
    PROMPT,
    QUOTES,
    ReadLine,
    is_block,
    is_open_block,
    make_reader,
    read_plain,
    take_ctrl_d,
)
from sssd_local.chat.kept import history_path, last_chat_path
from sssd_local.chat.memory import ask_to_keep, memory_note
from sssd_local.chat.reasoning import opens_thinking
from sssd_local.chat.render import AnswerView, OutputClosed, PromptProgress, Screen, stats_line
from sssd_local.chat.settings import ChatSettings
from sssd_local.chat.signals import cancel_on_interrupt, exit_on_hangup, hang_up
from sssd_local.chat.transcript import Message, Transcript, clean, load_chat, to_json
from sssd_local.errors import SSSDError
from sssd_local.files import write_atomic

if TYPE_CHECKING:
    from sssd_local.llm import LLM
    from sssd_local.stats import Stats

# What may go wrong in a command or an answer and leaves the chat as it was.
FAILURES = (SSSDError, OSError, ValueError, LookupError, MemoryError, RuntimeError)


class Repl:
    """A chat with a model; `last_chat` is the file that keeps it for a later run, if any."""

    def __init__(
        self,
        llm: LLM,
        screen: Screen,
        read: ReadLine,
        *,
        settings: ChatSettings,
        model_name: str = "",
        last_chat: Path | None = None,
        progress: PromptProgress | None = None,
    ) -> None:
        self.llm = llm
        self.screen = screen
        self.settings = settings
        self.model_name = model_name
        self.transcript = Transcript()
        self.done = False
        self._read = read
        self._last_chat = last_chat
        self._progress = progress
        self._stats: Stats | None = None
        self._told_of_overflow = self._told_of_keeping = self._told_of_memory = False
        # Whether the kept file holds this chat, and not one of an earlier run.
        self._is_kept = False

    def run(self) -> None:
        """Chats until the user leaves or the input ends."""
        while not self.done:
            try:
                self._one_turn()
            except EOFError:
                self.done = True
                self.screen.fresh_line()
            except KeyboardInterrupt:
                self.screen.note("Ctrl-D or /exit leaves")

    def _one_turn(self) -> None:
        try:
            text, quoted = self._read_message()
            if not text.strip():
                return
            if text.startswith("/") and not quoted:
                run_command(self, text)
            else:
                self.say(text if quoted else text.strip())
        except FAILURES as error:
            self.screen.error(str(error) or type(error).__name__)

    def _read_message(self) -> tuple[str, bool]:
        """What the user entered, and whether it was a block between triple quotes."""
        text = self._read_line(PROMPT)
        while is_open_block(text):
            try:
                text += "\n" + self._read_line(CONTINUATION)
            except (EOFError, KeyboardInterrupt):
                self.screen.note("the block was not ended; nothing sent")
                return "", False
        found = is_block(text)
        if found:
            text = text.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
        return clean(text), found

    def _read_line(self, prompt: str) -> str:
        self.screen.fresh_line()
        try:
            return self._read(prompt)
        except (OSError, ValueError, RuntimeError) as error:
            # A terminal that was closed or stdin that was lost.
            raise EOFError(str(error)) from error
        finally:
            self.screen.taken()

    def say(self, text: str) -> None:
        """Sends a message, with the files that were read for it."""
        has_files = bool(self.transcript.attachments)
        try:
            self.send(self.transcript.compose(text))
        finally:
            if has_files and self.transcript.withdrawn is not None:
                self.screen.note("the files were part of that message; /retry or /edit has them")

    def send(self, text: str) -> None:
        """Sends a message and prints the answer; a message without one is withdrawn."""
        transcript = self.transcript
        transcript.ask(text)
        written: list[str] = []
        try:
            finish_reason = self._stream(written)
        finally:
            answer = "".join(written)
            if answer:
                transcript.answer(answer)
                self._note_overflow()
                self.note_memory()
                self.keep()
            else:
                transcript.withdraw()
        if not answer and finish_reason == "cancelled":
            self.screen.note("stopped before the answer began; /retry asks again")
        elif not answer:
            self.screen.note("the model had nothing to say; /retry asks again")

    def _stream(self, written: list[str]) -> str | None:
        """Prints an answer and collects its text, also of one that ends early."""
        # Its clock starts now, not when the last answer ended.
        self._end_progress()
        settings, messages = self.settings, self.transcript.visible()
        arguments = settings.template_arguments
        inside = opens_thinking(self.llm.render_chat(messages, arguments))
        view = AnswerView(
            self.screen,
            show_thinking=settings.think,
            markdown=settings.markdown,
            show_sources=settings.show_sources,
            inside_thinking=inside,
        )
        options = {
            **settings.options,
            "template_arguments": arguments,
            "prompt_progress": self._hear_of_prompt,
        }
        finish_reason, stats = "cancelled", None
        with cancel_on_interrupt(self.llm.cancel) as interrupted:
            try:
                for chunk in self.llm.stream_chat(messages, **options):
                    self._end_progress()
                    self.done = self.done or take_ctrl_d()
                    written.append(chunk.text)
                    view.feed(chunk)
                    if chunk.stats is not None:
                        finish_reason, stats = chunk.finish_reason or "stop", chunk.stats
                    elif interrupted():
                        # The signal came before the model began to listen.
                        self.llm.cancel()
            except KeyboardInterrupt:
                # Where no handler could be set, it ends the stream itself.
                finish_reason = "cancelled"
            finally:
                self._end_progress()
                view.finish()
        if stats is not None and "".join(written):
            self._stats = stats
            self._print_stats(stats, finish_reason)
        return finish_reason

    def _hear_of_prompt(self, done: int, total: int) -> None:
        self.done = self.done or take_ctrl_d()
        if self._progress is not None:
            self._progress.prompt(done, total)

    def _print_stats(self, stats: Stats, finish_reason: str) -> None:
        if self.settings.quiet:
            return
        if self.settings.stats == "json":
            self.screen.note(json.dumps(stats.as_dict(), ensure_ascii=False))
        else:
            self.screen.note(stats_line(stats, finish_reason))

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.end()

    def _note_overflow(self) -> None:
        num_turns = self.transcript.hide(self.llm.num_dropped_messages)
        if num_turns and not self._told_of_overflow:
            self._told_of_overflow = True
            turns = "turn is" if num_turns == 1 else f"{num_turns} turns are"
            self.screen.note(
                f"the context is full: the oldest {turns} left out of what the model sees, "
                "and more as the chat goes on"
            )

    def note_memory(self) -> None:
        """Says once that memory cannot be read or written."""
        memory = self.llm.memory
        if memory is not None and memory.problem and not self._told_of_memory:
            self._told_of_memory = True
            self.screen.note(f"memory: {memory.problem}")

    def keep(self) -> None:
        """Writes the chat down for `run -c`; says once when that fails."""
        if self._last_chat is None:
            return
        try:
            if self.transcript.messages:
                text = to_json(self.transcript.with_system(), self.model_name)
                write_atomic(self._last_chat, text.encode())
                self._is_kept = True
            elif self._is_kept:
                self._last_chat.unlink(missing_ok=True)
        except OSError as error:
            if not self._told_of_keeping:
                self._told_of_keeping = True
                self.screen.note(f"this chat cannot be kept: {error.strerror or error}")

    def go_on(self) -> None:
        """Takes over the last chat."""
        if self._last_chat is None or not self._last_chat.exists():
            self.screen.note("there is no last chat; this is a new one")
            return
        try:
            self.replace(load_chat(str(self._last_chat)))
        except SSSDError as error:
            self.screen.error(f"{error}; it is left as it is and this chat is not kept")
            self._last_chat = None
            return
        self._is_kept = True
        self.screen.note(f"going on with the last chat, {len(self.transcript.messages)} messages")

    def replace(self, messages: list[Message]) -> None:
        """Takes over another conversation, which memory is not to take in once more."""
        self.transcript.replace(messages)
        # A template that refuses it will be heard of at the next answer.
        with suppress(SSSDError):
            self.llm.resume_chat(self.transcript.with_system())

    @property
    def has_gone_on(self) -> bool:
        """Whether this chat is the last one's continuation."""
        return self._is_kept

    def info(self) -> list[str]:
        """Facts about model and chat, a line each."""
        transcript = self.transcript
        turns = sum(message["role"] == "user" for message in transcript.messages)
        hidden = f", the oldest {transcript.num_hidden} messages left out"
        return [
            f"model {self.model_name}",
            f"context {self.llm.n_ctx} tokens",
            f"threads {self.llm.threads}",
            f"speculation {self.llm.speculation_note or self.llm.config.speculation}",
            f"turns {turns}{hidden if transcript.num_hidden else ''}",
        ]

    def last_stats(self) -> list[str]:
        """Every number of the last answer."""
        if self._stats is None:
            return ["there is no answer yet"]
        return [f"{name} {value}" for name, value in self._stats.as_dict().items()]


def run_repl(
    llm: LLM,
    *,
    settings: ChatSettings | None = None,
    model_name: str = "",
    system: str | None = None,
    history: bool = True,
    private: bool = False,
    go_on: bool = False,
    yields_system: bool = False,
    progress: PromptProgress | None = None,
    read: ReadLine | None = None,
    output: TextIO | None = None,
) -> None:
    """Chats on the terminal until the user leaves.

    Without `history`, or `private`, nothing is kept on disk. `yields_system`: a chat that is gone
    on with keeps its own system message. `read` and `output` stand in for
    the terminal.
    """
    keep = history and not private
    stream = output or sys.stdout
    if stream is None:
        raise SSSDError("there is no output to chat on; give a PROMPT")
    screen = Screen(stream)
    exit_on_hangup()
    reads = read is not None
    try:
        if read is None:
            read = make_reader(list(COMMANDS), history_path() if keep else None)
        repl = Repl(
            llm,
            screen,
            read,
            settings=settings or ChatSettings(),
            model_name=model_name,
            last_chat=last_chat_path() if keep else None,
            progress=progress,
        )
        _greet(repl, private=private, is_plain=read is read_plain)
        if go_on:
            repl.go_on()
        if system is not None and not (yields_system and repl.has_gone_on):
            repl.transcript.system = system
        repl.run()
        ask_to_keep(llm.memory, screen, read if reads else read_plain)
        if llm.memory is not None:
            llm.memory.close()
        repl.note_memory()
    except OutputClosed:
        hang_up()


def _greet(repl: Repl, *, private: bool, is_plain: bool) -> None:
    parts = [repl.model_name, f"{repl.llm.n_ctx} tokens of context", repl.llm.speculation_note]
    parts += ["private: no text is kept"] if private else []
    parts.append(memory_note(repl.llm.memory))
    repl.screen.note(" · ".join(part for part in parts if part))
    if is_plain:
        repl.screen.note(PLACEHOLDER)
