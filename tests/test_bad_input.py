"""Whatever a user gives: one clear line and an exit code, never a traceback, crash or hang."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.fuzz import GOOD, run_cases

TinyModel = Callable[..., Path]
QUICK = ("--max-tokens", "4", "--speculation", "off", "--threads", "1")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX files and bytes")


def run(
    *arguments: str | bytes | Path, stdin: bytes | None = None, stdout: int = subprocess.PIPE
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program."""
    done = subprocess.run(
        [sys.executable, "-m", "sssd_local.cli", *arguments],
        stdin=subprocess.DEVNULL if stdin is None else None,
        input=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    out = (done.stdout or b"").decode("utf-8", "replace")
    return done.returncode, out, done.stderr.decode("utf-8", "replace")


def refused(result: tuple[int, str, str], message: str, code: int = 1) -> None:
    assert (result[0], result[1]) == (code, "")
    assert result[2].startswith("error: ")
    assert message in result[2]
    assert result[2].count("\n") == 1


def test_a_damaged_model(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    good = tiny_model().read_bytes()
    path.write_bytes(good[: len(good) // 2])
    commands: list[list[str | Path]] = [["run", path, "hi", *QUICK], ["info", path]]
    for command in commands:
        refused(run(*command), "bytes after the file; download or copy it again")


@needs_posix
def test_names_that_are_no_files(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(run("run", pipe, "hi"), "is not a file")
    refused(run("info", pipe), "is not a file")
    refused(run("info", "/dev/zero"), "is not a file")
    refused(run("info", "x" * 5000), "there is no such file, and no model of that name")
    refused(run("info", b"/tmp/\xff.gguf"), "there is no such file")


@needs_posix
def test_text_that_is_no_utf8(tiny_model: TinyModel) -> None:
    refused(run("run", tiny_model(), b"a\xffb", *QUICK), "PROMPT is not UTF-8 text")
    refused(run("run", tiny_model(), *QUICK, stdin=b"a\xffb"), "stdin is not UTF-8 text (byte 1)")


def test_prompts_of_impossible_length(tiny_model: TinyModel) -> None:
    long = run("run", tiny_model(), "the rain " * 400, "--ctx", "64", *QUICK)
    refused(long, "the context holds 64")
    code, _, err = run("run", tiny_model(), "", *QUICK)
    assert (code, "Traceback" in err, "PROMPT is empty" in err) == (2, False, True)


def test_text_without_tokens(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "few.gguf"
    path.write_bytes(tiny_model().read_bytes().replace(b"<0xC3>", b"<zxC3>"))
    refused(run("run", path, "café", *QUICK), "has no token for 'é'")


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{ 'a' * 10**9 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_hostile_templates(tiny_model: TinyModel, tmp_path: Path, template: str) -> None:
    path = tmp_path / "t.jinja"
    path.write_text(template)
    refused(run("run", tiny_model(), "hi", "--chat-template", path, *QUICK), "the chat template")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(tiny_model: TinyModel) -> None:
    with open("/dev/full", "wb") as full:
        for command in (["run", tiny_model(), "hi", *QUICK], ["info", tiny_model()],
                        ["config", "show"]):  # fmt: skip
            refused(run(*command, stdout=full.fileno()), "No space left on device")
        for arguments in (["--help"], ["--version"], ["run", "--help"], ["config", "-h"]):
            refused(run(*arguments, stdout=full.fileno()), "No space left on device")


@needs_posix
def test_a_closed_pipe(tiny_model: TinyModel) -> None:
    for command in (["info", tiny_model()], ["config", "show"]):
        read, write = os.pipe()
        os.close(read)
        assert run(*command, stdout=write) == (141, "", "")
        os.close(write)


def test_a_home_that_is_no_folder(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("SSSD_LOCAL_HOME", str(tmp_path / "home"))
    code, out, err = run("run", tiny_model(), "hi", *QUICK)
    assert (code, "Traceback" in err) == (0, False)
    assert out


@pytest.mark.parametrize(("kind", "cases"), [("models", 250), ("templates", 60)])
def test_a_little_fuzzing(kind: str, cases: int) -> None:
    # The whole run is `python -m bench.fuzz run models` and `templates`.
    findings = list(run_cases(kind, 0, 0, cases))
    assert [finding.case for finding in findings] == list(range(cases))
    assert [finding for finding in findings if finding.outcome not in GOOD] == []
