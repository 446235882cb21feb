"""Files of recorded answers: what was written is read, and nothing else."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.answers import read_answers, write_answers
from bench.traces import TokenTrace, load_traces
from sssd_local.errors import ConfigError

NUM_VOCAB = 50
tokens = st.lists(st.integers(0, NUM_VOCAB - 1), max_size=6).map(tuple)


def answer(name: str, prompt: tuple[int, ...], ids: tuple[int, ...], width: int = 3) -> TokenTrace:
    rows = np.arange(len(ids) * width, dtype=np.int32).reshape(-1, width) % NUM_VOCAB
    return TokenTrace(name, f"task of {name}", prompt, ids, rows)


def write(path: Path, *answers: TokenTrace) -> Path:
    write_answers(path, answers, model="m.gguf", num_vocab=NUM_VOCAB)
    return path


@given(st.lists(st.tuples(st.text("aé:/ 1", max_size=4), tokens, tokens), min_size=1, max_size=4))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, given_answers: list[Any]
) -> None:
    answers = [answer(*parts) for parts in given_answers]
    found = read_answers(write(tmp_path_factory.mktemp("a") / "a.npz", *answers))
    assert found == answers
    for new, old in zip(found, answers, strict=True):
        assert new.runner_ups is not None
        assert new.runner_ups.dtype == np.int32
        assert new.runner_ups.tolist() == old.runner_ups.tolist()  # type: ignore[union-attr]


def test_traces_are_loaded_from_both_kinds_of_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", answer("a", (1,), (2,)), answer("b", (1,), (2, 3, 4)))
    assert [trace.id for trace in load_traces([file], None)] == ["a", "b"]
    assert [trace.id for trace in load_traces([file], None, min_tokens=2)] == ["b"]
    same = [answer(name, (1,), (2,)) for name in "cde"]
    same = [TokenTrace(item.id, "t", item.prompt, item.answer, item.runner_ups) for item in same]
    file = write(tmp_path / "b.npz", *same)
    assert [trace.id for trace in load_traces([file], None, per_task=2)] == ["c", "d"]


def test_the_same_answers_make_the_same_file(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, answer("a", (1,), (2, 3))) for name in ("1.npz", "2.npz"))
    assert one.read_bytes() == two.read_bytes()
    assert stat.S_IMODE(one.stat().st_mode) == 0o644


def test_answers_without_runner_ups_are_not_written(tmp_path: Path) -> None:
    for answers in ([], [TokenTrace("a", "t", (1,), (2,))]):
        with pytest.raises(ConfigError, match="nothing to write"):
            write_answers(tmp_path / "a.npz", answers, model="m", num_vocab=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("format", np.array("other"), "another format"),
        ("version", np.array(2), "it has version 2, this program reads 1"),
        ("version", None, "there is no 'version"),
        ("ids", np.array([1, 2]), "its names are no texts"),
        ("tasks", np.array(["t"]), "do not fit together"),
        ("answer_lengths", np.array([1, -1]), "its answer lengths are damaged"),
        ("answer_lengths", np.array([1.0, 2.0]), "its answer lengths are damaged"),
        ("prompt_lengths", np.array([9, 9]), "do not fit together"),
        ("runner_ups", np.zeros((1, 3), np.int32), "do not fit together"),
        ("runner_ups", np.zeros((4, 3), np.int64), "no token ids"),
        ("runner_ups", np.full((4, 3), NUM_VOCAB, np.int32), "outside the vocabulary of 50"),
        ("prompt_tokens", np.full(2, -1, np.int32), "outside the vocabulary"),
        ("ids", np.array([{}], object), "."),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, value: Any, reason: str) -> None:
    file = write(tmp_path / "a.npz", answer("a", (1,), (2,)), answer("b", (1,), (2, 3, 4)))
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays[name] = value
    np.savez(file, **{key: item for key, item in arrays.items() if item is not None})
    with pytest.raises(ConfigError, match=rf"a\.npz is no file of recorded answers: .*{reason}"):
        read_answers(file)


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.npz", answer("a", (1,), (2, 3)))
    data = file.read_bytes()
    for damaged in (b"", b"{}", data[: len(data) // 2], data[:300] + b"\0" * 40 + data[340:]):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="make one with `python -m bench record`"):
            read_answers(file)
    with pytest.raises(ConfigError, match="is no file of recorded answers"):
        read_answers(tmp_path / "none.npz")
