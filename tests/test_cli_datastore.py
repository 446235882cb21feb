"""`sssd-local datastore`: every command, its output and its exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import sssd_local.cli_datastore as module
from sssd_local import cli_status
from sssd_local.cli_datastore import datastore
from sssd_local.store.datastores import datastore_folder, datastore_names, find_datastore
from sssd_local.store.ingest import Report
from sssd_local.store.manifest import DEFAULT_SEGMENT_TOKENS
from tests.help import lines_of_help

TinyModel = Callable[..., Path]


def run(*words: object, **options: object) -> Result:
    return CliRunner().invoke(datastore, [str(word) for word in words], **options)  # type: ignore[arg-type]


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("the rain on the hill")
    (folder / "b.txt").write_text("the plain")
    return folder


def test_build_add_and_the_report(model: Path, notes: Path) -> None:
    (notes / "c.bin").write_bytes(b"\0")
    result = run("build", "code", "--model", model, notes, "--threads", 1, "--segment-tokens", 1000)
    assert result.exit_code == 0
    skipped, last = result.stdout.splitlines()
    assert skipped == f"skipped (binary, or not UTF-8): {notes / 'c.bin'}"
    tokens = find_datastore("code").num_tokens
    assert last.startswith(f"code: {tokens} tokens from 2 of 3 files in 0.")
    assert result.stderr == ""
    assert find_datastore("code").segment_tokens == 1000
    (notes / "d.txt").write_text("rain")
    result = run("add", "code", notes / "d.txt", notes / "a.txt")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"skipped (stored already): {notes / 'a.txt'}\ncode: ")
    assert find_datastore("code").num_texts == 3


def test_answers_of_the_model(model: Path, notes: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("rain?\nhill?\n")
    wishes = ("--answer-tokens", 4, "--temp", 0.5, "--threads", 1)
    result = run("build", "own", "--model", model, "--from-model", prompts, *wishes)
    assert result.exit_code == 0, result.stderr
    tokens = find_datastore("own").num_tokens
    start = f"own: {tokens} tokens from 0 of 0 files, answers to 2 of 2 prompts in "
    assert result.stdout.startswith(start)
    assert 0 < tokens <= 8
    assert f"  from     answers to {prompts}\n" in run("info", "own").stdout
    result = run("add", "own", notes, "--from-model", prompts, *wishes)
    assert result.exit_code == 0, result.stderr
    assert ", answers to 2 of 2 prompts in " in result.stdout
    assert find_datastore("own").num_texts == 4


def test_a_cluster_that_is_not_there_is_an_error(model: Path, notes: Path) -> None:
    result = run("build", "code", "--model", model, notes, "--cluster", "tcp://127.0.0.1:x")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is no Dask scheduler at tcp://127.0.0.1:x")
    assert datastore_names() == []


def test_many_skipped_files_are_counted(model: Path, notes: Path) -> None:
    for index in range(8):
        (notes / f"e{index}.txt").write_bytes(b"")
    result = run("build", "code", "--model", model, notes)
    names = ", ".join(str(notes / f"e{index}.txt") for index in range(5))
    assert result.stdout.splitlines()[0] == f"skipped (empty): {names} and 3 more"


def test_a_name_that_steers_the_terminal_is_shown_harmless(model: Path, notes: Path) -> None:
    (notes / "x\x1b[31m.txt").write_bytes(b"")
    assert "x\\x1b[31m.txt" in run("build", "code", "--model", model, notes).stdout


def test_stdin(model: Path) -> None:
    result = run("build", "piped", "--model", model, "-", input=b"the rain")
    assert result.exit_code == 0
    assert find_datastore("piped").num_texts == 1


def test_the_default_of_segment_tokens_is_told(model: Path, notes: Path) -> None:
    assert f"[{DEFAULT_SEGMENT_TOKENS}]" in run("build", "--help").stdout
    run("build", "code", "--model", model, notes)
    assert find_datastore("code").segment_tokens == DEFAULT_SEGMENT_TOKENS


def test_list_and_info(model: Path, notes: Path) -> None:
    assert run("list").stdout == ""
    assert json.loads(run("list", "--json").stdout) == {}
    run("build", "code", "--model", model, notes)
    manifest = find_datastore("code")
    size = f"{manifest.num_bytes / 1e6:,.1f} MB"
    assert run("list").stdout == f"code  {manifest.num_tokens} tokens, {size}, {model.name}\n"
    facts = json.loads(run("info", "code", "--json").stdout)
    folder = str(datastore_folder("code"))
    assert facts == {
        "tokens": manifest.num_tokens,
        "texts": 2,
        "segments": 1,
        "bytes": manifest.num_bytes,
        "model": str(model),
        "sources": [str(notes)],
        "complete": True,
        "folder": folder,
    }
    del facts["folder"]
    assert json.loads(run("list", "--json").stdout) == {"code": facts}
    assert run("info", "code").stdout.splitlines() == [
        f"code: {manifest.num_tokens} tokens in 2 texts",
        f"  on disk  {size} in 1 segments",
        f"  folder   {folder}",
        f"  model    {model}",
        f"  from     {notes}",
    ]


def test_a_datastore_that_was_cut_off_says_how_to_go_on() -> None:
    facts = {"tokens": 1, "texts": 1, "bytes": 1, "segments": 1, "model": "m", "sources": []}
    lines = list(module._info_lines("code", {**facts, "folder": "f", "complete": False}))
    assert lines[-1] == "  cut off  run `sssd-local datastore add code PATH` to go on"
    assert module._line({**facts, "complete": False}).endswith("m, cut off")


def test_list_goes_on_past_a_damaged_one(model: Path, notes: Path) -> None:
    run("build", "a", "--model", model, notes)
    run("build", "b", "--model", model, notes)
    (datastore_folder("a") / "manifest.json").write_text("x")
    first, second = run("list").stdout.splitlines()
    assert "manifest.json is damaged" in first
    assert second.startswith("b  ")
    assert "error" in json.loads(run("list", "--json").stdout)["a"]


def test_verify_exits_with_what_it_found(model: Path, notes: Path) -> None:
    run("build", "code", "--model", model, notes)
    result = run("verify", "code")
    assert (result.exit_code, result.stdout) == (0, "code is as it was written\n")
    path = datastore_folder("code") / "000000.order.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = run("verify", "code")
    assert result.exit_code == 1
    assert result.stdout == f"{path} has another checksum: its content was changed\n"
    assert result.stderr.startswith(
        "error: code is damaged; run `sssd-local datastore rebuild code`"
    )


def test_rebuild(model: Path, notes: Path, tiny_model: TinyModel) -> None:
    run("build", "code", "--model", model, notes)
    result = run("rebuild", "code", "--model", tiny_model(num_tokens=321), "--threads", 2)
    assert result.exit_code == 0
    assert find_datastore("code").num_vocab == 321
    (notes / "a.txt").unlink()
    (notes / "b.txt").unlink()
    assert run("rebuild", "code").exit_code == 1
    assert run("rebuild", "code", "--skip-missing").exit_code == 1
    assert find_datastore("code").num_texts == 2


def test_remove_asks_or_is_told(model: Path, notes: Path) -> None:
    run("build", "code", "--model", model, notes)
    result = run("remove", "code")
    assert result.exit_code == 2
    assert "add --yes to remove without being asked" in result.stderr
    result = run("remove", "code", "--yes")
    assert (result.exit_code, result.stdout) == (0, "code is deleted\n")
    assert datastore_names() == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", []), ("n\n", ["code"])])
def test_remove_takes_an_answer_on_a_terminal(
    model: Path, notes: Path, answer: str, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("build", "code", "--model", model, notes)
    monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    run("remove", "code", input=answer)
    assert datastore_names() == left


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["info", "none"], 1, "error: there is no datastore none (there are none)"),
        (["verify", "none"], 1, "error: there is no datastore none"),
        (["remove", "none", "--yes"], 1, "error: there is no datastore none"),
        (["info", "a/b"], 2, "error: 'a/b' cannot name a datastore"),
        (["build", "x", "--model", "none.gguf", "."], 1, "error: none.gguf: there is no such file"),
        (["build", "x", "."], 2, "Missing option '--model'"),
        (["build", "x", "--model", "tiny"], 2, "give at least one file or folder"),
        (["build", "x", "--model", "tiny", "--from-model", "no"], 1, "no cannot be read: No such"),
        (["build", "x", "--model", "tiny", ".", "--temp", "-1"], 2, "-1.0 is not in the range"),
        (["add", "x", "nowhere"], 1, "nowhere: there is no such file or folder"),
        (
            ["build", "x", "--model", "tiny", ".", "--segment-tokens", "0"],
            2,
            "0 is not in the range",
        ),
        (
            ["build", "x", "--model", "tiny", ".", "--segment-tokens", str(2**40)],
            2,
            "must be from 1",
        ),
    ],
)
def test_errors_are_one_line_and_an_exit_code(words: list[str], code: int, message: str) -> None:
    result = run(*words)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback() -> None:
    result = run("info", "none", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


def test_every_command_has_a_help_text() -> None:
    assert sorted(datastore.commands) == [
        "add", "build", "info", "list", "rebuild", "remove", "verify",
    ]  # fmt: skip
    for name in datastore.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert "--debug" in result.stdout


def test_help_imports_neither_numpy_nor_llama_cpp() -> None:
    lines = lines_of_help("datastore", "build", heavy={"numpy", "llama_cpp", "pydivsufsort"})
    assert "datastore build [OPTIONS]" in lines[0]
    assert lines[-1] == "[]"


def test_progress_is_one_line_on_a_terminal_wiped_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(num_found=10, num_files=2, num_tokens=3000, seconds=2.0)
    with module._Progress() as progress:
        progress.report(report)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli_status, "is_terminal", lambda stream: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with module._Progress() as progress:
        progress.report(report)
        # Too soon after the first.
        progress.report(Report(num_found=10, num_files=3))
    shown = "2 of 10 files, 3,000 tokens (1,500 a second)"
    assert capsys.readouterr().err == f"\r{shown}\r"
    with module._Progress() as progress:
        progress.report(Report(num_prompts=9, num_answers=4, num_tokens=50, seconds=5))
    assert "4 of 9 prompts answered, 50 tokens (10 a second)" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="POSIX folders")
def test_a_home_that_cannot_be_written_is_an_error(
    model: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSSD_LOCAL_HOME", "/dev/null/app")
    result = run("build", "code", "--model", model, notes)
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
