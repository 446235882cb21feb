"""`sssd-local memory`: what is kept of the user's own chats, and getting rid of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from sssd_local.cli_guard import guarded
from sssd_local.cli_info import print_lines, printable
from sssd_local.errors import SSSDError


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --debug, and turns what can go wrong into one line and an exit code."""
    debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return debug(guarded(command))


@click.group("memory", context_settings={"help_option_names": ["-h", "--help"]})
def memory() -> None:
    """Keeps chats to draft later ones from, on this machine only, if you say so."""


@memory.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@_guarded
def status(as_json: bool) -> None:
    """Tells what is kept and what it was good for."""
    from sssd_local.store.memory_choice import memory_folder, read_choice
    from sssd_local.store.memory_status import memory_status

    found = memory_status(read_choice(), memory_folder())
    print_lines([json.dumps(found.as_dict())] if as_json else map(printable, found.lines()))


@memory.command()
@click.option("--max-mb", type=int, help="Most that is kept, the oldest going first [64].")
@_guarded
def on(max_mb: int | None) -> None:
    """Keeps chats from now on."""
    from sssd_local.store.memory_choice import memory_folder, read_choice, write_choice

    choice = replace(read_choice(), keep=True)
    write_choice(choice if max_mb is None else replace(choice, max_mb=max_mb))
    print_lines([printable(f"chats are kept in {memory_folder()}")])


@memory.command()
@_guarded
def off() -> None:
    """Keeps no chats from now on, and uses none; what is kept stays until it is forgotten."""
    from sssd_local.store.memory_chats import kept_chats
    from sssd_local.store.memory_choice import memory_folder, read_choice, write_choice

    write_choice(replace(read_choice(), keep=False))
    lines = ["chats are not kept"]
    if any(kept.exists for kept in kept_chats(memory_folder())):
        lines.append("those of before are: `sssd-local memory forget --all` deletes them")
    print_lines(lines)


@memory.command()
@_guarded
def path() -> None:
    """Prints the one folder of all that is kept."""
    from sssd_local.store.memory_choice import memory_folder

    print_lines([str(memory_folder())])


@memory.command()
@click.option("--last", is_flag=True, help="The last chat.")
@click.option("--since", metavar="TIME", help="All since 2h, 7d or 2026-01-31.")
@click.option("--chat", metavar="NAME", help="One chat, named as in `export`.")
@click.option("--damaged", is_flag=True, help="Only what cannot be read any more.")
@click.option(
    "--all", "everything", is_flag=True, help="All of it, also what was typed and the last chat."
)
@_guarded
def forget(
    last: bool, since: str | None, chat: str | None, damaged: bool, everything: bool
) -> None:
    """Deletes chats for good: files are overwritten, then removed. Asks nothing.

    With --all what was typed in chats and the last chat, for `run -c`, go as well.
    """
    from sssd_local.store import memory_forget
    from sssd_local.store.memory_choice import memory_folder

    if [last, since is not None, chat is not None, damaged, everything].count(True) != 1:
        raise click.UsageError("say what: --last, --since TIME, --chat NAME, --damaged or --all")
    root = memory_folder()
    if everything:
        _forget_everything(root)
        return
    if last:
        num_turns = memory_forget.forget_last(root)
    elif since is not None:
        num_turns = memory_forget.forget_since(root, memory_forget.parse_since(since))
    elif chat is not None:
        num_turns = memory_forget.forget_chat(root, chat)
    else:
        num_turns = memory_forget.forget_damaged(root)
    lines = [f"{num_turns} turn{'' if num_turns == 1 else 's'} forgotten"]
    if num_turns:
        lines += _kept_elsewhere()
    print_lines(lines)


def _kept_elsewhere() -> Iterator[str]:
    """What may still say it, as it is no part of memory."""
    from sssd_local.chat.kept import history_path, last_chat_path

    for what, path in (("the last chat", last_chat_path()), ("what was typed", history_path())):
        if path.exists():
            yield printable(f"{what} is kept apart: {path}; --all deletes that too")


def _forget_everything(root: Path) -> None:
    """Deletes what can be, says so, then raises what went wrong."""
    from sssd_local.store.memory_forget import forget_all

    lines, problems = [], []
    try:
        forget_all(root)
        lines.append("all chats are forgotten")
    except SSSDError as error:
        problems.append(str(error))
    try:
        lines += map(printable, _forget_kept())
    except SSSDError as error:
        problems.append(str(error))
    print_lines(lines)
    if problems:
        raise SSSDError("; ".join(problems))


def _forget_kept() -> Iterator[str]:
    """Deletes what a chat keeps beside memory, and says so."""
    from sssd_local.chat.kept import forget_kept, history_path, last_chat_path

    names = {last_chat_path(): "the last chat, for `run -c`,", history_path(): "what was typed"}
    for path in forget_kept():
        yield f"{names.get(path, 'a part of the last chat')} is deleted: {path}"


@memory.command()
@click.option("--model", type=click.Path(path_type=Path), help="GGUF file [the one used].")
@_guarded
def export(model: Path | None) -> None:
    """Prints all turns as JSON lines with `chat`, `time` and `text`."""
    from sssd_local.store.memory_choice import memory_folder
    from sssd_local.store.memory_export import export_lines

    for line in export_lines(memory_folder(), model):
        print_lines([line.rstrip("\n")])


@memory.command()
@_guarded
def verify() -> None:
    """Reads all that is kept; exits with 1 if some is damaged or open to others."""
    from sssd_local.store.memory_chats import kept_chats
    from sssd_local.store.memory_choice import memory_folder

    problems = [line for kept in kept_chats(memory_folder()) for line in kept.problems()]
    print_lines(map(printable, problems or ["all that is kept is as it was written"]))
    if problems:
        click.echo(
            "error: memory is damaged or open to others; `sssd-local memory forget --damaged` "
            "deletes what cannot be read, `chmod` closes it",
            err=True,
        )
        sys.exit(1)
