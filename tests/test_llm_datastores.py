"""Datastores in the Python API and on the command line, with a real tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sssd_local import LLM
from sssd_local.cli import main
from sssd_local.errors import ConfigError, ModelError
from sssd_local.store.build import build_datastore
from sssd_local.store.datastores import datastore_folder
from sssd_local.store.errors import StoreError
from sssd_local.store.ingest import BuildOptions

TinyModel = Callable[..., Path]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
HELLO = [{"role": "user", "content": "the rain"}]
OPTIONS: dict[str, Any] = {"ctx": 256, "threads": 1, "kv_type": "f32", "speculation": 4}


@pytest.fixture
def model(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A model whose answer to HELLO is in the datastore `own`."""
    path = tiny_model()
    (tmp_path / "prompts.txt").write_text("the rain")
    options = BuildOptions(max_tokens=24, threads=1)
    build_datastore("own", path, [], options, prompts=[tmp_path / "prompts.txt"])
    return path


def test_its_tokens_are_drafted_and_named(model: Path) -> None:
    with LLM(model, **OPTIONS) as llm:
        plain = llm.chat(HELLO, **GREEDY)
    with LLM(model, datastores=["own"], **OPTIONS) as llm:
        assert llm.config.datastores == ("own",)
        found = llm.chat(HELLO, **GREEDY)
    assert found.token_ids == plain.token_ids
    assert found.stats.by_source["datastore"] > 0
    assert found.stats.steps < plain.stats.steps
    assert "datastore" in found.sources


def test_the_command_line_takes_names(model: Path) -> None:
    words = ["run", str(model), "the rain", "--temp", "0", "--max-tokens", "24", "--ctx", "256"]
    words += ["--speculation", "4", "--kv-type", "f32", "--threads", "1", "--stats", "json"]
    result = CliRunner().invoke(main, [*words, "--datastore", "own"])
    assert result.exit_code == 0, result.stderr
    assert '"datastore": ' in result.stderr
    result = CliRunner().invoke(main, [*words, "--datastore", "owm"])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: there is no datastore owm (did you mean own?); make it with "
        "`sssd-local datastore build owm`\n"
    )


def test_settings_name_datastores(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[defaults]\nthreads = 1\n[model."{model}"]\ndatastore = ["own"]\n')
    words = ["run", str(model), "the rain", "--ctx", "256", "--speculation", "4", "--temp", "0"]
    words += ["--max-tokens", "24", "--kv-type", "f32", "--stats", "json", "--config", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.stderr
    assert '"datastore": ' in result.stderr


def test_what_cannot_be_used_is_told_before_the_model_is_loaded(
    model: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sssd_local.loaded.Model", None)
    with pytest.raises(StoreError, match=r"there is no datastore none \(there are own\)"):
        LLM(model, datastores=["own", "none"])
    with pytest.raises(StoreError, match="datastore rebuild own --model MODEL` with it"):
        LLM(tiny_model(num_tokens=321), datastores="own")
    with pytest.raises(ConfigError, match="'a/b' cannot name a datastore"):
        LLM(model, datastores=["a/b"])
    with pytest.raises(ModelError, match="there is no such file"):
        LLM(model.with_name("none.gguf"), datastores=["own"])


def test_a_damaged_one_is_left_aside_with_a_note(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with next(datastore_folder("own").glob("*.order.npy")).open("ab") as file:
        file.write(b"x")
    with LLM(model, datastores=["own"], **OPTIONS) as llm:
        assert "datastore" not in llm.chat(HELLO, **GREEDY).stats.by_source
    (record,) = caplog.records
    assert record.getMessage().startswith("the datastore own is left aside: ")


def test_no_datastore_is_opened_unasked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sssd_local.store.datastores.open_datastore", None)
    with LLM(model, **OPTIONS) as llm:
        assert "datastore" not in llm.chat(HELLO, **GREEDY).stats.by_source
