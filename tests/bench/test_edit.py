"""Edits from a small project's history: what is asked, what is known, what is reported."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.commits import REQUESTS, Edit, edits, git, renames, tree, write_tree
from bench.edit import Row, measure, table
from bench.traces import load_traces
from sssd_local.errors import ConfigError

TinyModel = Callable[..., Path]
COSTS = np.linspace(1.0, 1.5, 64)
OLD = "".join(f"name_{index} = {index * 7}\n" for index in range(20))
NEW = OLD.replace("name_3 = 21", "name_3 = 22")


def commit(repo: Path, subject: str, **files: str) -> str:
    for name, text in files.items():
        (repo / name.replace("_", ".")).write_text(text)
    git(repo, "add", "-A")
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    git(repo, *who, "commit", "-q", "-m", subject)
    return git(repo, "rev-parse", "HEAD").strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "Begin", a_py=OLD, b_py="x = 1\n", c_txt="left out")
    return folder


def test_an_edit_is_a_commits_most_changed_file(repo: Path) -> None:
    first = commit(repo, "Count on", a_py=NEW)
    commit(repo, "Only words", c_txt="other")
    commit(repo, "All other", b_py="y = 2\nz = 3\n")
    last = commit(repo, "Two at once", a_py=NEW + "more = 1\n", b_py="y = 2\nz = 3\nw = 4\nv = 5\n")
    found = list(edits(repo, "HEAD", 9, 10_000))
    assert [(edit.commit, edit.path) for edit in found] == [(last, "b.py"), (first, "a.py")]
    assert found[1] == Edit(first, "a.py", "Count on", OLD, NEW)
    assert len(list(edits(repo, "HEAD", 1, 10_000))) == 1
    assert [edit.path for edit in edits(repo, "HEAD", 9, 100)] == ["b.py"]
    assert list(edits(repo, f"{first}^", 9, 10_000)) == []
    assert dict(tree(repo, f"{first}^")) == {"a.py": OLD, "b.py": "x = 1\n"}


USES = "value = total + 1\nvalue += total\nprint(total, value)\ntotal = value\ntotal = value\n"


def test_names_that_are_used_most_are_replaced(repo: Path) -> None:
    old = "# amounts of things\n" * 90 + "state = 1\n" * 9 + USES + "amount = 0\n"
    base = commit(repo, "Add", a_py=old)
    (edit,) = renames(repo, "HEAD", ".", 9, 10_000)
    assert (edit.commit, edit.before, edit.path) == (base, base, "a.py")
    # "amounts", "things" and "state" are used more often, the first of all is left alone.
    assert edit.subject == "rename things to payload and state to anchor"
    assert edit.new == old.replace("things", "payload").replace("state", "anchor")
    assert edit.old == old
    assert list(renames(repo, "HEAD", ".", 0, 10_000)) == []
    assert list(renames(repo, "HEAD", ".", 9, 1600)) == []
    assert list(renames(repo, "HEAD", "other", 9, 10_000)) == []
    assert Edit("c", "a.py", "s", OLD, NEW).before == "c^"


def test_the_command_replaces_names(repo: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    commit(repo, "Add", a_py="state = 1\nthings = state + 1\n" * 60 + USES)
    traces, folder = tmp_path / "x.jsonl", tmp_path / "tree"
    words = ["edit", "--repo", str(repo), "--rename", ".", "--traces-out", str(traces)]
    result = CliRunner().invoke(main, [*words, "--tree-out", str(folder)])
    assert result.exit_code == 0, result.output
    shown, _ = load_traces([traces], tiny_model())
    assert shown.task == "shown"
    assert "things" in (folder / "a.py").read_text()
    none = CliRunner().invoke(main, ["edit", "--repo", str(repo), "--rename", "x", *words[5:]])
    assert (none.exit_code, "has no Python file in x of a fitting size" in none.output) == (1, True)


def test_the_request_shows_the_file_or_names_it() -> None:
    edit = Edit("c", "a.py", "Count on", OLD, NEW)
    named = "Change a.py: Count on. Answer with the whole new file."
    assert edit.request("named") == named
    assert edit.request("shown") == f"{named}\n\n{OLD}"


def test_the_projects_source_helps(repo: Path) -> None:
    commit(repo, "Count on", a_py=NEW)
    found = list(edits(repo, "HEAD", 1, 10_000))

    def tokenize(text: str, starts: bool) -> list[int]:
        return [*([256] if starts else []), *text.encode()]

    shown, named = measure(found, repo, tokenize, 257, COSTS)
    assert (shown.request, named.request) == REQUESTS
    assert shown.edits == named.edits == 1
    assert shown.tokens == named.tokens == len(NEW) - 1
    assert named.with_store > 1.5 * named.alone
    assert named.with_store_tokens_per_step > named.alone_tokens_per_step
    assert shown.alone > named.alone
    assert min(named.alone_draft_us, named.with_store_draft_us) > 0


def test_the_table() -> None:
    row = Row("named", 2, 100, 1.2, 2.5, 1.5, 6.0, 90.0, 120.0)
    assert table([row]).splitlines()[2] == (
        "| named | 2 | 100 | 1.20 | 2.50 | 1.50 → 6.00 | 90 → 120 µs |"
    )


def test_the_command(repo: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    words = ["edit", "--repo", str(repo), "--vocab", str(tiny_model()), "--curve", "cuda"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "has no commit that changes a Python file, of a fitting size" in result.output
    last = commit(repo, "Count on", a_py=NEW)
    result = CliRunner().invoke(main, [*words, "--json", str(tmp_path / "edit.json")])
    assert result.exit_code == 0, result.output
    assert "| request | edits | tokens |" in result.output
    content = json.loads((tmp_path / "edit.json").read_text())
    assert [row["request"] for row in content["rows"]] == ["shown", "named"]
    assert content["edits"] == [{"commit": last, "path": "a.py"}]
    assert content["curve"] == "cuda"


def test_edits_are_written_for_replay(repo: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
    first = commit(repo, "Count on", a_py=NEW)
    last = commit(repo, "Count further", a_py=NEW + "more = 1\n")
    traces, folder = tmp_path / "edits.jsonl", tmp_path / "tree"
    words = ["edit", "--repo", str(repo), "--traces-out", str(traces), "--tree-out", str(folder)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.output == f"2 edits, each in two ways: {traces}\n"
    found = load_traces([traces], tiny_model())
    assert [(trace.id, trace.task) for trace in found] == [
        (f"{commit[:10]}:a.py:{kind}", kind) for kind in REQUESTS for commit in (last, first)
    ]
    assert len(found[0].prompt) > len(found[2].prompt)
    assert found[1].answer == found[3].answer
    # As it was before the first of them.
    assert (folder / "a.py").read_text() == OLD
    assert (folder / "b.py").read_text() == "x = 1\n"
    again = CliRunner().invoke(main, words)
    assert (again.exit_code, again.output) == (1, f"Error: {folder} exists; name a new folder\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--curve", "cuda"], "give --vocab and --curve, or --traces-out"),
        (["--tree-out", "x"], "--tree-out needs --traces-out"),
    ],
)
def test_wrong_use_is_told(words: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["edit", *words])
    assert result.exit_code == 2
    assert message in result.output


def test_the_longest_file_can_be_chosen(repo: Path, tmp_path: Path) -> None:
    commit(repo, "Count on", a_py=NEW)
    words = ["edit", "--repo", str(repo), "--traces-out", str(tmp_path / "x"), "--max-tokens", "9"]
    assert CliRunner().invoke(main, words).exit_code == 1


def test_a_tree_is_not_written_over_another(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        write_tree(repo, "HEAD", tmp_path)


def test_git_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="git log failed in"):
        git(tmp_path, "log")

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "git")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(ConfigError, match="git cannot be run in"):
        git(tmp_path, "log")
