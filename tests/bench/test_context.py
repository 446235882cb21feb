"""What a context costs the drafter: how long ones are made, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.answers import write_answers
from bench.context import Figures, bytes_held, measure, table, with_context, with_runner_ups
from bench.curves import load_curve
from bench.traces import TokenTrace
from sssd_local.draft.context import ContextIndex
from sssd_local.draft.tree import TokenSource
from sssd_local.errors import ConfigError


def traces(count: int, length: int) -> list[TokenTrace]:
    random = np.random.default_rng(0)
    ids = [tuple(random.integers(0, 40, length).tolist()) for _ in range(2 * count)]
    return [TokenTrace(str(n), "t", ids[2 * n][:5], ids[2 * n + 1]) for n in range(count)]


def test_answers_come_after_other_traces_and_their_prompt() -> None:
    first, second, third = traces(3, 20)
    one, two = with_context([first, second, third], 2, 12)
    assert one.prompt == (*first.answer[-7:], *second.prompt)
    assert two.prompt == (*first.answer[-7:], *third.prompt)
    assert (one.answer, two.answer) == (second.answer, third.answer)
    (bare,) = with_context([first], 1, 5)
    assert bare.prompt == first.prompt
    for num_answers, num_tokens in ((4, 12), (2, 31), (2, 4)):
        with pytest.raises(ConfigError, match="cannot be made of"):
            with_context([first, second, third], num_answers, num_tokens)


def test_made_up_runner_ups_begin_with_the_right_token() -> None:
    (found,) = with_runner_ups(traces(1, 30))
    assert found.runner_ups is not None
    assert found.runner_ups.shape == (30, 8)
    assert found.runner_ups[:, 0].tolist() == list(found.answer)
    assert set(found.runner_ups.ravel().tolist()) <= set(found.answer)


def test_bytes_are_those_of_tables_that_have_grown() -> None:
    text = np.random.default_rng(0).integers(0, 500, 20_000).astype(np.int32)
    index = ContextIndex()
    index.extend(text[:-1], TokenSource.PROMPT)
    index.append(int(text[-1]), TokenSource.OUTPUT)
    tables, fixed = bytes_held(text)
    assert tables == index.nbytes
    assert 37 * 20_000 < tables <= 64 * 20_000
    assert fixed > 0
    assert bytes_held(text[:100])[0] == ContextIndex().nbytes


def test_measuring_counts_every_step() -> None:
    chosen = with_context(traces(4, 50), 2, 60)
    found = measure(chosen, load_curve("cuda"))
    assert (found.context_tokens, found.table_bytes) == (60, ContextIndex().nbytes)
    assert 0 < found.steps <= 2 * 49
    assert 0 < found.draft_us_median <= found.draft_us_p99


def test_table_for_people() -> None:
    found = Figures(32768, 32768 * 40, 2_500_000, 10, 120.4, 400.0)
    assert table([found]).splitlines()[2] == "| 32,768 | 40.0 | 2.5 MB | 120 | 400 | 10 |"


def test_command_line(tmp_path: Path) -> None:
    file, out = tmp_path / "a.npz", tmp_path / "out.json"
    write_answers(file, with_runner_ups(traces(6, 50)), model="m", num_vocab=40)
    given = ["context", "--traces", file, "--tokens", 30, "--tokens", 100, "--answers", 2]
    given += ["--history", file, "--runner-ups", "--json", out]
    result = CliRunner().invoke(main, list(map(str, given)))
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text("utf-8"))["figures"]
    assert [row["context_tokens"] for row in figures] == [30, 100]
    assert figures[0]["bytes_per_token"] == figures[0]["table_bytes"] / 30
    assert len(result.output.splitlines()) == 4
    few = CliRunner().invoke(main, ["context", "--traces", str(file)])
    assert (few.exit_code, "cannot be made of them" in few.output) == (1, True)
