"""`sssd-local probe`: what this machine needs for verify batches, and what follows from it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sssd_local.cli_info import print_lines
from sssd_local.cli_models import named_model
from sssd_local.cli_options import model_options
from sssd_local.cli_status import StatusLine
from sssd_local.errors import SSSDError

if TYPE_CHECKING:
    from sssd_local.hardware.profile import KeptProfile, Profile, ProfileStore

BAR_COLUMNS = 40

_OPTIONS = (
    model_options,
    click.option("--fresh", is_flag=True, help="Measure even if a full probe is kept."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table."),
    click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                 help="Draw the curves: a .png, .svg or .pdf (needs sssd-local[bench])."),
    click.option("--list", "list_kept", is_flag=True, help="Tell what is kept, measure nothing."),
    click.option("--forget", is_flag=True,
                 help="Remove what is kept for MODEL, or everything without MODEL."),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
)  # fmt: skip


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of `probe`."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


@click.argument("model", required=False, type=click.Path())
@with_options
def probe(
    model: str | None,
    fresh: bool,
    as_json: bool,
    plot: Path | None,
    list_kept: bool,
    forget: bool,
    **options: Any,
) -> None:
    """Measures what checking several tokens at once costs on this machine for the GGUF file MODEL.

    Widths, context lengths and thread counts are measured in about ten seconds, longer where a
    token takes longer; Ctrl-C keeps what is known by then. `run` uses what was found.
    """
    from sssd_local.costs import profile_store

    if list_kept:
        print_lines(_kept_lines(profile_store()))
        return
    if forget:
        _forget(profile_store(), model)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    if plot is not None:
        from sssd_local.plot import check_plot

        check_plot(plot)
    report = _measure(named_model(model), fresh, options)
    print_lines([json.dumps(report)] if as_json else report_lines(report))
    if plot is not None:
        from sssd_local.plot import plot_curves

        plot_curves(report, plot)


def _measure(path: Path, fresh: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    from sssd_local.config import ModelConfig
    from sssd_local.costs import full_probe, key_of, profile_store
    from sssd_local.engine.backend import build_name
    from sssd_local.engine.model import Model
    from sssd_local.hardware.threads import default_threads

    config = ModelConfig(**options)
    threads = config.threads or default_threads()
    threads_batch = config.threads_batch or threads
    model, status = Model(path, config), StatusLine()
    try:
        key = key_of(model, config)
        kept = None if fresh else profile_store().load(key)
        if kept is None or not kept.is_full:
            with _stoppable() as should_stop:
                kept = full_probe(
                    model, config, threads, threads_batch, key=key, should_stop=should_stop,
                    progress=lambda share, doing: status.show(f"measuring {share:4.0%} {doing}"),
                )  # fmt: skip
        if kept is None:
            raise SSSDError("nothing was measured before it was stopped; let it run a little")
        return report_of(
            model.path.name,
            build_name(),
            "gpu" if model.uses_gpu else "cpu",
            kept,
            device=key.device or key.cpu,
        )
    finally:
        status.wipe()
        model.close()


def report_of(
    model: str,
    build: str,
    backend: str,
    profile: Profile,
    *,
    device: str,
) -> dict[str, Any]:
    """The `--json` object."""
    from sssd_local.hardware.advice import advise, relative_costs

    points = profile.points
    advice, relative = advise(points), relative_costs(points)
    return {
        "model": model,
        "build": build,
        "backend": backend,
        "device": device,
        "threads": profile.threads,
        "threads_batch": profile.threads_batch,
        "flash_attention": profile.flash_attention,
        "points": [
            {
                "context": point.context_length,
                "width": point.width,
                "ms": round(1000 * point.seconds, 4),
                "relative": round(relative[point.context_length][point.width], 4),
            }
            for point in points
        ],
        "tree_ms": round(1000 * profile.branch_seconds, 4),
        "restore_ms": round(1000 * (profile.save_seconds + profile.load_seconds), 4),
        "limit": round(advice.limit, 3),
        "knee": advice.knee,
        "chosen": {str(length): width for length, width in advice.chosen.items()},
        "complete": profile.is_full,
        "advice": advice.sentence,
    }


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A table with a bar for each width, by context length; chosen widths are marked."""
    yield f"{report['model']} on {report['device'] or 'this machine'} ({report['backend']})"
    flash_attention = " · flash attention" if report["flash_attention"] else ""
    yield f"{report['threads']} threads, {report['threads_batch']} for batches{flash_attention}"
    longest = max(point["ms"] for point in report["points"])
    context = None
    for point in report["points"]:
        if point["context"] != context:
            context = point["context"]
            yield ""
            yield f"after {context} tokens"
            yield "width        ms   × one"
        bar = "█" * max(1, round(BAR_COLUMNS * point["ms"] / longest))
        mark = "  ◀ chosen" if report["chosen"].get(str(context)) == point["width"] else ""
        yield f"{point['width']:5} {point['ms']:9.2f} {point['relative']:7.2f}  {bar}{mark}"
    yield ""
    yield (
        f"limit {report['limit']:.2f}× · knee at width {report['knee']} · a tree costs "
        f"{report['tree_ms']:.2f} ms more than a chain"
    )
    yield str(report["advice"])
    if report["restore_ms"]:
        yield (
            f"A wrong draft costs {report['restore_ms']:.2f} ms for going back, and what was right "
            "of it is evaluated again."
        )
    if not report["complete"]:
        yield "Not everything was measured; the rest is learned in use."


def _kept_lines(store: ProfileStore) -> Iterator[str]:
    kept = store.list()
    if not kept:
        yield f"nothing is kept in {store.folder}"
    for item in kept:
        yield f"{item.path.name[:8]}  {_kept_text(item)}"


def _kept_text(item: KeptProfile) -> str:
    if item.profile is None:
        return "of no use: damaged or of another version"
    kind = "full" if item.profile.is_full else f"quick, {len(item.profile.points)} points"
    return (
        f"{item.model} · {item.profile.threads}/{item.profile.threads_batch} threads · "
        f"{item.profile.points[0].seconds * 1000:.2f} ms a token · {kind}"
    )


def _forget(store: ProfileStore, model: str | None) -> None:
    from sssd_local.hardware.profile import Setup, profile_key

    path = None if model is None else named_model(model, may_fetch=False)
    key = None if path is None else profile_key(path, Setup(), backend="")
    try:
        number = store.forget(key)
    except OSError as error:
        raise SSSDError(f"cannot remove a profile: {error.strerror or error}") from error
    click.echo(f"{number} profile{'' if number == 1 else 's'} removed")


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop, the second one ends the program."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)
