"""Models by name: caches of several programs, and what a MODEL argument means."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sssd_local import builtin, library
from sssd_local.errors import ModelError
from sssd_local.files import app_folder
from sssd_local.hub import repo_folder
from sssd_local.library import find_model, local_models, places
from tests.hub_server import Hub, hub, hub_cache

__all__ = ["hub", "hub_cache"]
# What the fixtures below put something else in the place of.
PACKAGE = (library.BUILTIN_MODELS, library.builtin_path)


def write(path: Path, num_bytes: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF".ljust(num_bytes, b"\0"))
    return path


def ours(name: str, num_bytes: int = 8) -> Path:
    return write(app_folder() / "models" / name, num_bytes)


@pytest.fixture(autouse=True)
def _no_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    embed({}, monkeypatch)


def embed(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts other models in the place of those in the package."""

    def path_of(name: str) -> Path | None:
        if name == "broken":
            raise ModelError("the built-in model is missing")
        return models.get(name)

    monkeypatch.setattr(library, "BUILTIN_MODELS", models)
    monkeypatch.setattr(library, "builtin_path", path_of)


def test_models_of_all_places_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    folder = repo_folder("some/Repo-GGUF") / "snapshots" / "abc"
    paths = [
        ours("own/Mine-Q4_0.gguf", 10),
        write(folder / "Hub-Q8_0.gguf", 20),
        write(home / ".lmstudio" / "models" / "a" / "b" / "Studio.gguf", 30),
        write(home / ".cache" / "lm-studio" / "models" / "Old.gguf", 40),
        write(home / ".cache" / "llama.cpp" / "Llama.gguf", 50),
    ]
    found = local_models()
    assert [model.path for model in found] == paths
    assert [model.name for model in found] == ["Mine-Q4_0", "Hub-Q8_0", "Studio", "Old", "Llama"]
    assert [model.num_bytes for model in found] == [10, 20, 30, 40, 50]
    assert [model.place for model in found] == [
        "sssd-local",
        "Hugging Face",
        "LM Studio",
        "LM Studio",
        "llama.cpp",
    ]
    assert [model.repo for model in found] == ["", "some/Repo-GGUF", "", "", ""]


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", ".cache/llama.cpp"),
        ("darwin", "Library/Caches/llama.cpp"),
        ("win32", "AppData/Local/llama.cpp"),
    ],
)
def test_llama_cpps_cache_is_where_llama_cpp_has_it(
    platform: str, folder: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert places()[-1] == ("llama.cpp", home / folder)
    monkeypatch.setenv("LLAMA_CACHE", "/elsewhere")
    assert places()[-1] == ("llama.cpp", Path("/elsewhere"))


def test_parts_are_one_model_and_image_parts_none() -> None:
    first = ours("m-00001-of-00002.gguf", 10)
    ours("m-00002-of-00002.gguf", 5)
    ours("mmproj-m.gguf")
    ours("n-00001-of-00002.gguf")
    (model,) = local_models()
    assert (model.name, model.path) == ("m", first)
    assert (model.num_bytes, model.num_parts) == (15, 2)


def test_an_older_revision_of_a_file_is_not_listed_again() -> None:
    folder = repo_folder("a/b")
    current = write(folder / "snapshots" / "2" / "m.gguf")
    write(folder / "snapshots" / "1" / "m.gguf", 9)
    old = write(folder / "snapshots" / "1" / "gone.gguf")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("2")
    assert [model.path for model in local_models()] == [current, old]


def test_a_link_to_the_same_file_is_not_listed_again(home: Path) -> None:
    path = ours("m.gguf")
    link = home / ".lmstudio" / "models" / "m.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    link.with_name("broken.gguf").symlink_to(home / "nowhere")
    assert [model.path for model in local_models()] == [path]


def test_of_equal_copies_the_first_has_the_name(home: Path) -> None:
    path = ours("Same.gguf")
    copy = write(home / ".lmstudio" / "models" / "same.gguf")
    assert [model.name for model in local_models()] == ["Same", str(copy)]
    assert find_model("SAME") == path


def test_different_models_of_one_name_go_by_their_paths(home: Path) -> None:
    paths = [ours("m.gguf", 8), write(home / ".lmstudio" / "models" / "m.gguf", 9)]
    assert [model.name for model in local_models()] == list(map(str, paths))
    with pytest.raises(ModelError, match="several models have that name"):
        find_model("m")


def test_a_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours("tiny.gguf")
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "hf:a"):
        write(tmp_path / name)
        assert find_model(name) == Path(name)


def test_a_short_name_is_a_stem_in_any_case_with_or_without_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ours("Qwen3-0.6B-Q8_0.gguf")
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen3-0.6B-Q8_0", "qwen3-0.6b-q8_0", "Qwen3-0.6B-Q8_0.gguf"):
        assert find_model(name) == path
    # A folder of that name is no model.
    (tmp_path / "Qwen3-0.6B-Q8_0").mkdir()
    assert find_model("Qwen3-0.6B-Q8_0") == path
    (tmp_path / "folder").mkdir()
    assert find_model("folder") == Path("folder")


