"""docs/cli.md shows every help text as it is. `python -m tests.test_docs` writes it anew."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import sssd_local
from sssd_local.cli import main
from sssd_local.llm import LLM

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cli.md"
INTRODUCTION = """\
# Command line

Every option can also be set in the environment: `SSSD_LOCAL_` and the option's name in capitals,
so `SSSD_LOCAL_TOP_K=20` is `--top-k 20`. An option on the command line wins. `SSSD_LOCAL_STOP` has
one text a line. An unknown variable of that kind is an error. `SSSD_LOCAL_HOME` is the folder for
what is kept: measured step times and odds, and of chats on the terminal what was typed and the last
chat, unless `--no-history` or `--private` is given.

Exit codes: 0 done, 1 error, 2 wrong usage, 129 terminal closed, 130 interrupted, 141 output closed,
143 terminated.
"""


def help_texts() -> dict[str, str]:
    """The help text of the program and of each command, by its words."""
    assert isinstance(main, click.Group)
    commands: list[list[str]] = [[]]
    for name, command in sorted(main.commands.items()):
        commands.append([name])
        if isinstance(command, click.Group):
            commands += [[name, below] for below in sorted(command.commands)]
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
    assert isinstance(main, click.Group)
    named = re.findall(r"^\| `sssd-local ([a-z]+)[ `]", readme(), re.MULTILINE)
    assert set(named) == set(main.commands)


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


def test_the_readme_names_no_option_that_is_missing() -> None:
    # Commands of other programs have options of their own.
    ours = [line for line in readme().splitlines() if line.startswith(("| `", "$ sssd-local"))]
    named = set(re.findall(r"--[a-z-]+", " ".join(ours)))
    assert named
    assert named <= set(re.findall(r"--[a-z-]+", " ".join(help_texts().values())))


def test_links_inside_the_repository_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", readme())
    assert "docs/cli.md" in targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_the_example_in_the_readme_runs(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    model = functools.partial(LLM, ctx=128, speculation="off")
    monkeypatch.setattr(sssd_local, "LLM", lambda _: model(tiny_model()), raising=False)
    printed: list[str] = []
    exec(example, {"print": lambda text, **_: printed.append(text)})
    assert re.match(r"\d+ tokens?\b", printed[-1])


def test_the_numbers_have_their_place() -> None:
    before, _, after = readme().partition("<!-- numbers -->")
    assert before.endswith("## Numbers\n\n")
    assert after.count("<!-- /numbers -->") == 1


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
