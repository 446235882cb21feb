"""Models by name: those on this machine, and what a MODEL argument means."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sssd_local.builtin import BUILTIN_MODELS, builtin_path
from sssd_local.errors import ModelError
from sssd_local.files import app_folder
from sssd_local.hub import cache_folder, cached, fetch, models_in, snapshots
from sssd_local.hub_files import PREFIX, ModelFiles, parse_hub_name

EMBEDDED = "embedded"
NUM_NEAREST = 3
# How alike a name must be to be offered in the place of an unknown one (difflib's ratio).
LEAST_LIKENESS = 0.5
# USER/REPO or USER/REPO:QUANT, as the hub shows it.
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?<!\.gguf)(:[\w.-]+)?")
_ADDRESSES = (
    "https://hf.co/",
    "https://huggingface.co/",
    "http://huggingface.co/",
    "huggingface.co/",
    "hf.co/",
)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine: what to type for it, its (first) file and the bytes of all parts."""

    name: str
    path: Path
    num_bytes: int
    num_parts: int
    place: str
    repo: str = ""


def find_model(
    name: str, say: Callable[[str], None] = lambda text: None, *, may_fetch: bool = True
) -> Path:
    """The file that a MODEL argument means: a path, a short name such as `tiny`, or `hf:USER/REPO`.

    Only `hf:` may download, when the cache lacks the model; `say` is told how far that is. Raises
    ModelError with the nearest names for one that is unknown.
    """
    if os.path.exists(name) and not os.path.isdir(name):
        return Path(name)
    if name.startswith(PREFIX):
        wanted = parse_hub_name(name)
        path = cached(wanted)
        if path is None and not may_fetch:
            raise ModelError(f"{name} is not in the cache; `sssd-local models` lists what is here")
        return path or fetch(wanted, say)
    key = name.casefold()
    embedded = builtin_path(key)
    if embedded is not None:
        return embedded
    models = local_models()
    for model in models:
        if key in (model.name.casefold(), f"{model.name.casefold()}.gguf"):
            return model.path
    if os.path.isdir(name):
        # The reader of headers says what to give instead.
        return Path(name)
    raise ModelError(_unknown(name, models))


def local_models() -> list[LocalModel]:
    """The embedded model and those of the caches; names are file stems where that is unambiguous.

    Of equal copies the first has the stem as its name, the others go by their paths.
    """
    found: list[LocalModel] = []
    seen: set[Path] = set()
    for model in _all_models():
        target = Path(os.path.realpath(model.path))
        if target not in seen:
            seen.add(target)
            found.append(model)
    sizes: dict[str, set[int]] = {}
    for model in found:
        if model.place != EMBEDDED:
            sizes.setdefault(model.name.casefold(), set()).add(model.num_bytes)
    named: set[str] = set()
    models = []
    for model in found:
        key = model.name.casefold()
        is_free = key not in named and len(sizes.get(key, ())) <= 1
        if model.place == EMBEDDED or is_free:
            named.add(key)
            models.append(model)
        else:
            models.append(replace(model, name=str(model.path)))
    return models


def places() -> list[tuple[str, Path]]:
    """Folders with models, the hub's cache left out, by whose they are."""
    home = Path(os.path.expanduser("~"))
    return [
        ("sssd-local", app_folder() / "models"),
        ("LM Studio", home / ".lmstudio" / "models"),
        ("LM Studio", home / ".cache" / "lm-studio" / "models"),
        ("llama.cpp", _llama_cache(home)),
    ]


def _llama_cache(home: Path) -> Path:
    """As llama.cpp finds it (common.cpp: fs_get_cache_directory)."""
    chosen = os.environ.get("LLAMA_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "llama.cpp"


def _all_models() -> Iterator[LocalModel]:
    yield from _embedded()
    (ours, *others) = places()
    yield from _in_folder(*ours)
    yield from _in_hub_cache()
    for place, folder in others:
        yield from _in_folder(place, folder)


def _in_folder(place: str, folder: Path) -> Iterator[LocalModel]:
    for files in models_in(folder):
        yield from _model(files, folder, place)


def _in_hub_cache() -> Iterator[LocalModel]:
    for folder in sorted(cache_folder().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        listed: set[str] = set()
        for snapshot in snapshots(folder):
            for files in models_in(snapshot):
                if files.first not in listed:
                    listed.add(files.first)
                    yield from _model(files, snapshot, "Hugging Face", repo)


def _model(files: ModelFiles, folder: Path, place: str, repo: str = "") -> Iterator[LocalModel]:
    try:
        num_bytes = sum((folder / name).stat().st_size for name in files.names)
    except OSError:
        # Removed a moment ago.
        return
    path = folder / files.first
    yield LocalModel(files.stem, path, num_bytes, len(files.names), place, repo)


def _embedded() -> Iterator[LocalModel]:
    for name in BUILTIN_MODELS:
        # Its own error is told when somebody asks for it.
        with suppress(ModelError):
            path = builtin_path(name)
            if path is not None:
                yield LocalModel(name, path, path.stat().st_size, 1, EMBEDDED)


def _unknown(name: str, models: list[LocalModel]) -> str:
    for address in _ADDRESSES:
        if name.startswith(address):
            repo = "/".join(name.removeprefix(address).split("/")[:2])
            return f"{name} is an address; a model of the hub is named {PREFIX}{repo}"
    stem = name.casefold().removesuffix(".gguf")
    same = [
        str(m.path)
        for m in models
        if stem in (ModelFiles((m.path.name,)).stem.casefold(), m.path.stem.casefold())
    ]
    if same:
        return f"{name}: several models have that name; give the path: {' or '.join(same)}"
    near = _nearest(name, models)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if not hint and " " in name:
        return f'{name}: no model has this name; to ask the embedded one: run tiny "{name}"'
    if not hint and _REPOSITORY.fullmatch(name):
        return f"{name}: there is no such file; a model of the hub is named {PREFIX}{name}"
    if _looks_like_a_path(name):
        return f"{name}: there is no such file{hint or '; give the path of a GGUF model'}"
    return (
        f"{name}: there is no such file, and no model of that name{hint or ';'} "
        "`sssd-local models` lists those here"
    )


def _looks_like_a_path(name: str) -> bool:
    return name.lower().endswith(".gguf") or "/" in name or os.sep in name


def _nearest(name: str, models: list[LocalModel]) -> list[str]:
    """Names a user may have meant: those that hold what was typed, then those most alike."""
    known = [model.name for model in models if model.name != str(model.path)]
    if _looks_like_a_path(name):
        known += _neighbours(name)
    keys = {candidate.casefold(): candidate for candidate in reversed(known)}
    key = name.casefold()
    holding = sorted(candidate for candidate in keys if key and key in candidate)
    alike = difflib.get_close_matches(key, keys, NUM_NEAREST, LEAST_LIKENESS)
    return [keys[candidate] for candidate in dict.fromkeys([*holding, *alike])][:NUM_NEAREST]


def _neighbours(name: str) -> list[str]:
    """GGUF files in the folder of a path, written as the path was."""
    folder = os.path.dirname(name)
    try:
        names = os.listdir(folder or ".")
    except (OSError, ValueError):
        return []
    return [os.path.join(folder, item) for item in names if item.lower().endswith(".gguf")]
