"""`sssd-local bench`: what speculation brings for a model on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sssd_local.cli_info import print_lines
from sssd_local.cli_models import named_model
from sssd_local.cli_options import model_options
from sssd_local.cli_status import StatusLine

if TYPE_CHECKING:
    from sssd_local.measure import Measurement

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.argument("model", required=False, type=click.Path())
@click.option("--prompts", type=_FILE, help="JSON, texts by kind [a set for the model].")
@click.option(
    "--tokens",
    default=128,
    show_default=True,
    type=click.IntRange(2),
    help="Longest answer to each prompt.",
)
@click.option(
    "--repeats",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Rounds through all prompts; medians are told.",
)
@click.option("--csv", "csv_file", type=_FILE, help="Write a row per answer here.")
@click.option("--json", "json_file", type=_FILE, help="Write all figures here.")
@click.option(
    "--plot", "plot_file", type=_FILE, help="Draw a .png, .svg or .pdf (needs sssd-local[bench])."
)
@model_options
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def bench(
    model: str | None,
    prompts: Path | None,
    tokens: int,
    repeats: int,
    csv_file: Path | None,
    json_file: Path | None,
    plot_file: Path | None,
    **options: Any,
) -> None:
    """Measures MODEL with speculation off and auto, and compares the answers.

    Greedy answers to the same prompts in turn, decode time only. Without MODEL it is `tiny`, which
    comes with sssd-local, with prompts of its own. Ctrl-C ends early and tells what is known by
    then.
    """
    from sssd_local import measure_report as report
    from sssd_local.llm import LLM
    from sssd_local.measure import Measurement, measure, read_prompts
    from sssd_local.plot import check_plot

    if plot_file is not None:
        check_plot(plot_file)
    for file in (csv_file, json_file):
        _check(file)
    path = named_model(model)
    found = Measurement(read_prompts(prompts, path))
    stopped, status = False, StatusLine()
    with LLM(path, **options) as llm:
        try:
            measure(llm, found, num_tokens=tokens, repeats=repeats, say=status.show)
        except KeyboardInterrupt:
            stopped = True
    status.wipe()
    lines = report.sentences(found)
    print_lines([*filter(None, [report.table(found)]), *lines])
    _write(json_file, lambda path: _write_json(path, found))
    _write(csv_file, lambda path: report.write_csv(path, found))
    if found.compared or not stopped:
        _write(plot_file, lambda path: report.write_plot(path, found))
    if stopped:
        raise KeyboardInterrupt


def _check(path: Path | None) -> None:
    """Raises SSSDError where a file cannot be written, before anything is measured."""
    from sssd_local.errors import SSSDError

    if path is not None and not path.parent.is_dir():
        raise SSSDError(f"{path} cannot be written: there is no folder {path.parent}")


def _write_json(path: Path, found: Measurement) -> None:
    from sssd_local.measure_report import as_dict

    path.write_text(json.dumps(as_dict(found), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _write(path: Path | None, write: Callable[[Path], None]) -> None:
    from sssd_local.errors import SSSDError

    if path is None:
        return
    try:
        write(path)
    except OSError as error:
        raise SSSDError(f"{path} cannot be written: {error.strerror or error}") from error
