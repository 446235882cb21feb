"""Replays with the published settings on cost curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.published import Counts, replay, table
from bench.traces import TokenTrace
from models.tiny import write_tiny_llama

TEXT = tuple(range(100, 140))
COPY = TokenTrace("a", "copying", (1, *TEXT, 2, 3, 4), TEXT)
FRESH = TokenTrace("b", "fresh", (1, 2, 3), tuple(range(200, 220)))
FLAT = np.ones(64)


def test_what_was_never_seen_is_decoded_plainly() -> None:
    counts = replay([FRESH], 8)
    assert (counts.tokens, counts.accepted, counts.tokens_per_step) == (19, 0, 1.0)
    assert counts.widths[1] == 19
    assert counts.speedup(FLAT) == 1.0


def test_copies_are_as_long_as_the_windows_allow() -> None:
    counts = replay([COPY], 32)
    # One token is known, then four, as four of a window's eight are the match.
    assert counts.tokens == 39
    assert counts.accepted + counts.widths.sum() == 39
    assert counts.tokens_per_step > 4
    assert counts.speedup(FLAT) == pytest.approx(counts.tokens_per_step)
    assert counts.speedup(np.arange(1.0, 65.0)) <= 1.0


def test_nothing_replayed() -> None:
    counts = replay([], 8)
    assert (counts.tokens, counts.speedup(FLAT), counts.tokens_per_step) == (0, 1.0, 0.0)


def test_table() -> None:
    widths = np.zeros(65, np.int64)
    widths[8] = 10
    assert (
        table([Counts(8, 20, 10, widths)], ["laptop"]).splitlines()[2].startswith("| 8 | 2.000 |")
    )


def test_command_line(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "vocab.gguf")
    record = {
        "id": "t",
        "task": "copy",
        "messages": [{"role": "user", "content": "the king and the queen and the town"}],
        "output": "the king and the queen and the town and the king and the queen",
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(record), encoding="utf-8")
    arguments = ["published", "--traces", tmp_path / "t.jsonl", "--vocab", tmp_path / "vocab.gguf"]
    arguments += ["--curve", "cuda", "--curve", "apple", "--json", tmp_path / "out.json"]
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    lines = [line for line in outcome.output.splitlines() if line.startswith("|")]
    assert lines[0] == "| width | tokens per step | cuda | apple |"
    assert [line.split()[1] for line in lines[2:]] == ["8", "32"]
    report = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert list(report) == ["8", "32"]
    assert set(report["8"]["speedup"]) == {"cuda", "apple"}
    assert report["8"]["tokens_per_step"] >= 1

    outcome = CliRunner().invoke(main, [*map(str, arguments[:5]), "--curve", "none"])
    assert outcome.exit_code == 1
    assert "there is no cost curve 'none'" in outcome.output
