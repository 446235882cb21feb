"""The replay benchmark, on a model that loads in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench import replay as bench
from bench.__main__ import main
from bench.method import Method, Run, Setup
from bench.methods import SSSD, method_factory
from bench.replay import Options, busy_machine, fitting, needed_ctx, replay, rotated, run, summarise
from bench.traces import TokenTrace
from models.replay import ReplayFile, cached_replay_model
from models.tiny import write_tiny_llama
from sssd_local.errors import ConfigError, ModelError, SSSDError
from sssd_local.files import HOME_VARIABLE
from sssd_local.store.build import build_datastore

METHODS = (
    "plain,sssd,fixed-4,sssd-8,llama-cpp-python,llama-cpp-python-lookup,llama-cpp-python-lookup-2"
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, a traces file of two tasks and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("bench")
    write_tiny_llama(folder / "vocab.gguf")
    answers = {
        "copy/one": "the king and the queen and the king and the queen and the king and the queen",
        "copy/two": "in the town and in the town and in the town and in the town and in",
        "prose": "a strange old sailor was waiting near the harbour with his dog",
        "short": "no",
    }
    lines = [
        json.dumps(
            {
                "id": f"t{number}",
                "task": task,
                "messages": [{"role": "user", "content": f"write {number} the king and"}],
                "output": output,
            }
        )
        for number, (task, output) in enumerate(answers.items())
    ]
    (folder / "traces.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def options(folder: Path, **changes: Any) -> Options:
    chosen = Options(
        traces=(folder / "traces.jsonl",),
        vocab=folder / "vocab.gguf",
        size="tiny",
        quant="Q8_0",
        methods="llama-cpp-python",
        cache=folder / "cache",
        min_tokens=8,
        threads=1,
    )
    return replace(chosen, **changes)


class Fake:
    """Writes the text it saw when it was loaded, or when it runs, or something wrong."""

    def __init__(self, setup: Setup, mode: str, log: list[str]) -> None:
        self.name = mode
        self._path, self._mode, self._log = setup.model, mode, log
        self._seen = self._read() if mode == "blind" else None
        log.append(f"load {mode}")

    def _read(self) -> list[int]:
        """Every position's token, found by its code."""
        with ReplayFile(self._path) as file:
            codes = {
                file._code(np.array([token])).tobytes(): token for token in range(file.num_tokens)
            }
            return [codes.get(row.tobytes(), -1) for row in file._positions]

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        self._log.append(f"run {self._mode}")
        following = self._seen or self._read()
        text = following[len(prompt) - 1 : len(prompt) - 1 + max_tokens]
        if self._mode == "wrong":
            text[-1] += 1
        return Run(tuple(text), 0.5, max_tokens - 1, 0, 0)

    def close(self) -> None:
        self._log.append(f"close {self._mode}")


def fake_run(folder: Path, modes: Sequence[str], repeat: int = 1) -> tuple[list[Any], list[str]]:
    model = cached_replay_model(folder / "cache", folder / "vocab.gguf", "tiny", "Q8_0", 512)
    log: list[str] = []

    def loader(mode: str) -> bench.Load:
        def load(setup: Setup) -> Method:
            return Fake(setup, mode, log)

        return load

    traces = [
        TokenTrace("a", "x", (1, 5, 6), (7, 8, 9, 10)),
        TokenTrace("b", "y", (1, 5), (20, 21, 22)),
    ]
    setup = Setup(model=model, ctx=512, threads=1)
    return replay(traces, [loader(mode) for mode in modes], setup, repeat=repeat), log


def test_end_to_end(folder: Path) -> None:
    said: list[str] = []
    results, settings, limit = run(options(folder, methods=METHODS), said.append)

    names = METHODS.split(",")
    assert [(r.trace, r.method) for r in results] == [
        (f"t{number}", name) for number in range(3) for name in names
    ]
    assert all(result.identical for result in results)
    assert all(result.seconds > 0 for result in results)
    assert [result.task for result in results[:: len(names)]] == ["copy", "copy", "prose"]
    assert said[0] == limit.line()
    assert said[1:] == [result.line() for result in results]
    assert settings["traces"] == ["traces.jsonl"]
    assert settings["ctx"] == 256
    assert "cache" not in settings
    assert "llama_server" not in settings
    assert settings["command"] == options(folder, methods=METHODS).command

    by_method = {result.method: result for result in results if result.trace == "t0"}
    timed = by_method["plain"].tokens - 1
    for name in ("plain", "llama-cpp-python"):
        assert (by_method[name].steps, by_method[name].tested) == (timed, 0)
    for name in ("fixed-4", "sssd-8", "llama-cpp-python-lookup"):
        assert by_method[name].steps + by_method[name].accepted == timed
        assert 0 < by_method[name].accepted <= by_method[name].tested


