"""llama-server as a peer, with a stand-in for the program."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.method import Run, Setup
from bench.peers_server import (
    SPECULATION_TYPES,
    LlamaServer,
    arguments,
    free_port,
    request,
    run_of,
    server_version,
)
from sssd_local.errors import ConfigError, ModelError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")
SCRIPT = Path(__file__).with_name("fake_server.py")


def setup(folder: Path, mode: str = "fine") -> Setup:
    """A model that is only a name, what the stand-in writes, and a program that starts it."""
    program = folder / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{SCRIPT}" "$@"\n')
    program.chmod(0o755)
    facts = {"tokens": [5, 6, 7, 8, 9], "mode": mode}
    (folder / "m.fake.json").write_text(json.dumps(facts))
    return Setup(model=folder / "m.gguf", ctx=512, threads=3, llama_server=program)


def starts(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "m.starts").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_plain_server_answers_many_times(tmp_path: Path) -> None:
    server = LlamaServer("llama-server", setup(tmp_path))
    try:
        first = server.run([1, 2], 4)
        assert first == Run((5, 6, 7, 8), 0.05, 3, 0, 0)
        assert server.run([1, 2], 1) == Run((5,), 0.05, 0, 0, 0)
    finally:
        server.close()
    (options,) = starts(tmp_path)
    assert options["--spec-type"] == "none"
    assert (options["--ctx-size"], options["--threads"], options["--threads-batch"]) == (
        "512",
        "3",
        "3",
    )


def test_a_server_that_drafts_starts_anew_for_each_answer(tmp_path: Path) -> None:
    server = LlamaServer("m", setup(tmp_path), "ngram-mod")
    try:
        assert [server.run([1], 5) for _ in range(2)] == [Run((5, 6, 7, 8, 9), 0.05, 2, 9, 2)] * 2
    finally:
        server.close()
    assert [options["--spec-type"] for options in starts(tmp_path)] == ["ngram-mod"] * 2


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("broken", "m did not start: error: the model is sour"),
        ("refuses", "m refused to answer: too sour"),
        ("timeless", r"m did not answer \(KeyError\('timings'\)\)"),
    ],
)
def test_what_goes_wrong_is_told(tmp_path: Path, mode: str, message: str) -> None:
    server = LlamaServer("m", setup(tmp_path, mode))
    try:
        with pytest.raises(ModelError, match=message):
            server.run([1], 2)
    finally:
        server.close()


def test_a_program_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the method x needs --llama-server PATH"):
        LlamaServer("x", Setup(model=tmp_path, ctx=8, threads=1))


def test_version(tmp_path: Path) -> None:
    program = setup(tmp_path).llama_server
    assert program is not None
    assert server_version(program) == "version: 7 (fake); built with care"
    with pytest.raises(ConfigError, match="cannot be run as llama-server"):
        server_version(tmp_path / "missing")


def test_the_cache_type_decides_on_flash_attention() -> None:
    for kv_type, flash in (("f16", "off"), ("f32", "off"), ("q8_0", "on")):
        words = arguments(Setup(model=Path("m"), ctx=9, threads=1, kv_type=kv_type), "none", 80)
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert options["--flash-attn"] == flash
        assert options["--cache-type-k"] == options["--cache-type-v"] == kv_type


def test_requests_are_greedy_and_reuse_nothing() -> None:
    body = request((1, 2), 7)
    assert (body["prompt"], body["n_predict"], body["temperature"]) == ([1, 2], 7, 0)
    assert body["cache_prompt"] is False


def test_a_draft_that_reaches_past_the_end_is_cut() -> None:
    times = {"predicted_ms": 10.0, "draft_n": 48, "draft_n_accepted": 12}
    assert run_of({"tokens": [1, 2, 3], "timings": times}) == Run((1, 2, 3), 0.01, 1, 48, 2)
    assert run_of({"tokens": [], "timings": times}).steps == 0


def test_ports_and_types() -> None:
    assert 0 < free_port() < 65536
    assert len(SPECULATION_TYPES) == 5
