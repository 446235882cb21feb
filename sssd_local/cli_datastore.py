"""`sssd-local datastore`: texts of the user's own that drafts are taken from."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sssd_local.cli_guard import guarded
from sssd_local.cli_info import print_lines, printable
from sssd_local.cli_models import named_model
from sssd_local.cli_status import StatusLine, is_terminal

if TYPE_CHECKING:
    from sssd_local.store.ingest import Report
    from sssd_local.store.manifest import Manifest

# Skipped files are named up to here, and the rest counted.
MAX_NAMED = 5
REFRESH_SECONDS = 0.2

_model = click.option("--model", type=click.Path(), help="Model [the one used].")
_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")


_SOURCES = (
    click.option(
        "--from-model",
        "prompts",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PROMPTS",
        help="Also the model's own answers to the prompts of this file; repeatable.",
    ),
    click.option(
        "--answer-tokens", default=512, show_default=True, type=click.IntRange(1),
        help="Longest of these answers.",
    ),
    click.option(
        "--temp", default=0.0, show_default=True, type=click.FloatRange(0),
        help="Randomness of these answers.",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads to tokenise with [all]."),
    click.option(
        "--cluster", metavar="ADDRESS",
        help="Have the workers of the Dask scheduler at ADDRESS read the files.",
    ),
)  # fmt: skip


def _source_options(command: Callable[..., None]) -> Callable[..., None]:
    for add in reversed(_SOURCES):
        command = add(command)
    return command


def _rebuild_options(command: Callable[..., None]) -> Callable[..., None]:
    for add in reversed(_SOURCES[1:]):
        command = add(command)
    return command


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --debug, and turns what can go wrong into one line and an exit code as `run` does."""
    debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return debug(guarded(command))


@click.group("datastore", context_settings={"help_option_names": ["-h", "--help"]})
def datastore() -> None:
    """Builds stores of text that drafts are taken from.

    A PATH is a file, a folder, a glob in quotes ('src/**/*.py') or - for stdin. Text and source
    files are stored whole; of JSON and JSON lines the `text`, or what the assistant said in
    `messages`, in ShareGPT's `conversations` or in ChatGPT's and OpenAI's exports. Hidden files,
    binary ones and duplicates are left out. PROMPTS has a prompt on each line, or is JSON (lines)
    with prompts or chats.
    """


@datastore.command()
@click.argument("name")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option(
    "--model",
    type=click.Path(),
    required=True,
    help="Model whose tokenizer is used: a GGUF file or a name.",
)
@click.option(
    "--segment-tokens",
    type=click.IntRange(1),
    help="Largest part that is sorted at once, at 24 bytes a token [134217728].",
)
@_source_options
@_guarded
def build(
    name: str, paths: tuple[str, ...], model: str, prompts: tuple[Path, ...], **values: Any
) -> None:
    """Makes the datastore NAME; run again, goes on with one that was cut off."""
    from sssd_local.store.build import build_datastore

    path = named_model(model)
    with _Progress() as progress:
        options = _options(progress, **values)
        report = build_datastore(name, path, paths, options, prompts=prompts)
    _print_report(name, report)


@datastore.command()
@click.argument("name")
@click.argument("paths", nargs=-1, metavar="PATH...")
@_model
@_source_options
@_guarded
def add(
    name: str, paths: tuple[str, ...], model: str | None, prompts: tuple[Path, ...], **values: Any
) -> None:
    """Puts more texts into the datastore NAME; what it holds already is skipped."""
    from sssd_local.store.build import add_to_datastore

    path = None if model is None else named_model(model)
    with _Progress() as progress:
        options = _options(progress, **values)
        report = add_to_datastore(name, paths, path, options, prompts=prompts)
    _print_report(name, report)


@datastore.command()
@click.argument("name")
@_model
@click.option("--skip-missing", is_flag=True, help="Leave out what cannot be read again.")
@_rebuild_options
@_guarded
def rebuild(name: str, model: str | None, skip_missing: bool, **values: Any) -> None:
    """Reads all of the datastore NAME anew, for another model or from changed files.

    Prompts are answered again, by this model.
    """
    from sssd_local.store.build import rebuild_datastore

    path = None if model is None else named_model(model)
    with _Progress() as progress:
        options = _options(progress, **values)
        report = rebuild_datastore(name, path, skip_missing=skip_missing, options=options)
    _print_report(name, report)


@datastore.command("list")
@_json
@_guarded
def list_stores(as_json: bool) -> None:
    """Lists all datastores."""
    from sssd_local.store.datastores import datastore_names, find_datastore
    from sssd_local.store.errors import StoreError

    rows: dict[str, dict[str, Any]] = {}
    for name in datastore_names():
        try:
            rows[name] = _facts(find_datastore(name))
        except StoreError as error:
            rows[name] = {"error": str(error)}
    if as_json:
        print_lines([json.dumps(rows)])
        return
    wide = max(map(len, rows), default=0)
    lines = (f"{name:<{wide}}  {row.get('error') or _line(row)}" for name, row in rows.items())
    print_lines(map(printable, lines))


