"""The config file: which table holds for a model, what wins, and what is refused."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sssd_local.cli import main
from sssd_local.cli_options import run_options
from sssd_local.errors import ConfigError
from sssd_local.settings import Setting, default_path, load_settings

TinyModel = Callable[..., Path]


@run_options
def _options(**_: Any) -> None: ...


OPTIONS: list[click.Option] = list(reversed(_options.__click_params__))  # type: ignore[attr-defined]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(path, text), OPTIONS)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def show(*arguments: str, env: dict[str, str] | None = None) -> dict[str, tuple[str, str]]:
    result = CliRunner().invoke(main, ["config", "show", *arguments], env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = {}
    for line in result.stdout.splitlines()[1:]:
        setting, origin = line.rsplit("  # ", 1)
        name, value = setting.split(" = ", 1)
        rows[name] = (value.strip(), origin)
    return rows


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def test_no_file_is_no_setting() -> None:
    settings = load_settings(None, OPTIONS)
    assert settings.path == default_path()
    assert settings.for_model("m.gguf") == {}


def test_every_kind_of_value(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.toml",
        '[defaults]\ntemp = 1\ntop-k = 5\nraw = true\nstop = ["a", "b"]\nspeculation = 8\n'
        'logit-bias = {7 = -1.5}\ntemplate-arg = {enable_thinking = false}\nkv_type = "f32"\n'
        'chat-template = "t.jinja"\n',
    )
    assert load_settings(path, OPTIONS).defaults == {
        "temperature": 1, "top_k": 5, "raw": True, "stop": ["a", "b"], "speculation": 8,
        "logit_bias": ["7=-1.5"], "template_arguments": ["enable_thinking=false"],
        "kv_type": "f32", "chat_template": str(tmp_path / "t.jinja"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defaults]\ntmp = 1", "[defaults] unknown key 'tmp'; did you mean 'temp'?"),
        ("[defaults]\ntop_kk = 1", "unknown key 'top-kk'; did you mean 'top-k'?"),
        ('[model."m"]\ntmp = 1', "[model.\"m\"] unknown key 'tmp'"),
        ("[default]\ntemp = 1", "unknown table 'default'; did you mean 'defaults'?"),
        ("temp = 1", "temp; it belongs under [defaults]"),
        ("defaults = 1", "defaults must be a table"),
        ("model = 1", "model must be a table"),
        ('[model]\n"m.gguf" = 1', 'model."m.gguf" must be a table'),
        ('[defaults]\ntemp = "a"', "temp must be a number, got 'a'"),
        ("[defaults]\ntemp = true", "temp must be a number, got True"),
        ("[defaults]\ntop-k = 1.5", "top-k must be a whole number, got 1.5"),
        ("[defaults]\nraw = 1", "raw must be true or false, got 1"),
        ("[defaults]\nsystem = 1", "system must be a text, got 1"),
        ('[defaults]\nstop = "x"', "stop must be a list, got 'x'"),
        ("[defaults]\nstop = [1]", "stop must be a text, got 1"),
        ('[defaults]\nkv-type = "q3"', "'q3' is not one of"),
        ("[defaults]\nspeculation = 65", "from 1 to 64, got 65"),
        ('[defaults]\nlogit-bias = ["x"]', "is not a token id and a number"),
        ("[defaults]\ntop-k = 1\ntop_k = 2", "top_k is set twice"),
        ("[defaults]\ntemp = 1\ntemperature = 2", "temperature is set twice"),
        ("memory = 1", "memory must be a table"),
        ("[memory]\nignor = []", "[memory] unknown key 'ignor'; did you mean 'ignore'?"),
        ('[memory]\nignore = "x"', "[memory] ignore must be a list of texts, got 'x'"),
        ("[memory]\nignore = [1]", "[memory] ignore must be a list of texts, got [1]"),
        ("[memory]\nignore = ['a', '(b']", "[memory] ignore: '(b' is no regular expression: "),
        ("[defaults", "is not TOML"),
        ("a = " + "[" * 3000, "is not TOML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path / "c.toml", text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(tmp_path / "none.toml", OPTIONS)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path, OPTIONS)
    (tmp_path / "c.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(tmp_path / "c.toml", OPTIONS)


def test_the_nearest_table_wins(tmp_path: Path) -> None:
    text = "[defaults]\nseed = 1\ntop-k = 1\n" + "".join(
        f'[model."{name}"]\nseed = {seed}\n'
        for name, seed in (("sub/m.gguf", 4), ("m.gguf", 3), ("m", 2), ("other", 9))
    )
    settings = load_settings(write(tmp_path / "c.toml", text), OPTIONS)
    at = tmp_path / "sub" / "m.gguf"
    found = settings.for_model(str(at))
    assert found == {"seed": Setting(4, 'model."sub/m.gguf"'), "top_k": Setting(1, "defaults")}
    assert settings.for_model("/elsewhere/m.gguf")["seed"].value == 3
    assert settings.for_model("m")["seed"].value == 2
    assert settings.for_model("x.gguf")["seed"].value == 1
    assert settings.for_model(None)["seed"].value == 1


def test_a_model_of_the_hub_has_the_table_of_its_name(tmp_path: Path) -> None:
    text = '[model."hf:a/b:Q4_0"]\nseed = 4\n'
    settings = load_settings(write(tmp_path / "c.toml", text), OPTIONS)
    assert settings.for_model("hf:a/b:Q4_0")["seed"].value == 4
    assert settings.for_model("hf:a/b:Q8_0") == {}


@pytest.mark.parametrize("typed", ["m.Q4_K_M", "M.q4_k_m.gguf", "/x/m.Q4_K_M.GGUF"])
def test_a_table_is_found_whatever_the_case_of_the_name(tmp_path: Path, typed: str) -> None:
    text = '[model."m"]\nseed = 1\n[model."m.Q4_K_M"]\nseed = 2\n'
    settings = load_settings(write(tmp_path / "c.toml", text), OPTIONS)
    assert settings.for_model(typed) == {"seed": Setting(2, 'model."m.Q4_K_M"')}


def test_a_model_s_table_replaces_what_would_conflict(tmp_path: Path) -> None:
    text = '[defaults]\nsystem = "hi"\n[model.m]\nsystem-file = "s.txt"\n[model.r]\nraw = true\n'
    settings = load_settings(write(tmp_path / "c.toml", text), OPTIONS)
    assert list(settings.for_model("m.gguf")) == ["system_file"]
    assert list(settings.for_model("r.gguf")) == ["raw"]


def test_show_tells_where_each_value_comes_from(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.toml", "[defaults]\ntemp = 0.5\ntop-k = 9\n[model.m]\nseed = 7\nctx = 100\n"
    )
    rows = show("m.gguf", "--config", str(path), "--ctx", "64", env={"SSSD_LOCAL_TOP_K": "3"})
    assert rows["temp"] == ("0.5", "[defaults]")
    assert rows["seed"] == ("7", '[model."m"]')
    assert rows["ctx"] == ("64", "option")
    assert rows["top-k"] == ("3", "SSSD_LOCAL_TOP_K")
    assert rows["min-p"] == ("0.05", "built-in")
    assert show("--config", str(path))["seed"] == ("-", "built-in")
    assert show("m.gguf", env={"SSSD_LOCAL_CONFIG": str(path)})["seed"][0] == "7"


def test_tables_take_how_a_model_is_loaded(tmp_path: Path) -> None:
    text = """
    [defaults]
    threads-batch = 3
    [model.m]
    lora = ["a.gguf=0.5", "b=c.gguf"]
    tensor-split = [3, 1]
    main-gpu = 1
    kv-type-v = "q8_0"
    flash-attention = "on"
    swa-full = false
    """
    rows = show("m.gguf", "--config", str(write(tmp_path / "c.toml", text)))
    here = tmp_path.resolve()
    assert json.loads(rows["lora"][0]) == [[f"{here}/a.gguf", 0.5], [f"{here}/b=c.gguf", 1.0]]
    assert rows["tensor-split"] == ("[3.0, 1.0]", '[model."m"]')
    assert rows["threads-batch"] == ("3", "[defaults]")
    expected = {"main-gpu": "1", "kv-type-v": '"q8_0"', "flash-attention": '"on"'}
    for name, value in (expected | {"swa-full": "false"}).items():
        assert rows[name] == (value, '[model."m"]')
    assert show()["swa-full"] == ("-", "built-in")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("threads = 0", "[defaults] threads: 0 is not in the range 1<=x<=1024"),
        ("ctx = 2", "[defaults] ctx: 2 is not in the range x>=8"),
        ("gpu-layers = -2", "[defaults] gpu-layers: -2 is not in the range x>=-1"),
        ("lora = ['=1']", "[defaults] lora: lora names no file"),
        ("lora = 'a'", "[defaults] lora must be a list, got 'a'"),
        ("tensor-split = [-1]", "[defaults] tensor-split: tensor_split must be shares"),
        ("tensor-split = 1", "[defaults] tensor-split must be shares, like [3, 1], got 1"),
        ("swa-full = 1", "[defaults] swa-full must be true or false, got 1"),
    ],
)
def test_impossible_values_of_the_file_are_refused(tmp_path: Path, line: str, message: str) -> None:
    assert message in refusal(tmp_path / "c.toml", f"[defaults]\n{line}\n")


def test_show_ends_in_what_cannot_be_together(tmp_path: Path) -> None:
    text = "[defaults]\nkv-type = 'q8_0'\nflash-attention = 'off'\ntemp = -1\n"
    path = write(tmp_path / "c.toml", text)
    result = call("config", "show", "--config", str(path))
    assert result.exit_code == 2
    assert 'kv-type = "q8_0"' in result.stdout
    assert result.stderr.startswith("error: quantised values (kv_type q8_0) need flash attention")
    result = call("config", "show", "--config", str(path), "--kv-type-v", "f16")
    assert result.stderr == "error: temperature must be 0 or more, got -1.0\n"
    assert call("config", "show", "--config", str(path), "--kv-type-v=f16", "--temp=0").stderr == ""


def test_the_default_file_is_in_the_app_folder(tmp_path: Path) -> None:
    write(default_path(), "[defaults]\nseed = 5\n")
    assert show()["seed"] == ("5", "[defaults]")


def test_an_option_puts_a_conflicting_setting_aside(tmp_path: Path) -> None:
    write(default_path(), '[defaults]\nsystem = "hi"\n')
    assert show()["system"] == ('"hi"', "[defaults]")
    assert show("--raw")["system"] == ("-", "built-in")


def test_run_uses_the_file(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", "[defaults]\nraw = true\nmax-tokens = 4\ntemp = 0\n")
    file = str(tiny_model())
    with_file = call("run", file, "the rain", "--config", str(path))
    options = ["--raw", "--max-tokens", "4", "--temp", "0"]
    assert with_file.exit_code == 0
    assert with_file.stdout == call("run", file, "the rain", *options).stdout
    longer = call("run", file, "the rain", "--config", str(path), "--max-tokens", "9")
    assert len(longer.stdout) > len(with_file.stdout)


def test_a_bad_file_is_one_line_and_a_usage_error(tmp_path: Path) -> None:
    path = write(tmp_path / "c.toml", "[defaults]\ntmp = 1\n")
    for command in (["run", "m.gguf", "hi"], ["config", "show"]):
        result = call(*command, "--config", str(path))
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: {path}: [defaults] unknown key 'tmp'; did you mean 'temp'?\n"
        )


def test_help_works_whatever_the_file_says() -> None:
    write(default_path(), "not toml")
    assert call("run", "--help").exit_code == 0


def test_nothing_is_written(tmp_path: Path) -> None:
    show()
    assert not default_path().exists()
    assert stat.S_ISDIR(tmp_path.stat().st_mode)


def test_lines_for_memory_to_ignore(home: Path) -> None:
    assert load_settings(None, OPTIONS).ignore == ()
    write(default_path(), "[memory]\nignore = ['password\\s', \"sk-\"]\n")
    assert load_settings(None, OPTIONS).ignore == ("password\\s", "sk-")
    assert show()["memory.ignore"] == (json.dumps(["password\\s", "sk-"]), "[memory]")


def test_run_hands_them_to_memory(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("sssd_local.store.memory.chosen_memory", lambda **how: given.append(how))
    write(default_path(), "[memory]\nignore = ['sk-']\n")
    words = ("run", str(tiny_model()), "x", "--raw", "--ctx", "64", "--max-tokens", "1")
    assert call(*words).exit_code == 0
    assert [how["ignore"] for how in given] == [("sk-",)]
    write(default_path(), "[memory]\nignore = ['(']\n")
    result = call(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {default_path()}: [memory] ignore: '(' is no regular")
