"""`sssd-local info`: what a model file says about itself."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click

from sssd_local.config import KV_TYPES


@click.argument("model", type=click.Path())
@click.option(
    "--ctx",
    "ctxs",
    type=click.IntRange(1, 2**31 - 1),
    multiple=True,
    help="Tell the memory at this context; repeatable [some up to the model's].",
)
@click.option(
    "--kv-type",
    type=click.Choice(KV_TYPES),
    default="f16",
    show_default=True,
    envvar="SSSD_LOCAL_KV_TYPE",
    help="Number type of the KV cache.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def info(model: str, ctxs: tuple[int, ...], kv_type: str, as_json: bool) -> None:
    """Tells what the GGUF file MODEL is and needs, without loading it."""
    from sssd_local.cli_models import named_model
    from sssd_local.gguf_info import describe

    found = describe(named_model(model), ctxs, kv_type)
    print_lines([json.dumps(found.as_dict())] if as_json else map(printable, found.lines()))


def print_lines(lines: Iterable[str]) -> None:
    """Writes lines to stdout; raises OSError, for `Program` to tell, when it takes no more."""
    text = "".join(f"{line}\n" for line in lines)
    click.echo(text.encode("utf-8", "replace"), nl=False)


def printable(line: str) -> str:
    """A line with everything that could steer the terminal spelled out.

    Names in a file are a stranger's text.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
