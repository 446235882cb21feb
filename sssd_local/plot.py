"""Pictures: what they need, and the cost curves of a probe."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sssd_local.errors import ConfigError, SSSDError

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raises SSSDError where no picture could be written, before anything is measured."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"a plot is a {', '.join(FORMATS)} file, not {path.name!r}")
    if not path.parent.is_dir():
        raise SSSDError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise SSSDError("a plot needs matplotlib: pip install 'sssd-local[bench]'") from error


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes; needs matplotlib, and no display."""
    figure = import_module("matplotlib.figure").Figure(
        figsize=(width, height), layout="constrained"
    )
    return figure, figure.subplots()


def plot_curves(report: Mapping[str, Any], path: Path) -> None:
    """Draws relative cost by width for each context length of a probe's report.

    Raises SSSDError when the file cannot be written.
    """
    figure, axes = new_figure(8, 5)
    lengths = sorted({point["context"] for point in report["points"]})
    for length in lengths:
        points = [point for point in report["points"] if point["context"] == length]
        widths = [point["width"] for point in points]
        costs = [point["relative"] for point in points]
        (line,) = axes.plot(widths, costs, "o-", markersize=4, label=f"after {length} tokens")
        chosen = report["chosen"].get(str(length))
        if chosen in widths:
            axes.plot(
                [chosen],
                [costs[widths.index(chosen)]],
                "s",
                markersize=11,
                fillstyle="none",
                color=line.get_color(),
            )
    top = max(point["relative"] for point in report["points"]) * 1.05
    axes.plot([1, top], [1, top], ":", color="grey", label="one by one")
    axes.set(
        xlabel="width of the verify batch in tokens",
        ylabel="cost in one-token steps",
        xlim=(0, max(point["width"] for point in report["points"]) + 1),
        ylim=(0, top),
        title=f"{report['model']}\n{report['device']} · squares: width chosen for good drafts",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise SSSDError(f"cannot write {path}: {error.strerror or error}") from error
