"""Replaying with more and less knowledge, and the two commands that do so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench import history, recycle
from bench import traces as recorded
from bench.__main__ import main
from bench.answers import write_answers
from bench.compare import Outcome, compare, gain, markdown
from bench.curves import curve_names
from bench.knowledge import CONTEXT_ALONE, Knowledge, known, text_of
from bench.tally import Tally
from bench.traces import TokenTrace

ANSWER = tuple(range(10, 50))
TRACE = TokenTrace("a", "t", (1, 2, 3), ANSWER, np.array(ANSWER, np.int32)[:, None])


def outcome(name: str, speedup: float, per_step: float) -> Outcome:
    curve = Tally(tokens=100, steps=50, cost=100 / speedup)
    return Outcome(name, {"cuda": curve}, Tally(tokens=round(1000 * per_step), steps=1000))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_gains_and_tables_read_well() -> None:
    assert [gain(1.15, 1.0), gain(0.995, 1.0)] == ["+15.0 %", "-0.5 %"]
    assert markdown([["a", "b"], ["c", "1"]]) == "| a | b |\n| --- | ---: |\n| c | 1 |\n"


def test_a_history_that_is_not_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="of no use"):
        Knowledge(history=(TRACE,))


def test_a_datastore_holds_each_text_as_an_entry() -> None:
    found = known([TRACE, TRACE], datastore=True, keep=False)
    assert found.num_vocab == 50
    assert found.segment is not None
    entry = [1, 2, 3, *ANSWER, 50]
    assert found.segment.tokens.tolist() == [50, *entry, *entry]
    assert text_of(TRACE).tolist() == entry[:-1]
    # A token at the end of a text is followed by none.
    assert len(found.segment.order) == 2 * (len(entry) - 2)


def test_each_kind_starts_cold_on_each_curve() -> None:
    said: list[str] = []
    kinds = {"alone": CONTEXT_ALONE, "known": known([TRACE], datastore=True, keep=False)}
    found = compare([TRACE], kinds, ["cuda", "apple"], num_nodes=8, say=said.append)
    assert said[:3] == ["alone, cuda", "alone, apple", "alone, 8 nodes"]
    alone, stored = found
    assert alone.on_curves["cuda"].speedup == 1.0
    assert stored.on_curves["cuda"].speedup > 1.5
    assert stored.forced is not None
    assert stored.forced.tokens_per_step > 2
    row = stored.as_dict()
    assert row["knowledge"] == "known"
    assert row["forced_tokens_per_step"] == stored.forced.tokens_per_step
    assert compare([TRACE], kinds, [])[0].as_dict()["forced_tokens_per_step"] is None


def test_recycling_is_measured_against_the_same_without() -> None:
    numbers = {"emptied": 1.0, "emptied, recycling": 1.1, "kept": 2.0, "kept, recycling": 2.5}
    found = [outcome(name, value, value) for name, value in numbers.items()]
    assert recycle.table(found).splitlines() == [
        "| knowledge | tokens/step | cuda |",
        "| --- | ---: | ---: |",
        "| emptied | 1.000 | 1.000 |",
        "| emptied, recycling | 1.100 | 1.100 |",
        "| kept | 2.000 | 2.000 |",
        "| kept, recycling | 2.500 | 2.500 |",
        "| recycling, emptied | +10.0 % | +10.0 % |",
        "| recycling, kept | +25.0 % | +25.0 % |",
    ]


def test_recycle_command(tmp_path: Path) -> None:
    file, out = tmp_path / "m.npz", tmp_path / "out"
    write_answers(file, [TRACE, TRACE], model="m", num_vocab=60)
    result = invoke("recycle", "--traces", file, "--nodes", 4, "--out", out)
    assert result.exit_code == 0, result.output
    assert "m: 2 answers of 80 tokens; tokens per step with 4 nodes" in result.output
    assert (out / "recycle.md").read_text("utf-8") == result.output
    found = json.loads((out / "recycle.json").read_text("utf-8"))
    assert found["num_nodes"] == 4
    assert [row["knowledge"] for row in found["models"]["m"]] == list(recycle.KINDS)
    assert list(found["models"]["m"][0]["curves"]) == curve_names()
    kept = {row["knowledge"]: row["forced_tokens_per_step"] for row in found["models"]["m"]}
    assert kept["kept"] > kept["emptied"] == 1.0
    file.write_bytes(b"")
    result = invoke("recycle", "--traces", file)
    assert (result.exit_code, "no file of recorded answers" in result.output) == (1, True)


def test_history_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "vocabulary_tokenizer", lambda _: lambda t, _b: [*t.encode()])
    file, out = tmp_path / "t.jsonl", tmp_path / "h.json"
    row = {"id": "1", "task": "a", "messages": [{"role": "user", "content": "?"}]}
    file.write_text(json.dumps({**row, "output": "abcdefghijklmnopqrstuvwxyz"}), encoding="utf-8")
    given = ["history", "--traces", file, "--history", file, "--vocab", file]
    result = invoke(*given, "--kept", "--curve", "cuda", "--json", out)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "1 answers; a history of 1 texts, 44 tokens"
    assert lines[2].startswith(f"| curve | tokens/step, {history.ALONE} | {history.DATASTORE} |")
    assert lines[4].startswith("| cuda | 1.000 |")
    found = json.loads(out.read_text("utf-8"))["kinds"]
    assert [kind["knowledge"] for kind in found] == [
        history.ALONE,
        history.DATASTORE,
        history.KEPT,
    ]
    assert found[1]["curves"]["cuda"]["tokens_per_step"] > 2
    assert invoke(*given[:-2]).exit_code == 1


def test_history_shows_gains_over_the_context_alone() -> None:
    found = [outcome("context alone", 1.0, 1.0), outcome("datastore", 1.2, 1.0)]
    assert history.table(found).splitlines()[2] == (
        "| cuda | 2.000 | 2.000 (+0.0 %) | 1.000 | 1.200 (+20.0 %) |"
    )
