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
from bench.edit import REQUESTS, Edit, Row, edits, git, measure, table, tree
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
    assert sorted(tree(repo, f"{first}^")) == sorted([OLD, "x = 1\n"])


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
    assert "has no commit that changes a small Python file" in result.output
    last = commit(repo, "Count on", a_py=NEW)
    result = CliRunner().invoke(main, [*words, "--json", str(tmp_path / "edit.json")])
    assert result.exit_code == 0, result.output
    assert "| request | edits | tokens |" in result.output
    content = json.loads((tmp_path / "edit.json").read_text())
    assert [row["request"] for row in content["rows"]] == ["shown", "named"]
    assert content["edits"] == [{"commit": last, "path": "a.py"}]
    assert content["curve"] == "cuda"


def test_git_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="git log failed in"):
        git(tmp_path, "log")

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "git")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(ConfigError, match="git cannot be run in"):
        git(tmp_path, "log")
