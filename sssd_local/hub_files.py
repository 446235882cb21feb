"""Which files of a repository make up a model, and which of its models is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sssd_local.errors import ModelError

PREFIX = "hf:"
# What is taken when the user names no quantisation, the first that is there.
PREFERRED = ("Q4_K_M", "Q4_0", "Q8_0", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q5_K_S", "Q6_K",
             "MXFP4", "Q3_K_M", "F16", "BF16", "F32")  # fmt: skip
# GGUF files beside the models: image parts, draft heads, statistics (llama.cpp: download.cpp).
_NO_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.IGNORECASE)
_QUANTISATION = re.compile(
    r"(?<![A-Z0-9])(?:UD-)?"
    r"(?:[IT]?Q\d(?:_(?:\d|K|M|NL|X*[SL]))+|MXFP4|NVFP4|BF16|FP?16|FP?32)(?![A-Z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on the hub: `choice` is a quantisation, the name of a file, or empty."""

    repo: str
    choice: str = ""

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo) or "--" in self.repo or ".." in self.repo:
            raise ModelError(
                f"{self.repo!r} names no repository; models of the hub are named like "
                "hf:USER/REPO or hf:USER/REPO:Q4_K_M"
            )

    def __str__(self) -> str:
        return PREFIX + self.repo + (f":{self.choice}" if self.choice else "")


def parse_hub_name(text: str) -> HubName:
    """Reads `hf:USER/REPO[:QUANT or FILE.gguf]`. Raises ModelError for anything else."""
    repo, _, choice = text.removeprefix(PREFIX).partition(":")
    return HubName(repo.strip("/"), choice)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The file of a model, or all parts of a split one in order; names with `/` in them."""

    names: tuple[str, ...]

    @property
    def first(self) -> str:
        """The name of the file that is opened."""
        return self.names[0]

    @property
    def stem(self) -> str:
        """The name of that file without folders, number of the part and `.gguf`."""
        name = PurePosixPath(self.first).name
        part = _PART.fullmatch(name)
        return part[1] if part else name[: -len(".gguf")]

    @property
    def quantisation(self) -> str:
        """What the file's name says, or its folder's; empty when they say nothing."""
        folder = PurePosixPath(self.first).parent
        for text in (self.stem, *(part for part in reversed(folder.parts))):
            found = _QUANTISATION.findall(text)
            if found:
                return str(found[-1]).upper().replace("FP16", "F16").replace("FP32", "F32")
        return ""


def group(names: Iterable[str]) -> list[ModelFiles]:
    """The models among the files of a repository or folder, sorted; without incomplete ones."""
    models = []
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in sorted(set(names)):
        base = PurePosixPath(name).name.lower()
        if not base.endswith(".gguf") or any(word in base for word in _NO_MODELS):
            continue
        part = _PART.fullmatch(name)
        if part is None:
            models.append(ModelFiles((name,)))
        else:
            parts.setdefault((part[1], int(part[3])), {})[int(part[2])] = name
    for (_, count), found in parts.items():
        if sorted(found) == list(range(1, count + 1)):
            models.append(ModelFiles(tuple(found[number] for number in sorted(found))))
    return sorted(models, key=lambda model: model.names)


def matching(models: Sequence[ModelFiles], choice: str) -> list[ModelFiles]:
    """The models that a choice means; without one, those of the most preferred quantisation."""
    if choice.lower().endswith(".gguf"):
        wanted = choice.lower()
        exact = [model for model in models if wanted in map(str.lower, model.names)]
        return exact or [
            model
            for model in models
            if wanted in (PurePosixPath(name).name.lower() for name in model.names)
        ]
    for label in (choice,) if choice else PREFERRED:
        for form in (label.upper(), f"UD-{label.upper()}"):
            found = [model for model in models if model.quantisation == form]
            if found:
                return found
    return [] if choice else list(models)


def choose(models: Sequence[ModelFiles], name: HubName) -> ModelFiles:
    """The one model that is meant. Raises ModelError with those there are."""
    if not models:
        raise ModelError(f"{name.repo} holds no complete GGUF model; look for one with GGUF files")
    found = matching(models, name.choice)
    if len(found) == 1:
        return found[0]
    if not found:
        labels = [model.quantisation or PurePosixPath(model.first).name for model in models]
        there = ", ".join(dict.fromkeys(labels))
        raise ModelError(f"{name.repo} has no {name.choice}; there are {there}")
    names = ", ".join(model.first for model in found)
    raise ModelError(
        f"several models of {name.repo} could be meant; name the file, as in "
        f"hf:{name.repo}:{found[0].first} (there are {names})"
    )
