"""What every command does when something goes wrong: one line on stderr and an exit code."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from sssd_local.cli_info import printable
from sssd_local.errors import ConfigError, SSSDError

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 1, 2, 130, 141, 143


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns what can go wrong into one line on stderr and an exit code."""

    @functools.wraps(command)
    def run_guarded(*args: object, debug: bool, **values: object) -> None:
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            command(*args, **values)
        except SSSDError as error:
            if debug:
                traceback.print_exc()
            click.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
            sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR)
        except KeyboardInterrupt:
            if debug:
                traceback.print_exc()
            sys.exit(EXIT_INTERRUPTED)
        finally:
            signal.signal(signal.SIGTERM, previous)

    return run_guarded


class Program(click.Group):
    """A group of commands that ends quietly or in one line when nobody takes its output."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Runs the command line."""
        try:
            return super().main(*args, **settings)
        except OSError as error:
            # Help and version are printed while options are read, outside of any command.
            discard_stdout()
            # Writing to what is open already names no file; anything else does.
            what = "the output cannot be written" if error.filename is None else error.filename
            line = printable(f"error: {what}: {error.strerror or error}")
            click.echo(line, err=True)
            sys.exit(EXIT_ERROR)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was named."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            discard_stdout()
            sys.exit(EXIT_PIPE)


def discard_stdout() -> None:
    """Lets what is left for a closed stdout go nowhere."""
    # Python flushes stdout once more at exit; what is left in it cannot be written.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(number: int, frame: object) -> None:
    sys.exit(EXIT_TERMINATED)
