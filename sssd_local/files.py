"""Where the package keeps its files, and writing them so that none is ever half there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from sssd_local.errors import ConfigError

HOME_VARIABLE = "SSSD_LOCAL_HOME"


def app_folder() -> Path:
    """The folder for the package's own files: $SSSD_LOCAL_HOME or the platform's usual place.

    Asking does not create it. Raises ConfigError for `~NAME` of nobody.
    """
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"{HOME_VARIABLE}={chosen}: there is no such user") from error
    import click

    return Path(click.get_app_dir("sssd-local"))


def make_folder(folder: Path) -> None:
    """Creates a folder and its missing parents, for the user only (0700). Raises OSError."""
    for part in (*reversed(folder.parents), folder):
        # Path.mkdir(parents=True) would leave the parents open to others.
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a file so that readers and crashes see the old content or the new, never a part.

    Missing folders are created. Of several writers at once the last one wins. Raises OSError.
    """
    make_folder(path.parent)
    # In the same folder, as a file can be renamed atomically only within a file system.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def overwrite(path: Path) -> None:
    """Puts zeros in the place of all that a file says, where that can be done."""
    with contextlib.suppress(OSError), path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    # Some network file systems refuse; the file itself is whole by now.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