def test_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["replay", "--traces", folder / "traces.jsonl", "--vocab", folder / "vocab.gguf"]
    arguments += ["--size", "tiny", "--quant", "Q8_0", "--methods", "plain,llama-cpp-python"]
    arguments += ["--per-task", 1, "--min-tokens", 8, "--out", out, "--threads", 1]
    arguments += ["--cache", folder / "cache", "--repeat", 2, "--kv-type", "f32"]
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])

    assert outcome.exit_code == 0, outcome.output
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(r["trace"], r["method"]) for r in data["runs"]] == [
        ("t0", "plain"),
        ("t0", "llama-cpp-python"),
        ("t2", "plain"),
        ("t2", "llama-cpp-python"),
    ]
    assert data["summary"]["plain"]["total_speedup"] == 1.0
    assert set(data["summary"]["llama-cpp-python"]["per_task"]) == {"copy", "prose"}
    assert data["machine"]["kv_type"] == "f32"
    assert (out / "results.md").read_text(encoding="utf-8").splitlines()[0] in outcome.output


def test_command_line_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    arguments = ["replay", "--traces", folder / "traces.jsonl", "--vocab", folder / "vocab.gguf"]
    arguments += ["--out", tmp_path / "out", "--methods", "sssdd"]
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert outcome.exit_code == 1
    assert "unknown method 'sssdd'; did you mean 'sssd'?" in outcome.output
    assert not (tmp_path / "out").exists()


def test_traces_that_do_not_fit_are_named(folder: Path) -> None:
    said: list[str] = []
    with pytest.raises(SSSDError, match="no trace is left to run"):
        run(options(folder, ctx=80), said.append)
    assert [line.partition(":")[0] for line in said] == ["skipped t0", "skipped t1", "skipped t2"]


def test_endless_loops_run_beside_it_and_end_with_it() -> None:
    psutil = pytest.importorskip("psutil")
    before = set(psutil.Process().children())
    with busy_machine(2):
        loops = set(psutil.Process().children()) - before
        assert len(loops) == 2
        assert all(loop.is_running() for loop in loops)
    assert not any(loop.is_running() for loop in loops)


def test_context_has_room_for_drafts() -> None:
    traces = [TokenTrace("a", "x", (1,) * 100, (2,) * 92), TokenTrace("b", "x", (1,), (2,))]
    assert needed_ctx(traces) == 256
    assert needed_ctx([TokenTrace("a", "x", (1,) * 100, (2,) * 93)]) == 512
    assert fitting(traces, 256) == (traces, [])
    assert fitting(traces, 255) == (traces[1:], traces[:1])


def test_who_goes_first_moves_on(folder: Path) -> None:
    _, log = fake_run(folder, ["sees", "other"], repeat=2)
    turns = [line.removeprefix("run ") for line in log if line.startswith("run ")]
    warm_up, first, second = turns[:2], turns[2:6], turns[6:]
    assert warm_up == ["sees", "other"]
    assert first == ["sees", "other", "other", "sees"]
    assert second == ["other", "sees", "sees", "other"]
    assert log[-2:] == ["close other", "close sees"]


def test_rotation() -> None:
    assert [rotated("abc", start) for start in (0, 1, 5)] == [list("abc"), list("bca"), list("cab")]


def test_a_model_that_cannot_see_a_new_text_is_loaded_again(folder: Path) -> None:
    results, log = fake_run(folder, ["sees", "blind"])
    assert all(result.identical for result in results)
    # Once at first, once in the warm-up, once for each trace.
    assert log.count("load blind") == log.count("close blind") == 4
    assert log.count("load sees") == 1


def test_a_model_that_does_not_give_the_text_back_is_an_error(folder: Path) -> None:
    with pytest.raises(ModelError, match="wrong does not give back the text set in"):
        fake_run(folder, ["wrong"])


def test_repeats_give_medians_and_all_must_be_identical() -> None:
    trace = TokenTrace("a", "x", (1, 2), (3, 4, 5))
    good = [Run((3, 4, 5), seconds, 2, 6, 1) for seconds in (3.0, 1.0, 2.0)]
    found = summarise(trace, "m", good)
    assert (found.seconds, found.tokens, found.tokens_per_second) == (2.0, 3, 1.0)
    assert (found.steps, found.tested, found.accepted, found.identical) == (2, 6, 1, True)
    assert found.line() == "a  x  m  3 tokens  1.0 tok/s"

    bad = summarise(trace, "m", [*good, Run((3, 4), 1.0, 1, 0, 0)])
    assert not bad.identical
    assert bad.line().endswith("NOT IDENTICAL")


