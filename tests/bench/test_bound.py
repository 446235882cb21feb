"""Sizing against hindsight, by recorded answers and by answers drawn from the odds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.bound import Bound, Rate, bound, drawn_path, table
from bench.traces import TokenTrace
from sssd_local.draft.tree import empty_tree, tree_from_lists

STEPS = np.array([1.0, 1.5, 1.6, 5.0])
COPY = TokenTrace("a", "copy", (1, *range(100, 150), 2), tuple(range(100, 150)))


def test_hindsight_takes_the_best_of_what_is_right() -> None:
    rate = Rate()
    rate.add(1, [0, 2, 4], STEPS)
    assert (rate.tokens, rate.cost) == (2, 1.5)
    # Two right nodes bring 3 tokens for 1.6; a third would cost 5.
    assert (rate.hindsight_tokens, rate.hindsight_cost) == (3, 1.6)
    rate.add(2, [], STEPS)
    assert (rate.tokens, rate.cost) == (3, pytest.approx(3.1))
    assert (rate.hindsight_tokens, rate.hindsight_cost) == (4, pytest.approx(2.6))
    assert rate.share == pytest.approx((3 / 3.1) / (4 / 2.6))
    assert (Rate().speedup, Rate().limit) == (1.0, 1.0)


def test_paths_are_drawn_by_the_odds_of_the_nodes() -> None:
    tree = tree_from_lists(
        [5, 6, 7, 8], [-1, 0, -1, 1], [0.5, 0.4, 0.25, 0.1], [1, 1, 1, 1], [0, 0, 0, 0]
    )
    random = np.random.default_rng(1)
    paths = [tuple(drawn_path(tree, random)) for _ in range(4000)]
    assert set(paths) == {(), (0,), (0, 1), (0, 1, 3), (2,)}
    reached = [sum(node in path for path in paths) / len(paths) for node in range(4)]
    assert reached == pytest.approx([0.5, 0.4, 0.25, 0.1], abs=0.03)
    assert drawn_path(empty_tree(), random) == []


def test_a_copy_is_rated_in_both_worlds() -> None:
    found = bound([COPY], np.linspace(1.0, 2.0, 64))
    assert found.recorded.speedup > 5
    assert found.recorded.limit >= found.recorded.speedup
    assert 0 < found.drawn.share <= 1
    again = bound([COPY], np.linspace(1.0, 2.0, 64))
    assert again == found


def test_the_table() -> None:
    item = Bound(Rate(30, 20.0, 40, 20.0), Rate(3, 2.0, 2, 1.0))
    assert table({"cuda": item}).splitlines()[-1] == "| cuda | 1.500 | 2.000 | 75.0% | 75.0% |"


def test_the_command(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    traces, out = tmp_path / "t.jsonl", tmp_path / "out.json"
    text = "the king and the queen and the town " * 4
    record = {"id": "t", "task": "copy", "messages": [{"role": "user", "content": text}]}
    traces.write_text(json.dumps({**record, "output": text}), encoding="utf-8")
    words = ["bound", "--traces", str(traces), "--vocab", str(tiny_model()), "--json", str(out)]
    result = CliRunner().invoke(main, [*words, "--curve", "cuda", "--curve", "apple"])
    assert result.exit_code == 0, result.output
    assert result.output.count("\n| ") >= 2
    content = json.loads(out.read_text())
    assert list(content) == ["cuda", "apple"]
    assert content["cuda"]["recorded"]["tokens"] > 0
    wrong = CliRunner().invoke(main, [*words, "--curve", "nowhere"])
    assert (wrong.exit_code, "no cost curve 'nowhere'" in wrong.output) == (1, True)
