"""The program's start: Ctrl-C while it is still importing ends it as quietly as later on."""

from __future__ import annotations

import os

INTERRUPTED = 130


def main() -> None:
    """Runs the command line."""
    try:
        from sssd_local.cli import main as command_line

        command_line(prog_name="sssd-local")
    except KeyboardInterrupt:
        # Whatever was being imported is in no state to be cleaned up.
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
