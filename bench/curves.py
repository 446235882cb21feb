"""What a verify batch costs by its width, on machines measured or assumed (curves.json)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sssd_local.errors import ConfigError, SSSDError

Float64Array = NDArray[np.float64]

MAX_WIDTH = 64
# Curves of probes are read where the shipped ones were measured.
CONTEXT_TOKENS = 256
CURVES_FILE = Path(__file__).with_name("curves.json")


def curve_names() -> list[str]:
    """The names of the curves that come with the benchmark."""
    return list(json.loads(CURVES_FILE.read_text(encoding="utf-8")))


def load_curve(name: str) -> Float64Array:
    """Costs of widths 1 to 64 relative to width 1, float64 [64]; linear between given widths.

    `name` is one of `curve_names()` or a JSON file: {"relative_cost": {width: cost}} or the inner
    object alone, what `sssd-local probe --json` prints, or a kept profile. Raises SSSDError for
    what cannot be read as a curve.
    """
    known = json.loads(CURVES_FILE.read_text(encoding="utf-8"))
    if name in known:
        return parse_curve(known[name], name)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"there is no cost curve {name!r}; use a JSON file or one of {', '.join(known)}"
        )
    try:
        return parse_curve(json.loads(path.read_text(encoding="utf-8")), name)
    except (OSError, ValueError) as error:
        raise SSSDError(f"cannot read the cost curve {name}: {error}") from error


def parse_curve(data: object, name: str) -> Float64Array:
    """The curve a JSON value describes; widths beyond the last one cost in proportion."""
    points = data.get("relative_cost", data) if isinstance(data, dict) else None
    try:
        if isinstance(data, dict) and isinstance(data.get("points"), list):
            points = _measured(data["points"])
        costs = {int(width): float(cost) for width, cost in dict(points or {}).items()}
    except (TypeError, ValueError, KeyError, IndexError):
        costs = {}
    if 1 not in costs or not all(w >= 1 and 0 < c < np.inf for w, c in costs.items()):
        raise ConfigError(f"{name}: a cost curve maps widths, 1 among them, to positive costs")
    widths = sorted(costs)
    curve = np.interp(np.arange(1, MAX_WIDTH + 1), widths, [costs[width] for width in widths])
    last = widths[-1]
    if last < MAX_WIDTH:
        curve[last:] = costs[last] * np.arange(last + 1, MAX_WIDTH + 1) / last
    return np.asarray(curve / curve[0], np.float64)


def _measured(points: Sequence[Any]) -> dict[int, float]:
    """Times by width at the measured context nearest to CONTEXT_TOKENS.

    A point is {"context", "width", "ms"} of a probe, or [context, width, seconds, …] of a profile.
    """
    known = [
        (point["context"], point["width"], point["ms"]) if isinstance(point, dict) else point[:3]
        for point in points
    ]
    nearest = min((context for context, _, _ in known), key=lambda at: abs(at - CONTEXT_TOKENS))
    return {width: cost for context, width, cost in known if context == nearest}
