"""Stages of a step: all of them are timed, and everything is put back."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import overhead
from bench.__main__ import main
from bench.overhead import KINDS, STAGES, Stopwatch, medians, replaced, table, watch
from models.tiny import write_tiny_llama
from sssd_local.engine import decode
from sssd_local.engine.output import Output
from sssd_local.llm import LLM


def test_a_stopwatch_adds_up_and_puts_back() -> None:
    owner = types.SimpleNamespace(double=lambda number: 2 * number)
    before = owner.double
    clock = Stopwatch()
    clock.wrap(owner, "double", "d")
    assert owner.double(4) == 8
    once = clock.step["d"]
    owner.double(1)
    assert clock.step["d"] > once > 0
    clock.close()
    assert owner.double is before


def test_a_method_of_the_class_is_found_again() -> None:
    class Thing:
        def name(self) -> str:
            return "own"

    thing = Thing()
    with replaced(thing, "name", lambda: "other"):
        assert thing.name() == "other"
    assert "name" not in vars(thing)
    assert thing.name() == "own"


def test_watching_an_engine_leaves_no_trace(tiny_model: Callable[..., Path]) -> None:
    verify, emit = decode.verify, Output.emit
    with LLM(tiny_model(), ctx=128, threads=1, speculation=4) as llm, llm.engine() as engine:
        held = set(vars(engine))
        clock = watch(engine)
        assert decode.verify is not verify
        clock.close()
        assert set(vars(engine)) == held
    assert (decode.verify, Output.emit) == (verify, emit)


def test_medians_are_over_the_steps_that_have_a_stage() -> None:
    steps = [{"all": 3e-6, "draft": 1e-6}, {"all": 5e-6}, {"all": 4e-6}]
    found = medians(steps)
    assert found == {"steps": 3.0, "all": pytest.approx(4.0), "draft": pytest.approx(1.0)}
    lines = table({"plain": found, "drafted": {"steps": 0.0}}).splitlines()
    assert lines[0] == "| µs a step (median) | plain | drafted |"
    assert lines[2] == "| **all outside llama_decode** | 4 | – |"
    assert lines[4] == "| draft | 1 | – |"
    assert lines[-1] == "| steps | 3 | 0 |"


def test_command_line(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "vocab.gguf")
    record = {
        "id": "t",
        "task": "copy",
        "messages": [{"role": "user", "content": "the king and the queen and the town"}],
        "output": "the king and the queen and the town " * 6,
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(record), encoding="utf-8")
    arguments = ["overhead", "--traces", tmp_path / "t.jsonl", "--vocab", tmp_path / "vocab.gguf"]
    arguments += ["--size", "tiny", "--quant", "Q8_0", "--cache", tmp_path, "--min-tokens", 20]
    arguments += ["--threads", 1, "--json", tmp_path / "out.json"]
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert list(found) == list(KINDS)
    assert {"all", "drafter.draft", *STAGES} <= set(found["undrafted"])
    assert found["plain"]["steps"] == found["undrafted"]["steps"] > 0
    assert "drafter.draft" not in found["plain"]

    few = [*map(str, arguments[:-2]), "--min-tokens", "9999"]
    outcome = CliRunner().invoke(main, few)
    assert (outcome.exit_code, "no trace is left to run" in outcome.output) == (1, True)


def test_the_kinds_are_those_told() -> None:
    assert overhead.KINDS == {"plain": (1, None), "undrafted": (None, 0), "drafted": (None, 3)}