def test_tiny_is_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = write(tmp_path / "embedded.gguf"), ours("tiny.gguf", 9)
    embed({"tiny": path}, monkeypatch)
    assert find_model("tiny") == find_model("Tiny") == path
    assert [(model.name, model.place) for model in local_models()] == [
        ("tiny", "embedded"),
        (str(other), "sssd-local"),
    ]


def test_a_build_without_the_embedded_model_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed({"broken": tmp_path}, monkeypatch)
    assert local_models() == []
    with pytest.raises(ModelError, match="built-in model is missing"):
        find_model("broken")


def test_the_models_of_the_package_are_asked_for() -> None:
    assert (builtin.BUILTIN_MODELS, builtin.builtin_path) == PACKAGE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "qwen",
            "qwen: there is no such file, and no model of that name; did you mean "
            "Qwen3-0.6B-Q8_0 or Qwen3-4B-Q4_0? `sssd-local models` lists those here",
        ),
        (
            "Gemma-1b",
            "Gemma-1b: there is no such file, and no model of that name; did you mean "
            "gemma-3-1b? `sssd-local models` lists those here",
        ),
        (
            "xyz",
            "xyz: there is no such file, and no model of that name; `sssd-local models` lists "
            "those here",
        ),
        ("xyz.gguf", "xyz.gguf: there is no such file; give the path of a GGUF model"),
        (
            "https://huggingface.co/a/b/tree/main",
            "https://huggingface.co/a/b/tree/main is an address; a model of the hub is named "
            "hf:a/b",
        ),
        (
            "https://hf.co/a/b",
            "https://hf.co/a/b is an address; a model of the hub is named hf:a/b",
        ),
        ("a/b-GGUF", "a/b-GGUF: there is no such file; a model of the hub is named hf:a/b-GGUF"),
        ("a/b:Q4_0", "a/b:Q4_0: there is no such file; a model of the hub is named hf:a/b:Q4_0"),
        ("a/b.gguf", "a/b.gguf: there is no such file; give the path of a GGUF model"),
        (
            "What is new?",
            "What is new?: no model has this name; to ask the embedded one: "
            'run tiny "What is new?"',
        ),
        ("\0", "\0: there is no such file, and no model of that name; `sssd-local models`"),
        ("", ": there is no such file, and no model of that name; `sssd-local models`"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest(name: str, message: str) -> None:
    for known in ("Qwen3-4B-Q4_0", "Qwen3-0.6B-Q8_0", "gemma-3-1b"):
        ours(f"{known}.gguf")
    with pytest.raises(ModelError) as error:
        find_model(name)
    assert str(error.value).startswith(message)


def test_a_name_of_several_models_is_told_with_their_paths() -> None:
    paths = [ours("one/m.gguf"), ours("two/m.gguf")]
    paths[1].write_bytes(paths[1].read_bytes() + b"more")
    with pytest.raises(ModelError) as error:
        find_model("M.gguf")
    assert str(error.value) == (
        f"M.gguf: several models have that name; give the path: {paths[0]} or {paths[1]}"
    )


def test_split_models_of_one_name_are_told_with_their_first_parts() -> None:
    paths = [ours(f"{place}/m-00001-of-00002.gguf", 8 + place) for place in (1, 2)]
    for place in (1, 2):
        ours(f"{place}/m-00002-of-00002.gguf")
    with pytest.raises(ModelError) as error:
        find_model("M")
    assert str(error.value) == (
        f"M: several models have that name; give the path: {paths[0]} or {paths[1]}"
    )


def test_the_nearest_files_of_a_folder_are_offered(tmp_path: Path) -> None:
    near, wanted = write(tmp_path / "Qwen3-4B-Q4_0.gguf"), tmp_path / "qwen3-4b-q4_1.gguf"
    write(tmp_path / "notes.txt")
    with pytest.raises(ModelError) as error:
        find_model(str(wanted))
    assert str(error.value) == f"{wanted}: there is no such file; did you mean {near}?"
    with pytest.raises(ModelError, match="give the path of a GGUF model"):
        find_model(str(tmp_path / "none" / "x"))


def test_a_name_of_the_hub_is_downloaded_once(hub: Hub) -> None:
    hub.add("a/b", **{"m-Q8_0": b"GGUF"})
    said: list[str] = []
    path = find_model("hf:a/b:Q8_0", said.append)
    assert path.read_bytes() == b"GGUF"
    assert said
    num_requests = len(hub.requests)
    for name in ("hf:a/b", "hf:a/b:q8_0", "hf:a/b:m-Q8_0.gguf", "m-q8_0"):
        assert find_model(name) == path
    assert len(hub.requests) == num_requests


def test_a_downloaded_model_runs_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("a/b", m=b"GGUF")
    path = find_model("hf:a/b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_model("hf:a/b") == path
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        find_model("hf:a/b:Q8_0")


def test_the_defaults() -> None:
    assert (library.NUM_NEAREST, library.LEAST_LIKENESS) == (3, 0.5)


def test_models_that_answer_are_found(tiny_model: Callable[..., Path]) -> None:
    path = ours("real.gguf")
    path.write_bytes(tiny_model().read_bytes())
    (model,) = local_models()
    assert model.num_bytes == tiny_model().stat().st_size
