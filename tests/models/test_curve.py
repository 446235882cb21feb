"""Curves of a training log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models import curve
from models.curve import Curves, curves_of
from sssd_local.errors import SSSDError

LINES = [
    {"step": 20, "tokens": 1_000_000, "loss": 5.0, "seconds": 1.0},
    {"step": 40, "tokens": 2_000_000, "loss": 3.0, "seconds": 2.0},
    {"step": 40, "tokens": 2_000_000, "validation": {"code": 2.5, "json": 2.0}},
    {"step": 40, "tokens": 2_000_000, "loss": 2.9, "seconds": 2.5},
    {"step": 60, "tokens": 3_000_000, "validation": {"code": 1.5, "json": 1.0}},
]


def test_later_lines_replace_earlier_ones_of_a_step() -> None:
    expected = Curves(
        [(1.0, 5.0), (2.0, 2.9)],
        {"code": [(2.0, 2.5), (3.0, 1.5)], "json": [(2.0, 2.0), (3.0, 1.0)]},
    )
    assert curves_of(LINES) == expected


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log, picture = tmp_path / "log.jsonl", tmp_path / "loss.svg"
    log.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    curve.main([str(log), str(picture)])
    assert "<svg" in picture.read_text()


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SSSDError, match=r"a plot is a \.png, \.svg, \.pdf file"):
        curve.plot(curves_of(LINES), tmp_path / "loss.txt")
