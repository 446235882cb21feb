"""docs/cli.md shows every help text as it is. `python -m tests.test_docs` writes it anew."""

from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner

from sssd_local.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
INTRODUCTION = """\
# Command line

Every option can also be set in the environment: `SSSD_LOCAL_` and the option's name in capitals,
so `SSSD_LOCAL_TOP_K=20` is `--top-k 20`. An option on the command line wins. `SSSD_LOCAL_STOP` has
one text a line. `SSSD_LOCAL_HOME` is the folder for what is kept (measured step times, no text).

Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted, 141 output closed, 143 terminated.
"""


def help_texts() -> dict[str, str]:
    """The help text of the program and of each command, by its words."""
    assert isinstance(main, click.Group)
    commands = [[], *([name] for name in sorted(main.commands))]
    return {" ".join(["sssd-local", *words]): help_of(words) for words in commands}


def help_of(words: list[str]) -> str:
    result = CliRunner().invoke(
        main, [*words, "--help"], prog_name="sssd-local", terminal_width=100
    )
    assert result.exit_code == 0
    return result.output


def page() -> str:
    """What docs/cli.md must be."""
    parts = [f"\n## `{name}`\n\n```\n{text}```\n" for name, text in help_texts().items()]
    return INTRODUCTION + "".join(parts)


def test_the_page_shows_the_help_as_it_is() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.test_docs"


def test_the_readme_names_every_command_and_no_other() -> None:
    readme = (PAGE.parent.parent / "README.md").read_text()
    assert isinstance(main, click.Group)
    for name in main.commands:
        assert f"sssd-local {name}" in readme


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
