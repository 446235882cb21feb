"""`python -m bench`: what speculation brings on recorded answers of real models."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from bench.options import CACHE, existing_file
from sssd_local.errors import SSSDError

# Commands in modules of their own, by name; a module that is not there is not offered.
MODULES = {
    "context": "bench.context",
    "history": "bench.history",
    "record": "bench.record",
    "recycle": "bench.recycle",
    "agreement": "bench.agreement",
    "bound": "bench.bound",
    "edit": "bench.edit",
    "overhead": "bench.overhead",
    "published": "bench.published",
    "simulate": "bench.simulate",
    "store": "bench.store",
    "fit": "bench.fit",
}
METHODS = "plain,sssd,llama-cpp-python,llama-cpp-python-lookup"

folder = click.Path(file_okay=False, path_type=Path)


class Commands(click.Group):
    """A group that imports the modules of its other commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands that can be run, sorted."""
        others = [name for name, module in MODULES.items() if find_spec(module)]
        return sorted([*super().list_commands(ctx), *others])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        module = MODULES.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        if find_spec(module) is None:
            return None
        command: click.Command = import_module(module).command
        return command


@click.group(cls=Commands)
def main() -> None:
    """Benchmarks of sssd-local."""


@main.command()
@click.option(
    "--traces", multiple=True, required=True, type=existing_file, help="JSONL; repeatable."
)
@click.option("--vocab", required=True, type=existing_file, help="GGUF whose tokenizer is used.")
@click.option("--size", default="1b", show_default=True, help="tiny, 150m, 1b or 3b.")
@click.option("--quant", default="Q4_0", show_default=True, help="Type of the model's weights.")
@click.option("--methods", default=METHODS, show_default=True, help="Names, with commas.")
@click.option("--per-task", type=click.IntRange(1), help="First N traces of each task [all].")
@click.option("--min-tokens", default=32, show_default=True, type=click.IntRange(2))
@click.option("--out", required=True, type=folder, help="For results.* and the plots.")
@click.option("--threads", type=click.IntRange(1), help="For every method [physical cores].")
@click.option("--ctx", type=click.IntRange(256), help="Context [enough for the longest trace].")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Medians.")
@click.option("--cache", default=CACHE, show_default=True, type=folder, help="For replay models.")
@click.option("--kv-type", default="f16", show_default=True, help="f32, f16 or q8_0.")
@click.option(
    "--busy", default=0, show_default=True, type=click.IntRange(0), help="Endless loops beside it."
)
@click.option("--llama-server", type=existing_file, help="The program, for its methods.")
def replay(out: Path, **options: Any) -> None:
    """Decode recorded answers with several methods and compare their speed.

    The model has the cost of its size and, greedily, writes exactly the recorded answer. Methods:
    plain, sssd, sssd+DATASTORE, fixed-WIDTH, sssd-WIDTH (published settings), llama-cpp-python,
    llama-cpp-python-lookup, llama-cpp-python-lookup-2, llama-server, llama-server-ngram-simple,
    -ngram-mod, -ngram-cache, -ngram-map-k, -ngram-map-k4v.
    """
    from bench.replay import Options, run
    from bench.report import table, write_report

    try:
        found = run(Options(**options), lambda line: click.echo(line, err=True))
        results, settings, limit = found
        write_report(out, results, settings, limit)
    except SSSDError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{table(results)}\nThe machine's limit: {limit.line()}.")


if __name__ == "__main__":
    main()