@datastore.command()
@click.argument("name")
@_json
@_guarded
def info(name: str, as_json: bool) -> None:
    """Tells what the datastore NAME holds and where it came from."""
    from sssd_local.store.datastores import datastore_folder, find_datastore

    manifest = find_datastore(name)
    facts = {**_facts(manifest), "folder": str(datastore_folder(name))}
    if as_json:
        print_lines([json.dumps(facts)])
        return
    print_lines(map(printable, _info_lines(name, facts)))


@datastore.command()
@click.argument("name")
@_guarded
def verify(name: str) -> None:
    """Reads all files of the datastore NAME; exits with 1 if one is damaged."""
    from sssd_local.store.datastores import verify_datastore

    problems = verify_datastore(name)
    print_lines(map(printable, problems or [f"{name} is as it was written"]))
    if problems:
        click.echo(
            f"error: {name} is damaged; run `sssd-local datastore rebuild {name}`, "
            "or remove it and build it anew",
            err=True,
        )
        sys.exit(1)


@datastore.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_guarded
def remove(name: str, yes: bool) -> None:
    """Deletes the datastore NAME."""
    from sssd_local.store.datastores import remove_datastore

    if not yes:
        if not is_terminal(sys.stdin):
            raise click.UsageError("add --yes to remove without being asked")
        click.confirm(f"Delete the datastore {name}?", abort=True, err=True)
    remove_datastore(name)
    print_lines([f"{name} is deleted"])


def _options(
    progress: _Progress,
    *,
    answer_tokens: int,
    temp: float,
    segment_tokens: int | None = None,
    **values: Any,
) -> Any:
    from sssd_local.store.ingest import BuildOptions

    if segment_tokens is not None:
        values["segment_tokens"] = segment_tokens
    return BuildOptions(
        max_tokens=answer_tokens, temperature=temp, progress=progress.report, **values
    )


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "tokens": manifest.num_tokens,
        "texts": manifest.num_texts,
        "segments": len(manifest.segments),
        "bytes": manifest.num_bytes,
        "model": manifest.model,
        "sources": list(manifest.roots),
        "complete": not manifest.unfinished,
    }


def _line(facts: dict[str, Any]) -> str:
    cut_off = "" if facts["complete"] else ", cut off"
    return (
        f"{facts['tokens']:,} tokens, {facts['bytes'] / 1e6:,.1f} MB, "
        f"{Path(facts['model']).name}{cut_off}"
    )


def _info_lines(name: str, facts: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: {facts['tokens']:,} tokens in {facts['texts']:,} texts"
    yield f"  on disk  {facts['bytes'] / 1e6:,.1f} MB in {facts['segments']} segments"
    yield f"  folder   {facts['folder']}"
    yield f"  model    {facts['model']}"
    for source in facts["sources"]:
        # As store.prompts.PROMPTS says.
        name = source.removeprefix("prompts:")
        yield f"  from     {source if name == source else f'answers to {name}'}"
    if not facts["complete"]:
        yield f"  cut off  run `sssd-local datastore add {name} PATH` to go on"


def _print_report(name: str, report: Report) -> None:
    reasons = Counter(item.reason for item in report.skipped)
    lines = []
    for reason, count in reasons.items():
        names = [item.name for item in report.skipped if item.reason == reason]
        more = f" and {count - MAX_NAMED} more" if count > MAX_NAMED else ""
        lines.append(f"skipped ({reason}): {', '.join(names[:MAX_NAMED])}{more}")
    seconds = max(report.seconds, 1e-3)
    answers = f", answers to {report.num_answers:,} of {report.num_prompts:,} prompts"
    lines.append(
        f"{name}: {report.num_tokens:,} tokens from {report.num_files:,} of "
        f"{report.num_found:,} files{answers if report.num_prompts else ''} in {seconds:.1f} s"
    )
    print_lines(map(printable, lines))


class _Progress(StatusLine):
    """How far a build is."""

    def __init__(self) -> None:
        super().__init__()
        self._shown_at = 0.0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def report(self, report: Report) -> None:
        """Tells it now and then."""
        now = time.monotonic()
        if now - self._shown_at < REFRESH_SECONDS:
            return
        self._shown_at = now
        # Lines of a file that are skipped count too.
        done = min(report.num_files + len(report.skipped), report.num_found)
        rate = report.num_tokens / max(report.seconds, 1e-3)
        parts = [f"{done:,} of {report.num_found:,} files"] if report.num_found else []
        if report.num_prompts:
            parts.append(f"{report.num_answers:,} of {report.num_prompts:,} prompts answered")
        self.show(", ".join([*parts, f"{report.num_tokens:,} tokens ({rate:,.0f} a second)"]))
