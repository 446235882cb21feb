"""`sssd-local models`, and that nothing but a download uses the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sssd_local.cli_guard import guarded
from sssd_local.cli_models import models, named_model
from sssd_local.files import app_folder
from sssd_local.hub import repo_folder
from tests.hub_server import Hub, hub, hub_cache

__all__ = ["hub", "hub_cache"]

SCRIPT = """
import sys

asked = []
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def watch(event, arguments):
    if event in NETWORK:
        asked.append(event)
        raise OSError("no network here")


sys.addaudithook(watch)
import click
import sssd_local
from sssd_local import cli, cli_guard, cli_models

path = sys.argv[1]
few = ["--max-tokens", "4", "--ctx", "128", "--threads", "1"]
for words in (["info", path], ["run", path, "hi", *few], ["run", "tiny", "hi", *few]):
    cli.main(words, standalone_mode=False)
store = ["datastore", "build", "own", "--model", path, path + ".txt"]
cli.main(store, standalone_mode=False)
bench = ["bench", path, "--prompts", path + ".json", "--tokens", "2", "--repeats", "1"]
cli.main([*bench, "--ctx", "128", "--threads", "1"], standalone_mode=False)
models = click.command()(cli_guard.guarded(cli_models.models))
models.main([], standalone_mode=False)
cli_models.named_model(path)
assert asked == [], asked
assert "huggingface_hub" not in sys.modules
try:
    cli_models.named_model("hf:some/model")
except sssd_local.SSSDError as error:
    print(error)
assert asked, "the watch must see a download"
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(click.command("models")(guarded(models)), words)


@pytest.fixture(autouse=True)
def _no_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sssd_local.library.BUILTIN_MODELS", {})


@pytest.fixture
def listed(tiny_model: Callable[..., Path]) -> Path:
    """Three models: a good one, one of the hub cut off in the middle, and one for embeddings."""
    data = tiny_model(quant="Q8_0").read_bytes()
    good = app_folder() / "models" / "Good-Q8_0.gguf"
    cut = repo_folder("some/Repo") / "snapshots" / "1" / "Cut-Q4_0.gguf"
    for path, content in ((good, data), (cut, data[:-100])):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return good


def test_the_table_tells_what_is_there_and_what_is_damaged(listed: Path) -> None:
    result = run()
    assert result.exit_code == 0
    size = f"{listed.stat().st_size / 1e3:.0f} kB"
    head, good, cut = result.stdout.splitlines()
    assert head == "NAME       SIZE    QUANTISATION  WHERE"
    assert good == f"Good-Q8_0  {size}  Q8_0          sssd-local"
    assert cut.startswith(
        f"Cut-Q4_0   {size}  -             Hugging Face · some/Repo  (of no use: "
    )
    assert cut.endswith("download or copy it again)")
    assert "damaged or incomplete: tensor" in cut


def test_json_tells_the_same(listed: Path) -> None:
    good, cut = json.loads(run("--json").stdout)
    assert good == {
        "name": "Good-Q8_0",
        "path": str(listed),
        "bytes": listed.stat().st_size,
        "parts": 1,
        "quantisation": "Q8_0",
        "architecture": "llama",
        "where": "sssd-local",
        "repository": "",
        "problem": None,
    }
    assert (cut["quantisation"], cut["repository"]) == ("", "some/Repo")
    assert cut["problem"].startswith("damaged or incomplete")


def test_nothing_found_tells_how_to_get_one() -> None:
    result = run()
    assert result.exit_code == 0
    assert result.stdout == (
        "No models were found. `sssd-local run hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF`\n"
        "downloads one; a GGUF file anywhere runs by its path.\n"
    )
    assert json.loads(run("--json").stdout) == []


def test_only_the_embedded_one_tells_how_to_get_another(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sssd_local.library.BUILTIN_MODELS", {"tiny": "tiny.gguf"})
    monkeypatch.setattr("sssd_local.library.builtin_path", lambda name: tiny_model())
    lines = run().stdout.splitlines()
    assert lines[1].split() == ["tiny", "469", "kB", "F32", "embedded"]
    assert lines[2].startswith("No other models were found.")


def test_a_name_that_could_steer_the_terminal_is_spelled_out(listed: Path) -> None:
    listed.rename(listed.with_name("a\x1b[2J.gguf"))
    assert "a\\x1b[2J" in run().stdout
    assert "\x1b" not in run().stdout


def test_a_model_argument_is_downloaded_with_progress_on_the_terminal(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("a/b", m=b"GGUF")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sssd_local.cli_status.is_terminal", lambda stream: True)
    assert named_model("hf:a/b").read_bytes() == b"GGUF"
    before, *shown, after = capsys.readouterr().err.split("\r")
    assert (before, shown[0], after) == ("", "looking for hf:a/b", "")
    assert shown[1].startswith("downloading m.gguf: 0 kB of 0 kB, ")


def test_nothing_but_a_download_uses_the_network(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_model().read_bytes())
    path.with_name("m.gguf.txt").write_text("the rain on the hill")
    path.with_name("m.gguf.json").write_text('{"one": ["the rain"]}')
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "some/model is not in the cache, and http://127.0.0.1:9 cannot be" in done.stdout
