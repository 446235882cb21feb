"""Models of the Hugging Face hub: those in its shared cache, and downloading others into it.

Without a download this reads folders only; huggingface_hub is imported when one begins.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sssd_local import __version__
from sssd_local.errors import ModelError
from sssd_local.files import write_atomic
from sssd_local.hub_files import HubName, ModelFiles, choose, group, matching
from sssd_local.transfer import RemoteFile, missing_bytes, transfer

ENDPOINT = "https://huggingface.co"
REVISION = "main"
# Left free beside what is downloaded.
SPARE_BYTES = 2**26
TIMEOUT_SECONDS = 10.0
REFRESH_SECONDS = 0.1

Say = Callable[[str], None]


def endpoint() -> str:
    """The hub's address: $HF_ENDPOINT or Hugging Face's."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def cache_folder() -> Path:
    """The cache that all programs with huggingface_hub share, as its `constants.py` finds it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return _expanded(os.environ[name])
    if os.environ.get("HF_HOME"):
        return _expanded(os.environ["HF_HOME"]) / "hub"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def repo_folder(repo: str) -> Path:
    """A repository's folder in the cache."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def snapshots(folder: Path) -> list[Path]:
    """The revisions of a cached repository, the current one first, then the newest."""
    try:
        found = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []
    try:
        current = (folder / "refs" / REVISION).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        current = ""
    return sorted(found, key=lambda path: path.name != current)


def models_in(folder: Path) -> list[ModelFiles]:
    """The complete models below a folder, with names relative to it."""
    names = []
    for parent, _, files in os.walk(folder):
        base = Path(parent)
        names += [base / name for name in files if name.lower().endswith(".gguf")]
    # A link to a blob that is gone is no file.
    return group(path.relative_to(folder).as_posix() for path in names if path.is_file())


def cached(name: HubName) -> Path | None:
    """The file of a model that was downloaded before; None when it was not.

    Raises ModelError when the name fits several.
    """
    for folder in snapshots(repo_folder(name.repo)):
        models = models_in(folder)
        if matching(models, name.choice):
            return folder / choose(models, name).first
    return None


def fetch(name: HubName, say: Say) -> Path:
    """Downloads a model into the cache and returns its (first) file; `say` is told how far it is.

    Raises ModelError, in one line, for all that can go wrong. A broken download is gone on with.
    """
    hub = _load()
    with _explained(name.repo):
        say(f"looking for {name}")
        api = hub.HfApi(endpoint=endpoint(), library_name="sssd-local", library_version=__version__)
        info = api.model_info(name.repo, files_metadata=True, timeout=TIMEOUT_SECONDS)
        found = {item.rfilename: item for item in info.siblings or ()}
        model = choose(group(found), name)
        files = [_remote_file(hub, name.repo, info.sha, found[part]) for part in model.names]
        folder = repo_folder(name.repo) / "blobs"
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(name, files, folder)
        for number, file in enumerate(files, 1):
            part = f" (file {number} of {len(files)})" if len(files) > 1 else ""
            _transfer(hub, name.repo, file, folder / file.digest, _Meter(file, part, say))
        paths = [_link(hub, name.repo, info.sha, file, folder / file.digest) for file in files]
        _set_current(name.repo, info.sha)
        return paths[0]


def _load() -> Any:
    """Imports huggingface_hub, quiet: what it would log is told by our errors."""
    # Without it the library asks the hub for more, to describe the caller.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub as hub
        import huggingface_hub.utils
    except ImportError as error:
        raise ModelError(
            "downloading needs huggingface_hub; install it with pip install 'sssd-local[hub]'"
        ) from error
    huggingface_hub.utils.logging.set_verbosity_error()
    return hub


def _remote_file(hub: Any, repo: str, commit: str, item: Any) -> RemoteFile:
    url = hub.hf_hub_url(repo, item.rfilename, revision=commit, endpoint=endpoint())
    if item.lfs is not None:
        return RemoteFile(item.rfilename, url, item.lfs.size, item.lfs.sha256)
    return RemoteFile(item.rfilename, url, -1 if item.size is None else item.size, item.blob_id)


