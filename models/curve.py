"""The loss of a training run as a picture.

python -m models.curve FOLDER/log.jsonl models/loss.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sssd_local.plot import check_plot, new_figure

Points = list[tuple[float, float]]


@dataclass(slots=True)
class Curves:
    """Losses over millions of tokens: while training, and on held-out answers by kind."""

    training: Points = field(default_factory=list)
    validation: dict[str, Points] = field(default_factory=dict)


def curves_of(lines: Iterable[Mapping[str, Any]]) -> Curves:
    """The points of a log of `models.train`; where a run went on, later lines replace earlier."""
    training: dict[float, float] = {}
    validation: dict[str, dict[float, float]] = {}
    for line in lines:
        tokens = line["tokens"] / 1e6
        if "loss" in line:
            training[tokens] = line["loss"]
        for kind, loss in line.get("validation", {}).items():
            validation.setdefault(kind, {})[tokens] = loss
    by_kind = {kind: sorted(points.items()) for kind, points in validation.items()}
    return Curves(sorted(training.items()), by_kind)


def plot(curves: Curves, path: Path) -> None:
    """Draws all curves on a logarithmic axis; raises SSSDError where that cannot be written."""
    check_plot(path)
    figure, axes = new_figure(9, 5.5)
    axes.plot(*zip(*curves.training, strict=True), color="lightgrey", label="training")
    for number, (kind, points) in enumerate(curves.validation.items()):
        style = "-" if number < 10 else "--"
        axes.plot(*zip(*points, strict=True), style, linewidth=1.2, label=kind)
    axes.set(
        xlabel="tokens in millions",
        ylabel="loss per token",
        yscale="log",
        title="training, and held-out answers by kind",
    )
    axes.legend(ncols=2, fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    """Plots the log named first into the file named second."""
    log, path = map(Path, arguments)
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    plot(curves_of(lines), path)


if __name__ == "__main__":
    main(sys.argv[1:])
