"""What was measured for a model on a machine, kept between runs in one small file each."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from sssd_local.config import MAX_THREADS
from sssd_local.errors import ModelError
from sssd_local.files import write_atomic
from sssd_local.hardware.probe import ProbePoint
from sssd_local.hardware.threads import default_threads, sysctl

VERSION = 4
MAX_BYTES = 16 << 20
DIGEST_BYTES = 1 << 20

log = logging.getLogger("sssd_local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a model is loaded, as far as it changes what steps cost.

    `threads` are those the user asked for, 0 when they are chosen by measurement; `gpus` the main
    one and the shares of each; `flash_attention` on, off, or auto where it is chosen by
    measurement or by llama.cpp; `lora` names the adapters by content; `kept_window` and
    `num_snapshots` are those of the context's plan.
    """

    threads: int = 0
    threads_batch: int = 0
    gpu_layers: int = 0
    gpus: str = ""
    kv_type: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: str = "auto"
    lora: str = ""
    kept_window: int = 0
    num_snapshots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileKey(Setup):
    """Everything that step times depend on; profiles of other keys are never used.

    `model_digest` is the blake2b of the first MiB of the file, `backend` llama.cpp's build and
    system information, `device` the GPUs its layers are offloaded to, `cores` those that threads
    may use: fewer in a container or behind `taskset`.
    """

    model_size: int
    model_mtime_ns: int
    model_digest: str
    backend: str
    device: str
    system: str
    cpu: str
    cores: int

    def digest(self) -> str:
        """A short name for the key, the same in every run."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def profile_key(model_path: Path, setup: Setup, *, backend: str, device: str = "") -> ProfileKey:
    """The key of a model file on this machine. Raises ModelError if the file cannot be read."""
    size, mtime_ns, digest = file_identity(model_path)
    return ProfileKey(
        model_size=size,
        model_mtime_ns=mtime_ns,
        model_digest=digest,
        backend=backend,
        device=device,
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        cores=default_threads(),
        **asdict(setup),
    )


def file_identity(path: Path) -> tuple[int, int, str]:
    """Bytes, time of change in ns, and blake2b of the first MiB. Raises ModelError."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(DIGEST_BYTES)
    except OSError as error:
        raise ModelError(
            f"cannot read the model file {path}: {error.strerror or error}; check the path "
            "and its permissions"
        ) from error
    return status.st_size, status.st_mtime_ns, hashlib.blake2b(head, digest_size=16).hexdigest()


def lora_identity(adapters: Sequence[tuple[str, float]]) -> str:
    """A short name for (path, scale) pairs that other files or scales do not have; "" for none."""
    if not adapters:
        return ""
    parts = [(*file_identity(Path(path)), scale) for path, scale in adapters]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as its maker gives it, or what the platform knows of it."""
    if sys.platform == "darwin":
        value = sysctl("machdep.cpu.brand_string")
        return value.rstrip(b"\0").decode(errors="replace") if value else platform.processor()
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value_text = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware") and value_text.strip():
            return value_text.strip()
    return platform.processor()


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a model on this machine.

    Cost points; the thread counts and the flash attention they were taken with; what a tree costs
    over a chain; what saving and loading a recurrent state costs; whether the full probe made them;
    and a calibration state made of what JSON can hold (None: none kept).
    """

    points: tuple[ProbePoint, ...]
    threads: int
    threads_batch: int
    branch_seconds: float = 0.0
    save_seconds: float = 0.0
    load_seconds: float = 0.0
    flash_attention: bool = False
    is_full: bool = False
    calibration: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        alone = {point.context_length for point in self.points}
        alone -= {point.context_length for point in self.points if point.width == 1}
        if not self.points or alone:
            raise ValueError("a profile must have the one-token step of each context length")
        counts = (self.threads, self.threads_batch)
        if not all(type(count) is int and 1 <= count <= MAX_THREADS for count in counts):
            raise ValueError(f"thread counts must be from 1 to {MAX_THREADS}, got {counts}")
        for name in ("branch_seconds", "save_seconds", "load_seconds"):
            value = getattr(self, name)
            if type(value) is not float or not 0 <= value < 60:
                raise ValueError(f"{name} must be a number from 0, got {value!r}")
        for name in ("flash_attention", "is_full"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class KeptProfile:
    """One file of the folder: the model's file name and what was measured for it, if readable."""

    path: Path
    model: str
    profile: Profile | None
    key: dict[str, Any]


class ProfileStore:
    """Profiles in a folder, one file per key. Never a reason to fail: what cannot be read or
    written is noted in the log and measured again."""

    def __init__(self, folder: Path) -> None:
        """The folder is created when the first profile is saved."""
        self.folder = folder

    def path(self, key: ProfileKey) -> Path:
        """The file of a key."""
        return self.folder / f"{key.digest()}.json"

    def load(self, key: ProfileKey, *, quiet: bool = False) -> Profile | None:
        """The profile kept for exactly this key; None if there is none or it is of no use.

        `quiet` leaves the note of that to a later load.
        """
        path = self.path(key)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ValueError("it is too large")
            return _parse(data, key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            if not quiet:
                log.warning("ignoring the profile %s, measuring again: %s", path.name, error)
            return None

    def save(self, key: ProfileKey, profile: Profile, model: str = "") -> bool:
        """Keeps a profile, replacing an older one; False if that was not possible.

        `model` is the model's file name, for `list`.
        """
        path = self.path(key)
        content = {
            "version": VERSION,
            "model": model,
            "key": asdict(key),
            **{name: getattr(profile, name) for name in _PLAIN},
            "points": [astuple(point) for point in profile.points],
        }
        try:
            write_atomic(path, json.dumps(content, allow_nan=False).encode())
        except (OSError, ValueError, TypeError, RecursionError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or error
            log.warning("step times cannot be kept for the next start, in %s: %s", path.parent, why)
            return False
        return True

    def list(self) -> list[KeptProfile]:
        """Every file of the folder, by model name; damaged ones without a profile."""
        found: list[KeptProfile] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                content = json.loads(path.read_bytes()[:MAX_BYTES])
                key, model = dict(content["key"]), str(content["model"])
                found.append(KeptProfile(path, model, _profile(content), key))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                found.append(KeptProfile(path, "", None, {}))
        return sorted(found, key=lambda kept: (kept.model, kept.path.name))

    def forget(self, key: ProfileKey | None = None) -> int:
        """Removes the profiles of a key's model file, or all; returns how many. Raises OSError."""
        number = 0
        for kept in self.list():
            same = key is None or kept.key.get("model_digest") == key.model_digest
            if same:
                kept.path.unlink(missing_ok=True)
                number += 1
        return number


_PLAIN = (
    "threads", "threads_batch", "branch_seconds", "save_seconds", "load_seconds",
    "flash_attention", "is_full", "calibration",
)  # fmt: skip


def _parse(data: bytes, key: ProfileKey) -> Profile:
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("it is not a profile")
    if content.get("version") != VERSION:
        raise ValueError(f"it has version {content.get('version')!r:.20}, not {VERSION}")
    if content.get("key") != asdict(key):
        raise ValueError("it is of another model or machine")
    return _profile(content)


def _profile(content: dict[str, Any]) -> Profile:
    points, calibration = content.get("points"), content.get("calibration")
    missing = [name for name in _PLAIN if name not in content]
    if not isinstance(points, list) or not isinstance(calibration, dict | None) or missing:
        raise ValueError("it is damaged")
    plain = {name: content[name] for name in _PLAIN}
    return Profile(tuple(ProbePoint(*point) for point in points), **plain)
