"""Where a chat's lines come from: prompt_toolkit on a terminal, or plain `input`."""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sssd_local.chat.kept import kept_history
from sssd_local.chat.transcript import clean
from sssd_local.errors import SSSDError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import AnyFormattedText
    from prompt_toolkit.key_binding import KeyBindings

PROMPT, CONTINUATION = ">>> ", "... "
PLACEHOLDER = "Send a message (/? for help)"
QUOTES = '"""'
# Lines of a paste arrive together; nobody types a second line within this time.
PASTE_SECONDS = 0.02
# A terminal's line is never longer.
MAX_LINE_BYTES = 1 << 16
# What a terminal keeps of a line in its own line mode (Linux; others keep less).
MAX_PLAIN_BYTES = 4095
CTRL_D = "\x04"


class ReadLine(Protocol):
    """Reads what the user enters, perhaps many lines.

    Raises EOFError at the end of the input and KeyboardInterrupt for Ctrl-C at an empty prompt;
    text left by Ctrl-C comes back as "".
    """

    def __call__(self, prompt: str) -> str:
        """The text, without the newline that ends it."""


def is_open_block(text: str) -> bool:
    '''Whether a text begins with """ and its end is still to come.'''
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) % 2 == 1


def is_block(text: str) -> bool:
    '''Whether a text is what stands between """ and """, and not a program that begins so.'''
    text = text.strip()
    return text.startswith(QUOTES) and text.endswith(QUOTES) and text.count(QUOTES) == 2


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
    lines = [_input()]
    while not lines[0].lstrip().startswith(("/", QUOTES)) and _waiting_bytes(PASTE_SECONDS):
        lines.append(_input())
    return clean("\n".join(lines))


def _input() -> str:
    line = input()
    # The terminal itself drops what is longer, without a sign.
    if _is_posix_terminal() and len(line.encode("utf-8", "replace")) >= MAX_PLAIN_BYTES:
        raise SSSDError(
            f"the terminal cuts lines at {MAX_PLAIN_BYTES} bytes, so nothing was sent; use /read "
            "FILE, or install sssd-local[chat]"
        )
    return line


def edit_text(text: str) -> str | None:
    """Lets the user write in $VISUAL or $EDITOR; None when nothing was saved.

    What is no UTF-8 comes back as U+FFFD. Raises SSSDError when no editor can be run.
    """
    import click

    descriptor, name = tempfile.mkstemp(suffix=".txt")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
        os.utime(path, (0, 0))
        click.edit(filename=name)
        if path.stat().st_mtime == 0:
            return None
        return path.read_bytes().decode("utf-8-sig", "replace").replace("\r\n", "\n")
    except click.ClickException as error:
        raise SSSDError(error.message) from error
    except OSError as error:
        raise SSSDError(f"the text cannot be edited: {error.strerror or error}") from error
    finally:
        path.unlink(missing_ok=True)


def _is_posix_terminal() -> bool:
    return os.name == "posix" and sys.stdin is not None and sys.stdin.isatty()


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
        history=InMemoryHistory() if history is None else kept_history(history),
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation=CONTINUATION,
        placeholder=_placeholder,
        completer=WordCompleter(names, sentence=True),
        complete_while_typing=False,
    )

    def read(prompt: str) -> str:
        _take_typed_ahead(session)
        try:
            return clean(session.prompt(prompt))
        except KeyboardInterrupt:
            if session.default_buffer.text:
                return ""
            raise
        except SystemExit:
            # A signal in the middle of drawing: prompt_toolkit does not know what it switched on.
            session.output.disable_bracketed_paste()
            session.output.flush()
            raise

    return read


def _placeholder() -> AnyFormattedText:
    from prompt_toolkit.application import get_app

    # What stays on the screen afterwards is what was typed.
    return [] if get_app().is_done else [("fg:ansibrightblack", PLACEHOLDER)]


def _take_typed_ahead(session: PromptSession[str]) -> None:
    """Gives the editor what was typed while there was no prompt.

    The terminal hands that out in lines, and the editor would find their text without a Ctrl-D.
    """
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.input.vt100_parser import Vt100Parser
    from prompt_toolkit.key_binding.key_processor import KeyPress

    keys: list[KeyPress] = []
    parser = Vt100Parser(keys.append)
    while _waiting_bytes() is not None:
        data = os.read(sys.stdin.fileno(), MAX_LINE_BYTES)
        parser.feed_and_flush(data.decode("utf-8", "replace") or CTRL_D)
        if not data:
            break
    store_typeahead(session.input, keys)


def take_ctrl_d() -> bool:
    """Whether Ctrl-D was typed while there was no prompt; it is used up by that.

    A Ctrl-C after it would make the terminal forget it.
    """
    return _waiting_bytes() == 0 and not os.read(sys.stdin.fileno(), 1)


def _waiting_bytes(seconds: float = 0.0) -> int | None:
    """Size of the lines that the terminal has ready within a time; 0 is Ctrl-D, None no line."""
    if not _is_posix_terminal():
        return None
    import fcntl
    import termios

    descriptor = sys.stdin.fileno()
    with suppress(OSError, termios.error):
        by_line = termios.tcgetattr(descriptor)[3] & termios.ICANON
        if by_line and select.select([descriptor], [], [], seconds)[0]:
            size = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
            return int.from_bytes(size, sys.byteorder)
    return None


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
        from prompt_toolkit.application import run_in_terminal

        buffer = event.current_buffer

        def edit() -> None:
            try:
                text = edit_text(buffer.text)
            except SSSDError as error:
                print(f"error: {error}")
                return
            if text is not None:
                buffer.text = clean(text).rstrip("\n")
                buffer.cursor_position = len(buffer.text)

        run_in_terminal(edit)

    return keys
