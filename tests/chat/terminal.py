"""The program in a pseudo-terminal of its own; POSIX only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path


class Terminal:
    """The program in a pseudo-terminal of its own."""

    def __init__(
        self, *arguments: object, home: Path, asks_to_keep: bool = False, **environment: str
    ) -> None:
        """`asks_to_keep` leaves open whether chats are kept, so that the end of one asks."""
        self.seen = ""
        if not asks_to_keep:
            choice = home / "memory" / "choice.json"
            choice.parent.mkdir(parents=True, exist_ok=True)
            choice.write_text('{"keep": false, "max_mb": 64}')
        self.brackets = environment.get("TERM") != "dumb"
        command = [sys.executable, "-m", "sssd_local.cli", "run", *map(str, arguments)]
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                {"SSSD_LOCAL_HOME": str(home), "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
            )
            os.execv(sys.executable, command)
        self.resize(24, 80)
        self.modes_at_start = self.modes()

    def modes(self) -> list[object]:
        """The terminal's settings: of lines, echo and special keys."""
        return list(termios.tcgetattr(self._fd))

    def resize(self, rows: int, columns: int) -> None:
        """Changes the size; the program gets SIGWINCH."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Presses keys; \\r is Enter."""
        os.write(self._fd, text.encode())

    def expect(self, text: str, seconds: float = 60) -> str:
        """Waits until `text` was printed after what was expected last; returns all before it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} did not come; there is {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before

    def answered(self) -> None:
        """Waits for the end of an answer and the prompt after it.

        What is typed before is read as a line of a terminal without an editor.
        """
        self.expect("tokens · ")
        self.expect(">>> ")

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self._fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            # Linux's way to say that the other side is closed.
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def signal(self, number: int) -> None:
        """Sends the program a signal."""
        os.kill(self.pid, number)

    def hang_up(self) -> None:
        """Closes the terminal."""
        os.close(self._fd)
        self._fd = -1

    def exit_code(self, seconds: float = 60) -> int:
        """Waits for the end; what the program still prints is read."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                while self._fd >= 0 and self._read(0.05):
                    pass
                return os.waitstatus_to_exitcode(status)
            # Not every kernel reports the other side's end to a waiting select.
            if self._fd < 0 or not self._read(0.05):
                select.select([], [], [], 0.05)
        raise AssertionError(f"it did not end; there is {self.seen!r}")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self.hang_up()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
