"""What the package exports, imports and ships, and which room may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import sssd_local

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sssd_local"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The rooms that know nothing of llama.cpp, so that they can be tested without a model.
FREE_ROOMS = ("draft", "hardware")
ENGINE_ROOMS = ("cli", "llm", "costs", "stats", "overflow", "server")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The names of all modules a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def belongs(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def loaded_after(script: str) -> set[str]:
    """The top-level modules in memory after a script in a fresh process."""
    code = f"import sys\n{script}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sssd_local.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sssd_local, name) is not None


def test_public_names_are_those_of_their_modules() -> None:
    from sssd_local import config, errors, llm, stats

    assert sssd_local.LLM is llm.LLM
    assert sssd_local.Chunk is llm.Chunk
    assert sssd_local.Completion is llm.Completion
    assert sssd_local.Stats is stats.Stats
    assert sssd_local.SamplingConfig is config.SamplingConfig
    assert sssd_local.SSSDError is errors.SSSDError


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sssd_local' has no attribute 'LLLM'"):
        sssd_local.LLLM  # noqa: B018 - the access is the test


def test_importing_the_package_is_light() -> None:
    assert not {"numpy", "llama_cpp", "gguf", "click"} & loaded_after("import sssd_local")


def test_options_and_errors_need_the_standard_library_only() -> None:
    script = "from sssd_local import GenerationConfig, ModelConfig, SamplingConfig, SSSDError"
    assert not {"numpy", "llama_cpp", "gguf", "click"} & loaded_after(script)


def test_the_version_is_written_once_more_in_the_project_file() -> None:
    assert PROJECT["version"] == sssd_local.__version__


def test_the_type_marker_and_the_licence_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert [(ROOT / name).is_file() for name in PROJECT["license-files"]] == [True]
    assert (ROOT / PROJECT["readme"]).is_file()


@pytest.mark.parametrize("command", PROJECT["scripts"].items())
def test_the_commands_point_at_something_callable(command: tuple[str, str]) -> None:
    module, _, function = command[1].partition(":")
    assert callable(getattr(import_module(module), function))


def test_only_the_backend_imports_llama_cpp() -> None:
    users = [path for path in modules() if any(belongs(m, "llama_cpp") for m in imports(path))]
    assert users == [PACKAGE / "engine" / "backend.py"]


@pytest.mark.parametrize("room", FREE_ROOMS)
def test_some_rooms_know_nothing_of_llama_cpp(room: str) -> None:
    forbidden = ["sssd_local.engine", *(f"sssd_local.{name}" for name in ENGINE_ROOMS)]
    for path in (PACKAGE / room).glob("*.py"):
        found = {m for m in imports(path) for name in forbidden if belongs(m, name)}
        assert found == set(), path.name


def test_nothing_imports_the_command_line() -> None:
    for path in modules():
        if path.stem not in ("cli", "__main__"):
            assert not any(m == "sssd_local.cli" for m in imports(path)), path.name


def test_nothing_shipped_needs_what_is_not_installed_with_it() -> None:
    """Models, benchmarks and tests are no part of the wheel, and no network library is used."""
    for path in modules():
        for module in imports(path):
            top = module.split(".")[0]
            assert top not in ("models", "bench", "tests"), path.name
            assert top not in ("socket", "ssl", "http", "urllib", "requests"), path.name
            assert top in ("psutil", "msvcrt", "matplotlib") or find_spec(top) is not None, (
                path.name
            )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body


def test_ctrl_c_while_importing_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    import sssd_local.__main__ as start

    codes: list[int] = []
    monkeypatch.setattr(start.os, "_exit", codes.append)
    monkeypatch.setitem(sys.modules, "sssd_local.cli", _Interrupted("sssd_local.cli"))
    start.main()
    assert codes == [130]


class _Interrupted(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt
