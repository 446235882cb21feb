"""Profiles: kept, found again, and never in the way."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sssd_local.errors import ModelError
from sssd_local.hardware import profile as profile_module
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import ProbePoint
from sssd_local.hardware.profile import (
    DIGEST_BYTES,
    MAX_BYTES,
    VERSION,
    Profile,
    ProfileKey,
    ProfileStore,
    Setup,
    cpu_name,
    lora_identity,
    profile_key,
)
from sssd_local.hardware.threads import default_threads

KEY = ProfileKey(
    threads=4,
    threads_batch=4,
    model_size=1000,
    model_mtime_ns=1_700_000_000_123_456_789,
    model_digest="ab" * 16,
    backend="b1234",
    device="",
    system="Linux x86_64",
    cpu="Some CPU",
    cores=4,
)
POINTS = (ProbePoint(256, 1, 0.02, 0.01), ProbePoint(256, 4, 0.0414, 0.03))
PROFILE = Profile(
    POINTS, 2, 3, 0.001, 0.002, 0.003, True, True, {"buckets": [[1, 2.5], [3, 4.0]], "note": "é"}
)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


def rewrite(store: ProfileStore, **changes: Any) -> None:
    """Saves the profile and changes single fields of its file."""
    assert store.save(KEY, PROFILE)
    content = json.loads(store.path(KEY).read_text())
    store.path(KEY).write_text(json.dumps({**content, **changes}))


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "sssd_local"]


def test_a_profile_comes_back_exactly(store: ProfileStore) -> None:
    assert store.save(KEY, PROFILE)
    assert store.load(KEY) == PROFILE


def test_calibration_is_optional(store: ProfileStore) -> None:
    assert store.save(KEY, Profile(POINTS, 1, 2))
    assert store.load(KEY) == Profile(POINTS, 1, 2, calibration=None)


def test_nothing_kept_is_no_note_and_creates_nothing(
    store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.load(KEY) is None
    assert not store.folder.exists()
    assert notes(caplog) == []


def test_a_newer_profile_replaces_the_older(store: ProfileStore) -> None:
    store.save(KEY, PROFILE)
    newer = Profile(POINTS[:1], 1, 1)
    store.save(KEY, newer)
    assert store.load(KEY) == newer
    assert [path.name for path in store.folder.iterdir()] == [f"{KEY.digest()}.json"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_profiles_are_for_the_user_only(store: ProfileStore) -> None:
    store.save(KEY, PROFILE)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.path(KEY).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ProfileKey)])
def test_every_part_of_the_key_counts(store: ProfileStore, field: str) -> None:
    store.save(KEY, PROFILE)
    value = getattr(KEY, field)
    change: dict[str, Any] = {field: value + 1 if isinstance(value, int) else "other"}
    other = dataclasses.replace(KEY, **change)
    assert store.load(other) is None
    assert other.digest() != KEY.digest()


def test_the_name_of_a_key_is_the_same_in_every_run() -> None:
    assert KEY.digest() == dataclasses.replace(KEY).digest()
    assert len(KEY.digest()) == 32
    code = f"from sssd_local.hardware.profile import ProfileKey; print({KEY!r}.digest())"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == KEY.digest()


def test_a_file_under_the_name_of_another_key_is_ignored(
    store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(KEY, PROFILE)
    other = dataclasses.replace(KEY, threads=2)
    store.path(KEY).rename(store.path(other))
    assert store.load(other) is None
    assert "another model or machine" in notes(caplog)[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"{}",
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_anything_else_in_the_file_is_ignored_with_a_note(
    store: ProfileStore, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    store.save(KEY, PROFILE)
    store.path(KEY).write_bytes(data)
    assert store.load(KEY) is None
    assert len(notes(caplog)) == 1
    assert "measuring again" in notes(caplog)[0]
    assert store.save(KEY, PROFILE)
    assert store.load(KEY) == PROFILE


def test_a_truncated_file_is_ignored_wherever_it_ends(store: ProfileStore) -> None:
    store.save(KEY, PROFILE)
    whole = store.path(KEY).read_bytes()
    for size in range(len(whole)):
        store.path(KEY).write_bytes(whole[:size])
        assert store.load(KEY) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": VERSION + 1},
        {"version": None},
        {"version": "1" * 10_000},
        {"key": None},
        {"key": {}},
        {"threads": 0},
        {"threads": True},
        {"threads": "2"},
        {"threads_batch": 1025},
        {"branch_seconds": -1.0},
        {"branch_seconds": 1},
        {"save_seconds": -0.1},
        {"load_seconds": "1"},
        {"flash_attention": 1},
        {"flash_attention": None},
        {"is_full": "yes"},
        {"points": None},
        {"points": []},
        {"points": {}},
        {"points": [[256, 4, 0.04, 0.01]]},
        {"points": [[256, 1, 0.04, 0.01], [512, 2, 0.04, 0.01]]},
        {"points": [[256, 1]]},
        {"points": [[256, 1, 0.04, 0.01, 5]]},
        {"points": [256]},
        {"points": [None]},
        {"points": ["abcd"]},
        {"points": [["256", 1, 0.04, 0.01]]},
        {"points": [[256, 1.0, 0.04, 0.01]]},
        {"points": [[256, 1, None, 0.01]]},
        {"points": [[256, 1, float("nan"), 0.01]]},
        {"points": [[256, 1, float("inf"), 0.01]]},
        {"points": [[256, 1, -0.04, 0.01]]},
        {"points": [[256, 1, 0.04, 0.0]]},
        {"points": [[256, 1, 0.04, 0.01], [256, 65, 0.04, 0.01]]},
        {"calibration": []},
        {"calibration": "text"},
    ],
    ids=repr,
)
def test_wrong_values_are_ignored_with_a_short_note(
    store: ProfileStore, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    rewrite(store, **changes)
    assert store.load(KEY) is None
    assert len(notes(caplog)) == 1
    assert len(notes(caplog)[0]) < 250


def test_what_is_loaded_makes_a_cost_model(store: ProfileStore) -> None:
    store.save(KEY, PROFILE)
    loaded = store.load(KEY)
    assert loaded is not None
    assert CostModel(loaded.points).seconds(4, 256) == pytest.approx(0.0414)


def test_a_folder_that_cannot_be_made_is_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = ProfileStore(tmp_path / "file" / "profiles")
    assert store.load(KEY) is None
    assert not store.save(KEY, PROFILE)
    # One line of it, though reading had failed before.
    (note,) = notes(caplog)
    assert note.startswith("step times cannot be kept for the next start")


def test_a_refused_write_is_a_note(
    store: ProfileStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(profile_module, "write_atomic", refuse)
    assert not store.save(KEY, PROFILE)
    assert "Permission denied" in notes(caplog)[0]


def test_a_folder_in_place_of_the_file_is_a_note(
    store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.path(KEY).mkdir(parents=True)
    assert store.load(KEY) is None
    assert not store.save(KEY, PROFILE)
    assert len(notes(caplog)) == 2


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"], ids=repr)
def test_a_calibration_that_json_cannot_hold_is_a_note(
    store: ProfileStore, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    store.save(KEY, PROFILE)
    assert not store.save(KEY, Profile(POINTS, 1, 1, calibration={"value": value}))
    assert store.load(KEY) == PROFILE
    assert len(notes(caplog)) == 1


def test_the_log_is_the_packages_and_can_be_silenced(
    store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(store, version=0)
    with caplog.at_level(logging.ERROR, logger="sssd_local"):
        assert store.load(KEY) is None
    assert notes(caplog) == []


def test_two_writers_at_once_leave_one_whole_profile(store: ProfileStore) -> None:
    profiles = [
        Profile(POINTS, 1, 1, calibration={"writer": number, "fill": [0] * 2000})
        for number in range(3)
    ]

    def write(profile: Profile) -> None:
        for _ in range(15):
            assert store.save(KEY, profile)

    writers = [threading.Thread(target=write, args=(profile,)) for profile in profiles]
    store.save(KEY, profiles[0])
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert store.load(KEY) in profiles
    for writer in writers:
        writer.join()
    assert store.load(KEY) in profiles
    assert len(list(store.folder.iterdir())) == 1


def test_two_processes_at_once_leave_one_whole_profile(store: ProfileStore) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sssd_local.hardware.probe import ProbePoint\n"
        "from sssd_local.hardware.profile import Profile, ProfileKey, ProfileStore\n"
        "kept = {'fill': sys.argv[2] * 20_000}\n"
        "profile = Profile((ProbePoint(0, 1, 0.5, 0.1),), 1, 1, calibration=kept)\n"
        "store = ProfileStore(Path(sys.argv[1]))\n"
        f"sys.exit(not all([store.save({KEY!r}, profile) for _ in range(30)]))\n"
    )
    command = [sys.executable, "-c", code, str(store.folder)]
    processes = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    loaded = store.load(KEY)
    assert loaded is not None
    assert loaded.calibration in ({"fill": "a" * 20_000}, {"fill": "b" * 20_000})
    assert len(list(store.folder.iterdir())) == 1


def key_of(path: Path, **changes: Any) -> ProfileKey:
    return profile_key(path, Setup(threads=2, threads_batch=4), **{"backend": "b1", **changes})


def test_the_key_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    os.utime(path, ns=(5, 1_000_000_000))
    key = key_of(path, device="Some GPU")
    assert key.model_size == 104
    assert key.model_mtime_ns == 1_000_000_000
    assert (key.threads, key.threads_batch, key.device) == (2, 4, "Some GPU")
    assert key.cpu == cpu_name()
    assert key.cores == default_threads()
    assert key == key_of(path, device="Some GPU")
    assert key != key_of(path, device="Another GPU")


def test_the_key_tells_files_apart_by_size_time_and_first_mebibyte(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"

    def key(data: bytes, time_ns: int = 1_000_000_000) -> ProfileKey:
        path.write_bytes(data)
        os.utime(path, ns=(time_ns, time_ns))
        return key_of(path)

    data = bytes(DIGEST_BYTES + 10)
    first = key(data)
    assert key(data) == first
    assert key(data, 2_000_000_000) != first
    assert key(data + b"x") != first
    assert key(b"x" + data[1:]) != first
    assert key(data[:-1] + b"x") == first


def test_adapters_are_told_apart_by_content_time_scale_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    for path, data in ((one, b"1"), (two, b"2")):
        path.write_bytes(data)
        os.utime(path, ns=(1, 1_000_000_000))
    names = [
        lora_identity(pairs)
        for pairs in (
            [(str(one), 1.0)],
            [(str(one), 0.5)],
            [(str(two), 1.0)],
            [(str(one), 1.0), (str(two), 1.0)],
            [(str(two), 1.0), (str(one), 1.0)],
        )
    ]
    assert len(set(names)) == 5
    os.utime(one, ns=(1, 2_000_000_000))
    assert lora_identity([(str(one), 1.0)]) not in names
    assert lora_identity([]) == ""


def test_a_missing_model_is_an_error_to_show(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model file .*; check the path"):
        key_of(tmp_path / "none.gguf")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS asks the kernel")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Fast CPU @ 3GHz\nmodel name\t: other\n", "Fast CPU @ 3GHz"),
        ("processor : 0\nHardware : Board: rev 2\n", "Board: rev 2"),
        ("model name :\nModel : Pi 5\n", "Pi 5"),
    ],
)
def test_the_processors_name(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_name(tmp_path / "cpuinfo") == expected


def test_the_processors_name_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    (tmp_path / "empty").write_text("")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cpu_name(tmp_path / "none") == "arm"
    assert cpu_name(tmp_path / "empty") == "arm"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(profile_module, "sysctl", lambda _: b"Apple M4\0")
    assert cpu_name() == "Apple M4"
    monkeypatch.setattr(profile_module, "sysctl", lambda _: None)
    assert cpu_name() == "arm"


@pytest.mark.parametrize("points", [(), POINTS[1:], (*POINTS, ProbePoint(512, 4, 0.1))])
def test_a_profile_without_plain_steps_is_refused(points: tuple[ProbePoint, ...]) -> None:
    with pytest.raises(ValueError, match="one-token step"):
        Profile(points, 1, 1)


def test_what_is_kept_is_listed_by_model_and_forgotten(store: ProfileStore) -> None:
    other = dataclasses.replace(KEY, model_digest="cd" * 16)
    assert store.list() == []
    store.save(KEY, PROFILE, "b.gguf")
    store.save(dataclasses.replace(KEY, threads=9), PROFILE, "b.gguf")
    store.save(other, PROFILE, "a.gguf")
    (store.folder / "damaged.json").write_text("{")
    kept = store.list()
    assert [item.model for item in kept] == ["", "a.gguf", "b.gguf", "b.gguf"]
    assert [item.profile for item in kept] == [None, PROFILE, PROFILE, PROFILE]
    assert store.forget(KEY) == 2
    assert store.load(KEY) is None
    assert store.load(other) == PROFILE
    assert store.forget() == 2
    assert store.list() == []
