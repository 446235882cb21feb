"""The two plots of a replay benchmark, as PNG and SVG; they need matplotlib (the `bench` extra)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.limit import Limit
from bench.methods import METHODS
from sssd_local.plot import new_figure

KINDS = ("png", "svg")
DPI = 150
# A limit further out than this times the best mark would squeeze all marks together.
ROOM_FOR_LIMIT = 1.5
MARKERS = "os^DvPX*<>h"
# Distinguishable for the colour-blind, and in grey by their markers.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
    "#000000", "#8c564b", "#7f7f7f", "#bcbd22", "#6a3d9a", "#b2182b", "#1b7837",
)  # fmt: skip
# Each method looks the same in all plots; these first, others after them.
KNOWN = (*METHODS, "sssd-8", "sssd-32")
# Where no mark is further left than this, the axis begins there.
NEAR_ONE = 0.7


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_by_task(summary: Mapping[str, Mapping[str, Any]], limit: float, stem: Path) -> list[Path]:
    """Speed-up by task and method: a row per task, a mark per method; returns the files.

    `summary` is that of `bench.report.summary`, `limit` the machine's.
    """
    tasks = list(next(iter(summary.values()))["per_task"])
    rows = [*tasks, "total"]
    figure, axes = new_figure(9.0, 1.2 + 0.2 * len(rows) * max(4, len(summary)) ** 0.75)
    styles = _styles(summary)
    slots = np.linspace(-0.34, 0.34, len(summary)) if len(summary) > 1 else [0.0]
    for number, (method, found) in enumerate(summary.items()):
        values = [*(found["per_task"][task] for task in tasks), found["total_speedup"]]
        places = np.arange(len(rows)) + slots[number]
        axes.plot(values, places, linestyle="", label=method, **styles[method])
    for row in range(len(rows) - 1):
        axes.axhline(row + 0.5, color="0.85", linewidth=0.8)
    axes.axvline(1.0, color="0.3", linewidth=1.0)
    most = 1.15 * max(1.0, *(max(found["per_task"].values()) for found in summary.values()))
    off = ", off the plot" if limit > ROOM_FOR_LIMIT * most else ""
    label = f"machine's limit, {limit:.2f}{off}"
    axes.axvline(limit, color="0.3", linewidth=1.0, linestyle="--", label=label)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    least = min(min(found["per_task"].values()) for found in summary.values())
    axes.set_xlim(NEAR_ONE if least > NEAR_ONE else 0.0, most if off else max(most, 1.05 * limit))
    axes.set_xlabel("speed-up over plain decoding (decode time only)")
    axes.grid(axis="x", color="0.92")
    return _save(figure, axes, stem)


def plot_against_limit(
    points: Mapping[str, Sequence[tuple[float, float]]], limit: Limit, stem: Path
) -> list[Path]:
    """Speed-up over tokens per step, a mark per method and task, under the machine's limit.

    The line is what steps of so many tokens bring when every tested token is accepted; the
    distance below it was spent on drafts that did not come true and on drafting itself.
    """
    figure, axes = new_figure(9.0, 5.5)
    reached = max((x for marks in points.values() for x, _ in marks), default=1.0)
    end = min(max(limit.costs), max(1.2, 1.1 * reached))
    steps = np.linspace(1.0, end, 200)
    axes.plot(
        steps, [limit.at(float(x)) for x in steps], color="0.3", linestyle="--",
        label="machine's limit",
    )  # fmt: skip
    styles = _styles(points)
    for method, marks in points.items():
        across, up = zip(*marks, strict=True)
        axes.plot(across, up, linestyle="", label=method, **styles[method])
    axes.axhline(1.0, color="0.3", linewidth=1.0)
    axes.set_xlim(0.95, end)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("tokens per step")
    axes.set_ylabel("speed-up over plain decoding")
    axes.grid(color="0.92")
    return _save(figure, axes, stem)


def _styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    names = [*KNOWN, *(method for method in methods if method not in KNOWN)]
    return {
        name: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 6,
        }
        for number, name in enumerate(names)
    }


def _save(figure: Any, axes: Any, stem: Path) -> list[Path]:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in KINDS]
    for file in files:
        # A date in the file would make every run a change.
        no_date = {"Date": None} if file.suffix == ".svg" else {}
        figure.savefig(file, dpi=DPI, metadata=no_date)
    return files
