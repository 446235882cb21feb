"""The command line: every option, exit codes, pipes and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import sssd_local.builtin
import sssd_local.cli
import sssd_local.cli_answer
import sssd_local.cli_models
import sssd_local.llm
from sssd_local.chat.settings import ChatSettings
from sssd_local.cli import main
from sssd_local.config import GenerationConfig, ModelConfig, SamplingConfig
from sssd_local.errors import ModelError, SSSDError
from sssd_local.llm import Chunk
from sssd_local.stats import Tally

TinyModel = Callable[..., Path]
MODEL_FIELDS = {item.name for item in fields(ModelConfig)}
STATS = Tally(3).finish(reused_tokens=0, prompt_seconds=0.0, plain=None)


class FakeLLM:
    """Remembers how it was made and asked, and answers with given texts."""

    calls: list[tuple[str, Any, dict[str, Any]]] = []  # noqa: RUF012 - reset by each test
    texts: tuple[str, ...] = (" Hello", " there")
    raises: BaseException | None = None

    memory = None

    def __init__(
        self, path: str, *, progress: Any = None, memory: Any = None, **options: Any
    ) -> None:
        FakeLLM.calls = [("load", path, options)]
        if progress is not None:
            progress(0.5)

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *_: object) -> None:
        FakeLLM.calls.append(("close", None, {}))

    def stream(self, prompt: str, **options: Any) -> Iterator[Chunk]:
        return self._answer("stream", prompt, options)

    def stream_chat(self, messages: Any, **options: Any) -> Iterator[Chunk]:
        return self._answer("chat", messages, options)

    def check_answer(self, **options: Any) -> None:
        FakeLLM.calls.append(("check", None, options))

    def _answer(self, kind: str, prompt: Any, options: dict[str, Any]) -> Iterator[Chunk]:
        FakeLLM.calls.append((kind, prompt, options))
        options["prompt_progress"](1, 2)
        for text in self.texts:
            yield Chunk(text, (5,), ("model",), (text,))
        if self.raises is not None:
            raise self.raises
        yield Chunk("", (), (), (), "stop", STATS)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeLLM]:
    monkeypatch.setattr(sssd_local.llm, "LLM", FakeLLM)
    monkeypatch.setattr(sssd_local.cli, "named_model", Path)
    monkeypatch.setattr(FakeLLM, "texts", (" Hello", " there"))
    monkeypatch.setattr(FakeLLM, "raises", None)
    return FakeLLM


def call(*arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["run", *arguments], input=stdin, env=env)


def asked(fake: type[FakeLLM]) -> tuple[str, Any, dict[str, Any]]:
    return fake.calls[1]


def test_one_answer_on_stdout_and_nothing_else(fake: type[FakeLLM]) -> None:
    result = call("m.gguf", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello there\n", "")
    assert fake.calls[0][:2] == ("load", Path("m.gguf"))
    assert asked(fake)[:2] == ("chat", [{"role": "user", "content": "hi"}])
    assert fake.calls[-1][0] == "close"


@pytest.fixture
def embedded(
    fake: type[FakeLLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Calls `run` on a terminal in a package whose embedded model is a file of the test."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(sssd_local.builtin, "files", lambda _: tmp_path)
    monkeypatch.setattr(sssd_local.cli, "named_model", sssd_local.cli_models.named_model)
    for module in (sssd_local.cli, sssd_local.cli_answer, sssd_local.cli_status):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    return call


def test_piped_text_without_a_model_is_answered_by_the_embedded_one(
    fake: type[FakeLLM], embedded: Callable[..., Result], tmp_path: Path
) -> None:
    result = embedded(stdin="hi")
    assert (result.exit_code, result.stdout) == (0, "Hello there\n")
    assert result.stderr.splitlines()[0] == sssd_local.builtin.TINY_NOTE
    assert fake.calls[0][1] == tmp_path / "data" / "tiny.gguf"
    assert asked(fake)[1] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("name", ["tiny", "Tiny"])
def test_the_embedded_model_has_a_short_name(
    fake: type[FakeLLM], embedded: Callable[..., Result], tmp_path: Path, name: str
) -> None:
    assert embedded(name, "hi").stderr.startswith(sssd_local.builtin.TINY_NOTE)
    assert fake.calls[0][1] == tmp_path / "data" / "tiny.gguf"
    assert embedded(name, "hi", "--stats", "none").stderr == ""


def test_a_file_of_that_name_is_not_the_embedded_model(
    fake: type[FakeLLM],
    embedded: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_bytes(b"GGUF")
    assert sssd_local.builtin.TINY_NOTE not in embedded("tiny", "hi").stderr
    assert fake.calls[0][1] == Path("tiny")
    # Without a name it is the package's own whatever lies there.
    embedded(stdin="hi")
    assert fake.calls[0][1] == tmp_path / "data" / "tiny.gguf"


def test_the_embedded_models_table_holds_without_its_name(
    fake: type[FakeLLM], embedded: Callable[..., Result], home: Path
) -> None:
    config = home / "c.toml"
    config.write_text("[model.tiny]\ntemp = 0.25\n", "utf-8")
    assert embedded("--config", str(config), stdin="hi").exit_code == 0
    assert asked(fake)[2]["temperature"] == 0.25
    assert embedded("m.gguf", "hi", "--config", str(config)).exit_code == 1


def test_raw_text_is_continued_as_it_is(fake: type[FakeLLM]) -> None:
    result = call("m.gguf", "Once", "--raw")
    assert result.stdout == " Hello there\n"
    assert asked(fake)[:2] == ("stream", "Once")


def test_an_answer_that_ends_its_line_gets_no_second_end(
    fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "texts", ("done\n",))
    assert call("m.gguf", "hi").stdout == "done\n"


@pytest.mark.parametrize(
    ("stdin", "prompt", "expected"),
    [
        ("some text\n", ["sum up"], "some text\n\nsum up"),
        ("some text\n", [], "some text\n"),
        ("", ["sum up"], "sum up"),
        (" \n", ["sum up"], "sum up"),
    ],
)
def test_piped_text_precedes_the_prompt(
    fake: type[FakeLLM], stdin: str, prompt: list[str], expected: str
) -> None:
    assert call("m.gguf", *prompt, stdin=stdin).exit_code == 0
    assert asked(fake)[1] == [{"role": "user", "content": expected}]


def test_without_any_prompt_it_is_a_usage_error(fake: type[FakeLLM]) -> None:
    result = call("m.gguf")
    assert result.exit_code == 2
    assert "give a PROMPT" in result.stderr


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("What is new?", 1, 'error: What is new?: no model has this name; to ask the embedded one: '
         'run tiny "What is new?"'),
        ("Hello", 1, "error: Hello: there is no such file, and no model of that name; "
         "`sssd-local models` lists those here"),
        # A download would be too much for an error.
        ("hf:a/b", 2, "Error: give a PROMPT, or pipe one to stdin"),
    ],
)  # fmt: skip
def test_a_question_in_the_place_of_the_model(model: str, code: int, message: str) -> None:
    result = call(model)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.splitlines()[-1] == message


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_an_empty_prompt_is_a_usage_error(fake: type[FakeLLM], prompt: str, raw: list[str]) -> None:
    result = call("m.gguf", prompt, *raw)
    assert result.exit_code == 2
    assert "PROMPT is empty" in result.stderr


def test_stdin_that_is_no_text(fake: type[FakeLLM]) -> None:
    result = call("m.gguf", "hi", stdin=b"abc\xff\xfe")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: stdin is not UTF-8 text (byte 3); convert it first, or pass a file's text\n"
    )


def test_defaults_are_those_of_the_configs(fake: type[FakeLLM]) -> None:
    call("m.gguf", "hi")
    made, options = fake.calls[0][2], asked(fake)[2]
    options.pop("prompt_progress")
    assert ModelConfig(**made) == ModelConfig()
    sampling = {item.name for item in fields(SamplingConfig)}
    assert SamplingConfig(**{k: v for k, v in options.items() if k in sampling}) == SamplingConfig()
    rest = {k: v for k, v in options.items() if k not in sampling}
    assert GenerationConfig(**rest) == GenerationConfig()


FILE_TEXT = 'root ::= "a"'
OPTIONS: list[tuple[str, str, str, Any]] = [
    ("--temp", "0.5", "temperature", 0.5),
    ("--temperature", "0", "temperature", 0.0),
    ("--top-k", "7", "top_k", 7),
    ("--top-p", "0.5", "top_p", 0.5),
    ("--min-p", "0.2", "min_p", 0.2),
    ("--typical-p", "0.9", "typical_p", 0.9),
    ("--repeat-penalty", "1.2", "repeat_penalty", 1.2),
    ("--presence-penalty", "0.3", "presence_penalty", 0.3),
    ("--frequency-penalty", "-0.4", "frequency_penalty", -0.4),
    ("--penalty-last-n", "5", "penalty_last_n", 5),
    ("--logit-bias", "42=-1.5", "logit_bias", {42: -1.5}),
    ("--seed", "9", "seed", 9),
    ("--grammar", "FILE", "grammar", FILE_TEXT),
    ("--json-schema", "FILE", "json_schema", FILE_TEXT),
    ("--stop", "END", "stop", ("END",)),
    ("--max-tokens", "12", "max_tokens", 12),
    ("--overflow", "shift", "overflow", "shift"),
    ("--chat-template", "FILE", "chat_template", FILE_TEXT),
    ("--speculation", "off", "speculation", "off"),
    ("--speculation", "8", "speculation", 8),
    ("--ctx", "1024", "ctx", 1024),
    ("--threads", "3", "threads", 3),
    ("--threads-batch", "2", "threads_batch", 2),
    ("--main-gpu", "1", "main_gpu", 1),
    ("--tensor-split", "3,1", "tensor_split", (3.0, 1.0)),
    ("--kv-type-v", "q8_0", "kv_type_v", "q8_0"),
    ("--flash-attention", "on", "flash_attention", "on"),
    ("--lora", "a=b.gguf=0.5", "lora", (("a=b.gguf", 0.5),)),
    ("--gpu-layers", "4", "gpu_layers", 4),
    ("--datastore", "code", "datastores", ("code",)),
    ("--kv-type", "q8_0", "kv_type", "q8_0"),
]


def value_of(fake: type[FakeLLM], name: str) -> Any:
    return fake.calls[0][2][name] if name in MODEL_FIELDS else asked(fake)[2][name]


@pytest.mark.parametrize(("option", "text", "name", "value"), OPTIONS)
@pytest.mark.parametrize("by_environment", [False, True])
def test_every_option_and_its_variable(
    fake: type[FakeLLM],
    tmp_path: Path,
    option: str,
    text: str,
    name: str,
    value: Any,
    by_environment: bool,
) -> None:
    if text == "FILE":
        text = str(tmp_path / "file")
        Path(text).write_text(FILE_TEXT)
    if by_environment:
        option = {"--temperature": "--temp"}.get(option, option)
        variable = "SSSD_LOCAL_" + option[2:].replace("-", "_").upper()
        result = call("m.gguf", "hi", env={variable: text})
    else:
        result = call("m.gguf", "hi", option, text)
    assert result.exit_code == 0, result.output
    assert value_of(fake, name) == value


def test_every_option_is_in_the_table_above() -> None:
    command: Any = main.commands["run"]  # type: ignore[attr-defined]
    names = {name for parameter in command.params for name in parameter.opts if name[:2] == "--"}
    elsewhere = {"--system", "--system-file", "--raw", "--stats", "--verbose", "--debug"}
    elsewhere |= {"--config", "--template-arg", "--think", "--markdown", "--continue"}
    elsewhere |= {"--no-history", "--private", "--swa-full"}
    assert names == {option for option, *_ in OPTIONS} | elsewhere
    given = [parameter.envvar for parameter in command.params if parameter.opts[0][:1] == "-"]
    variables = [v for each in given for v in ([each] if isinstance(each, str) else each)]
    assert "SSSD_LOCAL_TEMPERATURE" in variables
    assert all(variable.startswith("SSSD_LOCAL_") for variable in variables)
    assert len(set(variables)) == len(variables)


@pytest.mark.parametrize("arguments", [["--swa-full"], ["--no-swa-full"], []])
def test_a_switch_can_be_on_off_or_left_to_the_machine(
    fake: type[FakeLLM], arguments: list[str]
) -> None:
    assert call("m.gguf", "hi", *arguments).exit_code == 0
    meaning = {"--swa-full": True, "--no-swa-full": False}
    assert value_of(fake, "swa_full") is (meaning[arguments[0]] if arguments else None)


def test_datastores_add_up_and_are_words_in_the_environment(fake: type[FakeLLM]) -> None:
    call("m.gguf", "hi", "--datastore", "code", "--datastore", "notes")
    assert value_of(fake, "datastores") == ("code", "notes")
    fake.calls.clear()
    call("m.gguf", "hi", env={"SSSD_LOCAL_DATASTORE": "code notes"})
    assert value_of(fake, "datastores") == ("code", "notes")


def test_adapters_add_up_and_come_from_the_environment_as_paths_do(fake: type[FakeLLM]) -> None:
    call("m.gguf", "hi", "--lora", "a", "--lora", "b=2")
    assert value_of(fake, "lora") == (("a", 1.0), ("b", 2.0))
    fake.calls.clear()
    call("m.gguf", "hi", env={"SSSD_LOCAL_LORA": os.pathsep.join(("a=0.5", "b c"))})
    assert value_of(fake, "lora") == (("a", 0.5), ("b c", 1.0))


def test_repeated_options_add_up(fake: type[FakeLLM]) -> None:
    call("m.gguf", "hi", "--stop", "A", "--stop", "B", "--logit-bias", "1=2", "--logit-bias", "3=4")
    assert value_of(fake, "stop") == ("A", "B")
    assert value_of(fake, "logit_bias") == {1: 2.0, 3: 4.0}
    call("m.gguf", "hi", env={"SSSD_LOCAL_STOP": "a b\nc"})
    assert value_of(fake, "stop") == ("a b", "c")


def test_system_messages(fake: type[FakeLLM], tmp_path: Path) -> None:
    system = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    call("m.gguf", "hi", "--system", "be kind")
    assert asked(fake)[1] == system
    (tmp_path / "s.txt").write_text("be kind")
    call("m.gguf", "hi", "--system-file", str(tmp_path / "s.txt"))
    assert asked(fake)[1] == system


def test_the_command_line_overrules_the_environment(fake: type[FakeLLM], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(FILE_TEXT)
    system = {"SSSD_LOCAL_SYSTEM": "be kind"}
    assert call("m.gguf", "hi", "--raw", env=system).exit_code == 0
    assert asked(fake)[:2] == ("stream", "hi")
    assert call("m.gguf", "hi", "--system-file", str(file), env=system).exit_code == 0
    assert asked(fake)[1][0] == {"role": "system", "content": FILE_TEXT}
    grammar = {"SSSD_LOCAL_GRAMMAR": str(file)}
    assert call("m.gguf", "hi", "--json-schema", str(file), env=grammar).exit_code == 0
    assert value_of(fake, "grammar") is None
    assert call("m.gguf", "hi", env={**system, "SSSD_LOCAL_RAW": "1"}).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temp", "warm"], "'warm' is not a valid float"),
        (["--temp", "-1"], "temperature must be 0 or more, got -1.0"),
        (["--top-p", "1.3"], "top_p must be in (0, 1], got 1.3"),
        (["--tempp", "1"], "--tempp"),
        (["--speculation", "65"], "a width from 1 to 64"),
        (["--logit-bias", "x"], "'x' is not a token id and a number"),
        (["--ctx", "2"], "2 is not in the range x>=8"),
        (["--threads", "0"], "0 is not in the range 1<=x<=1024"),
        (["--threads-batch", "0"], "0 is not in the range 1<=x<=1024"),
        (["--gpu-layers", "-2"], "-2 is not in the range x>=-1"),
        (["--main-gpu", "256"], "256 is not in the range 0<=x<=255"),
        (["--tensor-split", "0,0"], "must be shares of 0 or more, and not all 0"),
        (["--flash-attention", "yes"], "'yes' is not one of"),
        (["--lora", "=1"], "lora names no file"),
        (["--kv-type", "q8_0", "--flash-attention", "off"], "need flash attention"),
        (["--kv-type", "q4"], "'q4' is not one of"),
        (["--raw", "--system", "a"], "--raw has no system message"),
        (["--system", "a", "--system-file", "b"], "cannot be used together"),
        (["--max-tokens", "0"], "max_tokens must be a whole number at least 1, got 0"),
        (["--seed", "-1"], "seed must be"),
        (["--stop", ""], "stop must be texts that are not empty"),
    ],
)
def test_impossible_options_are_usage_errors(
    fake: type[FakeLLM], arguments: list[str], message: str
) -> None:
    result = call("m.gguf", "hi", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.fixture
def chats(fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What chats were started with."""
    started: list[dict[str, Any]] = []
    for module in (sssd_local.cli, sssd_local.cli_answer, sssd_local.cli_status):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setattr("sssd_local.chat.repl.run_repl", lambda llm, **how: started.append(how))
    return started


