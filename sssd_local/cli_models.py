"""`sssd-local models`: what is on this machine; and MODEL arguments of every command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sssd_local.cli_info import print_lines, printable
from sssd_local.cli_status import StatusLine

if TYPE_CHECKING:
    from sssd_local.library import LocalModel

QUIET_SECONDS = 1.0
EXAMPLE = "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF"
_HEADS = ("NAME", "SIZE", "QUANTISATION", "WHERE")


def named_model(name: str | None, *, may_fetch: bool = True) -> Path:
    """The file that a MODEL argument means, without one the embedded model's.

    A download shows how far it is on stderr.
    """
    from sssd_local.builtin import tiny_path
    from sssd_local.library import find_model

    if name is None:
        return tiny_path()
    status = StatusLine()
    try:
        return find_model(name, status.show, may_fetch=may_fetch)
    finally:
        status.wipe()


@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def models(as_json: bool) -> None:
    """Lists the models on this machine.

    Each runs by its NAME: the embedded one, those in the caches of the Hugging Face hub and
    llama.cpp, in LM Studio's folder, and in the folder `models` of the app folder.
    """
    from sssd_local.library import local_models

    status = StatusLine(QUIET_SECONDS)
    rows = []
    for model in local_models():
        status.show(f"reading {printable(model.path.name)}")
        rows.append(describe_row(model))
    status.wipe()
    print_lines([json.dumps(rows, indent=1)] if as_json else map(printable, table(rows)))


def describe_row(model: LocalModel) -> dict[str, Any]:
    """A model as an object of `--json`; `problem` says why a file is of no use."""
    from sssd_local.errors import ModelError
    from sssd_local.gguf_info import describe

    quantisation, architecture, problem = "", "", None
    try:
        info = describe(model.path)
        quantisation, architecture = info.quantisation, info.architecture
    except ModelError as error:
        problem = str(error).removeprefix(f"{model.path} ").removeprefix("is ")
    return {
        "name": model.name,
        "path": str(model.path),
        "bytes": model.num_bytes,
        "parts": model.num_parts,
        "quantisation": quantisation,
        "architecture": architecture,
        "where": model.place,
        "repository": model.repo,
        "problem": problem,
    }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table, and how to get a model where there is none but the embedded one."""
    from sssd_local.hub import gigabytes
    from sssd_local.library import EMBEDDED

    cells = [
        (
            row["name"],
            gigabytes(row["bytes"]),
            row["quantisation"] or "-",
            " · ".join(filter(None, [row["where"], row["repository"]])),
        )
        for row in rows
    ]
    if cells:
        widths = [max(map(len, column)) for column in zip(_HEADS, *cells, strict=True)]
        for line, row in zip([_HEADS, *cells], [None, *rows], strict=True):
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            problem = f"  (of no use: {row['problem']})" if row and row["problem"] else ""
            yield text.rstrip() + problem
    if all(row["where"] == EMBEDDED for row in rows):
        yield f"No {'other ' if rows else ''}models were found. `sssd-local run {EXAMPLE}`"
        yield "downloads one; a GGUF file anywhere runs by its path."
