"""Where a chat's lines come from: prompt_toolkit on a terminal, or plain `input`."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sssd_local.chat.transcript import clean
from sssd_local.files import make_folder

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

PROMPT, CONTINUATION = ">>> ", "... "
PLACEHOLDER = "Send a message (/? for help)"
QUOTES = '"""'
# Lines of a paste arrive together; nobody types a second line within this time.
PASTE_SECONDS = 0.02
MAX_HISTORY_BYTES = 1 << 20


class ReadLine(Protocol):
    """Reads what the user enters, perhaps many lines.

    Raises EOFError at the end of the input and KeyboardInterrupt for Ctrl-C at an empty prompt;
    text left by Ctrl-C comes back as "".
    """

    def __call__(self, prompt: str) -> str:
        """The text, without the newline that ends it."""


def is_open_block(text: str) -> bool:
    '''Whether a text begins with """ and its end is still to come.'''
    text = text.strip()
    return text.startswith(QUOTES) and not (len(text) >= 6 and text.endswith(QUOTES))


def make_reader(commands: Sequence[str], history: Path | None) -> ReadLine:
    """The best reader for this terminal; `history` None keeps nothing on disk."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if on_terminal and os.environ.get("TERM") != "dumb" and find_spec("prompt_toolkit"):
        return _editor(commands, history)
    return read_plain


def read_plain(prompt: str) -> str:
    """Reads with `input`; lines that were pasted together come together."""
    if sys.stdout.isatty():
        sys.stdout.write(prompt)
        sys.stdout.flush()
    _wait_for_line()
    lines = [input()]
    while not lines[0].lstrip().startswith(("/", QUOTES)) and _more_is_waiting():
        lines.append(input())
    return clean("\n".join(lines))


def _more_is_waiting() -> bool:
    return _is_posix_terminal() and bool(select.select([sys.stdin], [], [], PASTE_SECONDS)[0])


def _is_posix_terminal() -> bool:
    return os.name == "posix" and sys.stdin.isatty()


def _wait_for_line() -> None:
    """Returns when a line can be read.

    Ctrl-C just before `input` begins to read would be noticed only after the next Enter; a
    signal's byte in a pipe ends this wait at any moment.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if not (_is_posix_terminal() and on_main_thread):
        return
    arrived, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        while sys.stdin not in select.select([sys.stdin, arrived], [], [])[0]:
            os.read(arrived, 1)
    finally:
        signal.set_wakeup_fd(previous)
        os.close(arrived)
        os.close(write_end)


def _editor(commands: Sequence[str], history: Path | None) -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory

    names = [f"/{name}" for name in commands]
    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory() if history is None else _kept_history(history),
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation=CONTINUATION,
        placeholder=[("fg:ansibrightblack", PLACEHOLDER)],
        completer=WordCompleter(names, sentence=True),
        complete_while_typing=False,
        enable_open_in_editor=True,
        tempfile_suffix=".txt",
    )

    def read(prompt: str) -> str:
        try:
            return clean(session.prompt(prompt))
        except KeyboardInterrupt:
            if session.default_buffer.text:
                return ""
            raise

    return read


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-g")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys


def _kept_history(path: Path) -> History:
    """Entries in a file for the user only; without a writable file they last for this run."""
    from prompt_toolkit.history import FileHistory

    class KeptHistory(FileHistory):
        def store_string(self, string: str) -> None:
            # The entry is in memory; a full disk must not end the chat.
            with suppress(OSError):
                super().store_string(string)

        def load_history_strings(self) -> Iterable[str]:
            try:
                return list(super().load_history_strings())
            except OSError:
                return []

    with suppress(OSError):
        _prepare(path)
    return KeptHistory(str(path))


def _prepare(path: Path) -> None:
    """Creates the file, closes it to others, and drops the oldest entries of a long one."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        if os.name == "posix":
            os.fchmod(file.fileno(), 0o600)
        data = file.read()
        if len(data) > MAX_HISTORY_BYTES:
            # An entry begins with an empty line and a comment.
            start = data.find(b"\n# ", len(data) - MAX_HISTORY_BYTES // 2)
            file.seek(0)
            file.write(data[start:] if start >= 0 else b"")
            file.truncate()