def test_an_answer_broken_off_at_once_still_has_a_time() -> None:
    found = summarise(TokenTrace("a", "x", (1,), (3, 4)), "m", [Run((3,), 0.0, 0, 0, 0)])
    assert found.seconds > 0
    assert not found.identical


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ""}, "at least one method"),
        ({"methods": "plain,plain"}, "each only once"),
        ({"methods": "sssd-65"}, "width from 1 to 64"),
        ({"methods": "fixed-1"}, "fixed-1 drafts nothing"),
        ({"methods": "llama-server-ngram-mod"}, "needs --llama-server PATH"),
        ({"methods": "llama-server-ngram"}, "unknown method"),
        ({"methods": "sssd+a/b"}, "cannot name a datastore"),
        ({"methods": "fixed+x"}, "unknown method 'fixed.x'"),
        ({"methods": "sssd-wide"}, "unknown method 'sssd-wide'"),
        ({"kv_type": "q4_0"}, "kv_type must be one of f32, f16, q8_0"),
    ],
)
def test_impossible_options_are_refused(
    changes: dict[str, str], message: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        options(folder, **changes)


def test_a_method_keeps_its_name_and_stops_where_it_should(folder: Path) -> None:
    model = cached_replay_model(folder / "cache", folder / "vocab.gguf", "tiny", "Q8_0", 512)
    setup = Setup(model=model, ctx=256, threads=1)
    with ReplayFile(model) as file:
        file.set_text([7, 8, 9], 4)
    for name in ("sssd-2", "fixed-2", "llama-cpp-python-lookup-2"):
        method = method_factory(name)(setup)
        try:
            assert method.name == name
            assert method.run([1, 5, 6, 7], 2).token_ids == (7, 8)
            assert method.run([1, 5, 6, 7], 3).token_ids == (7, 8, 9)
        finally:
            method.close()


def test_a_datastore_of_the_same_tokenizer_is_drafted_from(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "known.txt"
    text.write_text("a strange old sailor was waiting near the harbour with his dog")
    build_datastore("known", folder / "vocab.gguf", [str(text)])
    results, _, _ = run(options(folder, methods="plain,sssd+known", per_task=1), lambda line: None)
    assert {result.method for result in results} == {"plain", "sssd+known"}
    assert all(result.identical for result in results)
    model = cached_replay_model(folder / "cache", folder / "vocab.gguf", "tiny", "Q8_0", 512)
    method = method_factory("sssd+known")(Setup(model=model, ctx=512, threads=1))
    assert isinstance(method, SSSD)
    with closing(method):
        assert [source.name for source in method._llm._engine.drafter._sources] == ["known"]


def test_the_command_can_be_given_again(folder: Path) -> None:
    chosen = options(folder, per_task=2, llama_server=folder / "llama server")
    assert chosen.command == (
        "python -m bench replay --traces traces.jsonl --vocab vocab.gguf --size tiny --quant Q8_0 "
        "--methods llama-cpp-python --per-task 2 --min-tokens 8 --threads 1 --repeat 1 "
        "--kv-type f16 --llama-server 'llama server'"
    )


def test_stopping_keeps_the_traces_that_are_done(folder: Path) -> None:
    model = cached_replay_model(folder / "cache", folder / "vocab.gguf", "tiny", "Q8_0", 512)
    traces = [TokenTrace(name, "x", (1, 5, 6), (7, 8, 9)) for name in "abc"]
    setup = Setup(model=model, ctx=512, threads=1)

    class Stops(Fake):
        """Stopped by the user in the turn of that number, the warm-up's included."""

        def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
            if self._log.count("run sees") == last:
                raise KeyboardInterrupt
            return super().run(prompt, max_tokens)

    said: list[str] = []
    last = 2
    loads: list[bench.Load] = [lambda setup: Stops(setup, "sees", log)]
    log: list[str] = []
    results = replay(traces, loads, setup, say=said.append)
    assert [result.trace for result in results] == ["a"]
    assert said[-1] == "stopped; the traces done so far are reported"
    last = 1
    log = []
    with pytest.raises(KeyboardInterrupt):
        replay(traces, loads, setup)
