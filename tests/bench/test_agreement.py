"""The probe against another timing: both see the same widths, and the figures are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import agreement
from bench.__main__ import main
from models.tiny import write_tiny_llama
from sssd_local.errors import SSSDError


def test_differences_are_relative_and_of_common_points() -> None:
    one = {(0, 1): 10.0, (0, 2): 22.0, (0, 4): 30.0, (64, 1): 5.0}
    two = {(0, 1): 10.0, (0, 2): 20.0, (0, 4): 40.0, (64, 2): 5.0}
    found = agreement.differences(one, two)
    assert found == {"points": 3, "median": pytest.approx(0.1), "largest": pytest.approx(0.25)}
    with pytest.raises(SSSDError, match="no point in common"):
        agreement.differences({(0, 1): 1.0}, {(1, 1): 1.0})


def test_the_other_timing_takes_every_batch_back(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m.gguf")
    wanted = [(0, 1), (0, 4), (32, 1), (32, 2)]
    found = agreement.independent(model, wanted, 1, 1, 2)
    assert sorted(found) == wanted
    assert all(milliseconds > 0 for milliseconds in found.values())


def test_a_probe_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SSSDError, match="there is no such file"):
        agreement.probe(tmp_path / "none.gguf", 1, 256)


def test_the_command_compares_three_curves(tmp_path: Path) -> None:
    vocab = write_tiny_llama(tmp_path / "v.gguf")
    out = tmp_path / "out.json"
    done = CliRunner().invoke(main, [
        "agreement", "--vocab", str(vocab), "--size", "tiny", "--quant", "Q8_0", "--threads", "1",
        "--ctx", "256", "--rounds", "1", "--cache", str(tmp_path / "c"), "--json", str(out),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    (found,) = json.loads(out.read_text())
    assert found["threads"] == found["threads_again"] == [1, 1]
    widths = {(point["context"], point["width"]) for point in found["points"]}
    assert {(0, 1), (0, 4), (0, 8)} <= widths
    assert found["probe_and_timing"]["points"] == len(widths)
    assert "| replay-tiny-Q8_0-4096-" in done.output