def _check_space(name: HubName, files: Sequence[RemoteFile], folder: Path) -> None:
    needed = sum(missing_bytes(file, folder / file.digest) for file in files)
    free = shutil.disk_usage(folder).free
    if needed and free < needed + SPARE_BYTES:
        raise ModelError(
            f"{name} needs {gigabytes(needed)} more on the disk of {cache_folder()}, where "
            f"{gigabytes(free)} are free; make room, or set HF_HOME to a folder on another disk"
        )


def _transfer(hub: Any, repo: str, file: RemoteFile, blob: Path, meter: _Meter) -> None:
    # The lock that huggingface_hub takes for the same file.
    lock = cache_folder() / ".locks" / repo_folder(repo).name / f"{file.digest}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    headers = hub.utils.build_hf_headers(library_name="sssd-local", library_version=__version__)
    with hub.utils.WeakFileLock(lock):
        if not blob.exists():
            transfer(file, blob, headers, meter.report)


def _link(hub: Any, repo: str, commit: str, file: RemoteFile, blob: Path) -> Path:
    """Lets huggingface_hub put the file where all its users find it."""
    path = hub.hf_hub_download(
        repo, file.name, revision=commit, cache_dir=cache_folder(), endpoint=endpoint(),
        library_name="sssd-local", library_version=__version__,
    )  # fmt: skip
    if not os.path.islink(path):
        # Where there are no links it made a copy.
        blob.unlink(missing_ok=True)
    return Path(path)


def _set_current(repo: str, commit: str) -> None:
    """Notes which revision the branch had when it was asked, as huggingface_hub does."""
    reference = repo_folder(repo) / "refs" / REVISION
    reference.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(reference, commit.encode(), mode=0o644)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turns what huggingface_hub and the system raise into one line about `repo`."""
    from huggingface_hub import errors

    where = endpoint()
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo} is open only to those who accept its terms: do so at {where}/{repo}, then "
            "log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no repository {repo} at {where}, or it is private; check the name, or log "
            "in with `hf auth login`"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(
            f"{repo} is not in the cache, and HF_HUB_OFFLINE is set; unset it to download"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repo} is no name of a repository: {error}") from error
    except ValueError as error:
        # An answer that is not the hub's, a token or a proxy that cannot be.
        raise ModelError(
            f"{where} gave no answer that can be used ({error}); check the connection, "
            "HF_ENDPOINT, HF_TOKEN and the proxy"
        ) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(_refusal(repo, error.response.status_code)) from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError) as error:
        reason = str(error).strip() or type(error).__name__
        raise ModelError(
            f"{repo} is not in the cache, and {where} cannot be reached ({reason}); check the "
            "connection, or give the path of a GGUF file"
        ) from error
    except OSError as error:
        raise ModelError(
            f"the download cannot be written to {cache_folder()}: {error.strerror or error}; what "
            "came is kept, and the same command goes on from there"
        ) from error


def _refusal(repo: str, status: int) -> str:
    if status in (401, 403):
        return f"{endpoint()} refuses {repo} ({status}); check the name, and `hf auth whoami`"
    return f"{endpoint()} answers {status} when asked for {repo}; try again later"


class _Meter:
    """Says now and then how much of a file has come, and how fast."""

    def __init__(self, file: RemoteFile, part: str, say: Say) -> None:
        self._file, self._part, self._say = file, part, say
        self._start = self._said_at = 0.0

    def report(self, num_bytes: int, num_new: int) -> None:
        """Takes the number of bytes there are, and of those that came just now."""
        now = time.monotonic()
        self._start = self._start if num_new and self._start else now
        if now - self._said_at < REFRESH_SECONDS and num_bytes < self._file.num_bytes:
            return
        self._said_at = now
        share = f"{gigabytes(num_bytes)} of {gigabytes(self._file.num_bytes)}"
        if not num_new:
            self._say(f"checking what came earlier of {self._file.name}{self._part}: {share}")
            return
        rate = num_new / max(now - self._start, 1e-3) / 1e6
        self._say(f"downloading {self._file.name}{self._part}: {share}, {rate:.1f} MB/s")


def gigabytes(num_bytes: int) -> str:
    """A size for people, in decimal units as the hub shows them."""
    if num_bytes < 999_500:
        return f"{num_bytes / 1e3:.0f} kB"
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 999.5e6 else f"{num_bytes / 1e9:.2f} GB"


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))
