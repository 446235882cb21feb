"""What a command's help prints, and what it has imported by then."""

from __future__ import annotations

import subprocess
import sys


def lines_of_help(*words: str, heavy: set[str]) -> list[str]:
    """The lines of `sssd-local WORDS --help`, then a list of those modules that it imported."""
    code = (
        "import sys; from sssd_local.cli import main;"
        f"main({[*words, '--help']!r}, standalone_mode=False);"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()
