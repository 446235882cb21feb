"""The plots: files of both kinds, and what stands in them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.limit import Limit
from bench.plots import COLOURS, KNOWN, MARKERS, _styles, can_plot, plot_against_limit, plot_by_task

pytest.importorskip("matplotlib")

LIMIT = Limit({1: 1.0, 4: 2.0, 8: 3.0}, 0.02)
SUMMARY = {
    "plain": {"per_task": {"qa": 1.0, "code": 1.0}, "total_speedup": 1.0},
    "sssd": {"per_task": {"qa": 1.1, "code": 1.6}, "total_speedup": 1.3},
}


def comments(path: Path) -> str:
    """An SVG's texts: matplotlib draws glyphs and writes what they spell beside them."""
    text = path.read_text("utf-8")
    ET.fromstring(text)
    return text


def test_by_task(tmp_path: Path) -> None:
    files = plot_by_task(SUMMARY, 2.0, tmp_path / "by-task")
    assert [file.name for file in files] == ["by-task.png", "by-task.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    text = comments(files[1])
    for word in ("qa", "code", "total", "plain", "sssd", "machine's limit, 2.00"):
        assert f"<!-- {word} -->" in text
    assert "dc:date" not in text


def test_a_limit_far_out_is_told_instead_of_drawn(tmp_path: Path) -> None:
    _, svg = plot_by_task(SUMMARY, 4.0, tmp_path / "x")
    assert "<!-- machine's limit, 4.00, off the plot -->" in comments(svg)


def test_against_limit(tmp_path: Path) -> None:
    points = {"plain": [(1.0, 1.0)], "sssd": [(1.2, 1.1), (2.5, 1.4)]}
    _, svg = plot_against_limit(points, LIMIT, tmp_path / "limit")
    for word in ("tokens per step", "machine's limit", "plain", "sssd"):
        assert f"<!-- {word} -->" in comments(svg)


def test_every_method_has_a_look_of_its_own() -> None:
    assert can_plot()
    looks = {(n % len(COLOURS), n % len(MARKERS)) for n in range(len(COLOURS) * len(MARKERS))}
    assert len(looks) == len(COLOURS) * len(MARKERS)


def test_a_method_looks_the_same_in_all_plots() -> None:
    some, all_of_them = _styles(["sssd", "fixed-4"]), _styles([*KNOWN, "fixed-4"])
    assert some["sssd"] == all_of_them["sssd"]
    looks = {(style["color"], style["marker"]) for style in all_of_them.values()}
    assert len(looks) == len(KNOWN) + 1
    assert {style["color"] for name, style in all_of_them.items() if name in KNOWN} == set(COLOURS)
