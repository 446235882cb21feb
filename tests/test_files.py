"""The app folder and atomic writes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sssd_local.files import app_folder, make_folder, write_atomic

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_app_folder_follows_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSSD_LOCAL_HOME", str(tmp_path / "home"))
    assert app_folder() == tmp_path / "home"
    assert not (tmp_path / "home").exists()


def test_app_folder_expands_the_home_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSSD_LOCAL_HOME", "~/kept")
    assert app_folder() == Path.home() / "kept"


@pytest.mark.parametrize("value", [None, ""])
def test_app_folder_is_the_usual_place_otherwise(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("SSSD_LOCAL_HOME", raising=False)
    else:
        monkeypatch.setenv("SSSD_LOCAL_HOME", value)
    monkeypatch.setattr("click.get_app_dir", lambda name: f"/usual/{name}")
    assert app_folder() == Path("/usual/sssd-local")


def test_importing_files_does_not_import_click() -> None:
    code = "import sys, sssd_local.files; sys.exit('click' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@posix_only
def test_new_folders_are_for_the_user_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path / "a" / "b")
    assert mode_of(tmp_path / "a") == 0o700
    assert mode_of(tmp_path / "a" / "b") == 0o700
    assert mode_of(tmp_path) == 0o755


def test_making_a_folder_twice_is_fine(tmp_path: Path) -> None:
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")
    assert (tmp_path / "a").is_dir()


def test_a_file_in_the_way_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        write_atomic(tmp_path / "file" / "inner.json", b"x")


@posix_only
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_is_exact_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", b"x", mode)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "file") == mode


def test_write_replaces_content_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    for data in (b"one", b"", b"three" * 100_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]
    if os.name == "posix":
        assert mode_of(path) == 0o600


def test_a_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not synced there")
def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    versions = [bytes([letter]) * 50_000 for letter in b"abcd"]
    write_atomic(path, versions[0])

    def write(data: bytes) -> None:
        for _ in range(10):
            write_atomic(path, data)

    writers = [threading.Thread(target=write, args=(data,)) for data in versions]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    for writer in writers:
        writer.join()
    assert seen <= set(versions)
    assert list(tmp_path.iterdir()) == [path]