def test_a_chat_without_a_model_says_what_answers(
    fake: type[FakeLLM], chats: list[dict[str, Any]], embedded: Callable[..., Result]
) -> None:
    result = embedded()
    assert (result.exit_code, result.stderr) == (0, f"{sssd_local.builtin.TINY_NOTE}\n")
    assert chats[0]["model_name"] == "tiny.gguf"


def test_a_chat_and_its_defaults(fake: type[FakeLLM], chats: list[dict[str, Any]]) -> None:
    assert call("folder/m.gguf").exit_code == 0
    (how,) = chats
    assert fake.calls[1] == ("check", None, how["settings"].options)
    assert how["settings"].options.pop("overflow") == "drop-oldest"
    assert how["settings"] == ChatSettings(options=how["settings"].options)
    assert (how["model_name"], how["system"], how["history"]) == ("m.gguf", None, True)
    assert (how["private"], how["go_on"]) == (False, False)


def test_options_of_a_chat(chats: list[dict[str, Any]]) -> None:
    pytest.importorskip("rich")
    looks = ["--think", "hide", "--markdown", "on", "--stats", "none", "--template-arg", "a=1"]
    kept = ["--private", "--no-history", "--system", "Be kind.", "--overflow", "stop"]
    assert call("m.gguf", *looks, *kept).exit_code == 0
    assert call("m.gguf", "--stats", "json", "-c").exit_code == 0
    how, other = chats
    settings = how["settings"]
    assert (settings.think, settings.markdown, settings.quiet) == (False, True, True)
    assert settings.template_arguments == {"a": 1}
    assert settings.options["overflow"] == "stop"
    assert (how["system"], how["history"], how["private"]) == ("Be kind.", False, True)
    assert (other["settings"].stats, other["settings"].quiet, other["go_on"]) == (
        "json",
        False,
        True,
    )


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read: No such file"), (b"\xff", "is not UTF-8 text")]
)
@pytest.mark.parametrize(
    "option", ["--grammar", "--json-schema", "--chat-template", "--system-file"]
)
def test_files_that_cannot_be_read(
    fake: type[FakeLLM], tmp_path: Path, option: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    result = call("m.gguf", "hi", option, str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_statistics(fake: type[FakeLLM]) -> None:
    assert call("m.gguf", "hi", "--stats", "line").stderr == "0 tokens\n"
    as_json = json.loads(call("m.gguf", "hi", "--stats", "json").stderr.splitlines()[-1])
    wanted = (
        "prompt_tokens prompt_ms tokens ms tokens_per_second steps tested accepted by_source "
        "plain_ms speedup draft_ms"
    )
    assert set(wanted.split()) <= set(as_json)
    assert call("m.gguf", "hi", "--stats", "none").stderr == ""


def test_errors_of_the_model_are_one_line(
    fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "raises", ModelError("it broke"))
    result = call("m.gguf", "hi")
    assert (result.exit_code, result.stderr) == (1, "error: it broke\n")
    assert result.stdout == "Hello there\n"
    debugged = call("m.gguf", "hi", "--debug")
    assert "Traceback" in debugged.stderr
    assert debugged.stderr.endswith("error: it broke\n")


def test_ctrl_c_keeps_what_was_written(
    fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "raises", KeyboardInterrupt())
    result = call("m.gguf", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "Hello there\n", "")
    assert fake.calls[-1][0] == "close"


LOADING = "\r\x1b[Kloading the model: 50 %\r\x1b[K"
READING = "\r\x1b[Kreading the prompt: 1 of 2 tokens\r\x1b[K"


def test_long_work_is_shown_on_a_terminal_and_wiped(
    fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sssd_local.cli, sssd_local.cli_answer, sssd_local.cli_status):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setattr(sssd_local.cli_answer, "QUIET_SECONDS", -1.0)
    # Escapes are kept, as click does for a terminal.
    result = CliRunner().invoke(main, ["run", "m.gguf", "hi"], color=True)
    assert result.stdout == "Hello there\n"
    assert result.stderr == LOADING + READING + "0 tokens\n"


def test_quick_work_is_not_shown(fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sssd_local.cli, sssd_local.cli_answer, sssd_local.cli_status):
        monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    monkeypatch.setattr(sssd_local.cli_answer, "QUIET_SECONDS", 1e9)
    assert call("m.gguf", "hi").stderr == "0 tokens\n"
    assert call("m.gguf", "hi", "--stats", "none").stderr == ""


@pytest.mark.parametrize("method", ["load", "prompt"])
def test_ctrl_c_while_a_real_model_loads_or_reads(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sssd_local.cli_answer.Progress, method, interrupt)
    result = call(str(tiny_model()), "a", "--raw", "--ctx", "128", "--speculation", "off")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sssd_local.cli", *map(str, arguments)]


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SSSD_LOCAL_HOME": str(options.pop("home"))}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if sys.platform != "win32":
        # A shell starts background jobs with Ctrl-C ignored, and that is inherited.
        options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(command(*arguments), env=environment, **{**pipes, **options})


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_click_only(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from sssd_local.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'llama_cpp', 'gguf', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "sssd-local" in done.stdout or "MODEL" in done.stdout


@pytest.mark.parametrize("closed_stdin", [False, True])
def test_a_real_model_answers(tiny_model: TinyModel, tmp_path: Path, closed_stdin: bool) -> None:
    arguments = ["run", tiny_model(), "the rain", "--temp", "0", "--max-tokens", "30", "--raw"]
    options: dict[str, Any] = {"home": tmp_path}
    if closed_stdin:
        options["preexec_fn"] = lambda: os.close(0)
    process = start(*arguments, "--ctx", "128", "--stats", "json", **options)
    out, err = process.communicate()
    assert process.returncode == 0, err
    stats = json.loads(err.decode().splitlines()[-1])
    assert stats["tokens"] == 30
    plain = start(*arguments, "--ctx", "128", "--speculation", "off", home=tmp_path)
    assert plain.communicate()[0] == out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.gguf", None, "there is no such file"),
        ("text.gguf", b"not a model", "is not a GGUF file"),
        ("empty.gguf", b"", "is empty"),
        (".", None, "is a folder"),
    ],
)
def test_what_is_no_model(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    process = start("run", tmp_path / name, "hi", home=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err.decode().startswith("error: ")
    assert message in err.decode()
    assert err.count(b"\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_while_it_writes(
    tiny_model: TinyModel, tmp_path: Path, number: int, code: int
) -> None:
    model = tiny_model(ctx_length=131072)
    # Letters only: the answer must not end by itself or hold its bytes back.
    banned = [f"--logit-bias={token}=-inf" for token in range(259)]
    arguments = ["run", model, "a", "--raw", "--ctx", "65536", "--speculation", "off", *banned]
    process = start(*arguments, home=tmp_path)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == b""
    assert out.endswith(b"\n")


SHORT = ("--raw", "--temp", "0", "--max-tokens", "8", "--ctx", "128", "--speculation", "off")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tiny_model: TinyModel, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start("run", tiny_model(), "a", *SHORT, home=tmp_path, stdout=full)
        _, err = process.communicate()
    assert (process.returncode, err) == (
        1,
        b"error: the answer cannot be written: No space left on device\n",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX descriptors")
@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_closed_output_is_no_traceback(
    tiny_model: TinyModel, tmp_path: Path, descriptor: int
) -> None:
    close: dict[str, Any] = {"preexec_fn": lambda: os.close(descriptor)}
    process = start("run", tiny_model(), "a", *SHORT, "--stats", "line", home=tmp_path, **close)
    out, err = process.communicate()
    # Without stdout there is nowhere to answer; without stderr only the statistics are lost.
    assert process.returncode == (1 if descriptor == 1 else 0), err
    assert b"Traceback" not in err
    assert (b"stdout is closed" in err) == (descriptor == 1)
    assert bool(out) == (descriptor == 2)


def test_a_console_that_lacks_characters(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    # Only bytes that are no UTF-8: every one becomes U+FFFD, which ASCII lacks.
    banned = [f"--logit-bias={t}=-inf" for t in range(320) if not 3 + 0x80 <= t < 3 + 0xC0]
    process = start("run", tiny_model(), "a", *SHORT, *banned, home=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.strip(b"?") == b"\n"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="arguments are bytes on Linux")
@pytest.mark.parametrize("option", ["PROMPT", "--system"])
def test_arguments_that_are_no_text(fake: type[FakeLLM], option: str) -> None:
    words = {"PROMPT": ["caf\udce9"], "--system": ["hi", "--system", "caf\udce9"]}[option]
    result = call("m.gguf", *words)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {option} is not UTF-8 text (character 3); check the terminal's encoding\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_closed_pipe_ends_it_quietly(tiny_model: TinyModel, tmp_path: Path) -> None:
    banned = [f"--logit-bias={token}=-inf" for token in range(259)]
    arguments = ["run", tiny_model(ctx_length=131072), "a", "--raw", "--ctx", "65536"]
    process = start(*arguments, "--speculation", "off", *banned, home=tmp_path)
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_misspelt_variable_is_an_error(fake: type[FakeLLM]) -> None:
    result = call("m.gguf", "hi", env={"SSSD_LOCAL_TMEP": "0"})
    assert result.exit_code == 2
    assert result.stderr == (
        "error: unknown environment variable 'SSSD_LOCAL_TMEP'; did you mean 'SSSD_LOCAL_TEMP'?\n"
    )
    call("m.gguf", "hi", env={"SSSD_LOCAL_TEMPERATURE": "0"})
    assert value_of(fake, "temperature") == 0


def test_an_option_beats_a_flag_of_the_environment(fake: type[FakeLLM]) -> None:
    result = call("m.gguf", "hi", "--system", "foo", env={"SSSD_LOCAL_RAW": "1"})
    assert result.exit_code == 0, result.stderr
    assert asked(fake)[1][0] == {"role": "system", "content": "foo"}
    fake.calls.clear()
    call("m.gguf", "hi", "--no-raw", env={"SSSD_LOCAL_RAW": "1"})
    assert asked(fake)[0] == "chat"


def test_errors_are_one_line_without_control_characters(
    fake: type[FakeLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "raises", SSSDError("bad \x1b[31mname\x1b[2J\nsecond line"))
    result = call("m.gguf", "hi")
    assert result.exit_code == 1
    assert result.stderr == "error: bad \\x1b[31mname\\x1b[2J second line\n"


def test_a_byte_order_mark_on_stdin_is_no_text(fake: type[FakeLLM]) -> None:
    call("m.gguf", stdin=b"\xef\xbb\xbfhello")
    assert asked(fake)[1] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("arguments", [["run", "m.gguf", "hi"], ["config", "show"]])
def test_a_home_of_nobody_is_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSSD_LOCAL_HOME", "~no-such-user-here")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "there is no such user" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_after_two_dashes_is_a_word(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "show", "--", "-h"])
    assert result.exit_code == 0, result.output
    assert "temp = 0.8" in result.stdout
