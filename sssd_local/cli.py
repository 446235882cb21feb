"""The command line: parse, call, print. Imports click only until a command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from sssd_local import __version__
from sssd_local.cli_answer import Progress, check_text, print_answer, with_stdin
from sssd_local.cli_bench import bench
from sssd_local.cli_config import (
    IGNORE,
    ConfiguredCommand,
    check_environment,
    config,
    config_option,
)
from sssd_local.cli_datastore import datastore
from sssd_local.cli_guard import EXIT_USAGE, Program, guarded
from sssd_local.cli_info import info
from sssd_local.cli_memory import memory
from sssd_local.cli_models import models, named_model
from sssd_local.cli_options import read_text, run_options, split
from sssd_local.cli_probe import probe
from sssd_local.cli_status import is_terminal
from sssd_local.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sssd_local.chat.settings import ChatSettings
    from sssd_local.llm import LLM, Chunk
    from sssd_local.store.memory import Memory


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="sssd-local")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Makes any GGUF model answer faster on the machine you own.

    Drafts are taken from the text itself, checked by the model in one batch and sized by what this
    machine was measured to need, so that the answer is the model's own.
    """
    try:
        check_environment(main)
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        ctx.exit(EXIT_USAGE)


@main.command(cls=ConfiguredCommand)
@click.argument("model", required=False, type=click.Path())
@click.argument("prompt", required=False)
@run_options
@config_option
@guarded
def run(
    model: str | None,
    prompt: str | None,
    raw: bool,
    system: str | None,
    system_file: Any,
    stats: str | None,
    template_arguments: tuple[tuple[str, Any], ...],
    **values: Any,
) -> None:
    """Answers PROMPT with the GGUF file MODEL and exits; without PROMPT, chats on the terminal.

    Without MODEL it is `tiny`, a small demonstration model that comes with sssd-local. Text piped
    to stdin precedes PROMPT. Every option can also be set in the environment: SSSD_LOCAL_TEMP=0
    is --temp 0.
    """
    raw, system, system_file = _system(raw, system, system_file)
    for one, other in (("grammar", "json_schema"), ("json_schema", "grammar")):
        if _is_overruled(one, other):
            values[one] = None
    text = with_stdin(prompt)
    if text is None:
        _check_chat(model, raw, values)
    elif values["go_on"]:
        raise click.UsageError("--continue goes on with a chat; leave out PROMPT")
    if system_file is not None:
        system = read_text(system_file, "system file")
    check_text("PROMPT", text or "")
    check_text("--system", system or "")
    model_options, answer_options = split(values)
    from sssd_local import llm as api

    api.check_options(model_options, answer_options)
    path = named_model(model)
    if stats != "none":
        _note_builtin(path)
    remembered = _memory(values, is_chat=text is None)
    progress = Progress()
    with api.LLM(path, progress=progress.load, memory=remembered, **model_options) as llm:
        progress.end()
        if text is None:
            answer_options.setdefault("overflow", "drop-oldest")
            llm.check_answer(**answer_options)
            settings = _chat_settings(answer_options, dict(template_arguments), stats, values)
            _chat(llm, path.name, system, settings, progress, values)
            return
        answer_options["prompt_progress"] = progress.prompt
        if template_arguments and not raw:
            answer_options["template_arguments"] = dict(template_arguments)
        chunks = _stream(llm, text, raw, system, answer_options)
        print_answer(chunks, progress, stats, trim=not raw)
        if llm.memory is not None:
            llm.memory.close()
            if llm.memory.problem:
                click.echo(f"memory: {llm.memory.problem}", err=True)


def _system(raw: bool, system: str | None, system_file: Any) -> tuple[bool, str | None, Any]:
    """--raw, --system and --system-file: what is typed wins over the environment's."""
    if _is_overruled("raw", "system") or _is_overruled("raw", "system_file"):
        raw = False
    if raw and _is_overruled("system", "raw"):
        system = None
    if (raw and _is_overruled("system_file", "raw")) or _is_overruled("system_file", "system"):
        system_file = None
    if _is_overruled("system", "system_file"):
        system = None
    if system is not None and system_file is not None:
        raise click.UsageError("--system and --system-file cannot be used together")
    if raw and (system is not None or system_file is not None):
        raise click.UsageError("--raw has no system message; leave out --system")
    return raw, system, system_file


def _note_builtin(path: Path) -> None:
    from sssd_local.builtin import TINY_NOTE, is_builtin

    if is_builtin(path) and is_terminal(sys.stderr):
        click.echo(TINY_NOTE, err=True)


def _memory(values: dict[str, Any], *, is_chat: bool) -> Memory | None:
    """What the user's chats taught; only what is typed on a terminal may be added to it."""
    from sssd_local.store.memory import chosen_memory

    is_typed = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    may_write = is_typed and not (values["private"] or values["no_history"])
    ignore = click.get_current_context().meta.get(IGNORE, ())
    return chosen_memory(may_write=may_write, may_ask=is_chat, ignore=ignore)


def _is_overruled(name: str, by: str) -> bool:
    """Whether an option of the environment gives way to one of the command line."""
    source = click.get_current_context().get_parameter_source
    typed = click.core.ParameterSource.COMMANDLINE
    return source(by) == typed and source(name) != typed


def _is_typed(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source == click.core.ParameterSource.COMMANDLINE


def _check_chat(model: str | None, raw: bool, values: dict[str, Any]) -> None:
    """Raises UsageError where no chat is possible, ModelError where MODEL was meant as PROMPT."""
    from sssd_local.chat.markdown import can_render
    from sssd_local.hub_files import PREFIX

    if not is_terminal(sys.stdin):
        if model is not None and not model.startswith(PREFIX):
            named_model(model)
        raise click.UsageError("give a PROMPT, or pipe one to stdin")
    if raw:
        raise click.UsageError("--raw needs a PROMPT; a chat goes through a template")
    if values["markdown"] == "on" and not can_render():
        raise click.UsageError("--markdown needs rich: pip install 'sssd-local[chat]'")
    if values["go_on"] and (values["no_history"] or values["private"]):
        raise click.UsageError("--continue needs the history; leave out --no-history or --private")


def _chat_settings(
    options: dict[str, Any], arguments: dict[str, Any], stats: str | None, values: dict[str, Any]
) -> ChatSettings:
    from sssd_local.chat.settings import ChatSettings

    return ChatSettings(
        options=options,
        template_arguments=arguments,
        think=values["think"] == "show",
        markdown=values["markdown"] == "on",
        quiet=stats == "none",
        stats="json" if stats == "json" else "line",
    )


def _chat(
    llm: LLM,
    model_name: str,
    system: str | None,
    settings: ChatSettings,
    progress: Progress,
    values: dict[str, Any],
) -> None:
    from sssd_local.chat.repl import run_repl

    run_repl(
        llm,
        settings=settings,
        model_name=model_name,
        system=system,
        history=not values["no_history"],
        private=values["private"],
        go_on=values["go_on"],
        yields_system=not _is_typed("system") and not _is_typed("system_file"),
        progress=progress,
    )


def _stream(
    llm: LLM, text: str, raw: bool, system: str | None, options: dict[str, Any]
) -> Iterator[Chunk]:
    if raw:
        return llm.stream(text, **options)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return llm.stream_chat([*messages, {"role": "user", "content": text}], **options)


main.command("models")(guarded(models))
main.command("info")(guarded(info))
main.command("probe")(guarded(probe))
main.command("bench")(guarded(bench))
main.add_command(config)
main.add_command(datastore)
main.add_command(memory)

if __name__ == "__main__":
    main()
