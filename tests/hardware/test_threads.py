"""Counting the cores that a process may use, on made-up machines."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sssd_local.hardware import threads
from sssd_local.hardware.threads import cpu_quota, default_threads, linux_cores, sysctl


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def machine(root: Path, siblings: Mapping[int, str], fast: str | None = None) -> Path:
    files = {
        f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{text}\n"
        for cpu, text in siblings.items()
    }
    if fast is not None:
        files["devices/cpu_core/cpus"] = f"{fast}\n"
    return write(root, files)


def test_the_real_machine_has_at_least_one_core() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    root = machine(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert linux_cores({0, 1, 2, 3}, root) == 2


def test_sibling_ranges_are_understood(tmp_path: Path) -> None:
    root = machine(tmp_path, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"})
    assert linux_cores({0, 1, 2, 3}, root) == 2


@pytest.mark.parametrize(("allowed", "cores"), [({0}, 1), ({0, 2}, 1), ({0, 1}, 2), ({2, 3}, 2)])
def test_only_allowed_cores_count(tmp_path: Path, allowed: set[int], cores: int) -> None:
    root = machine(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert linux_cores(allowed, root) == cores


def test_performance_cores_of_a_hybrid_machine(tmp_path: Path) -> None:
    siblings = {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3", 4: "4", 5: "5", 6: "6", 7: "7"}
    root = machine(tmp_path, siblings, fast="0-3")
    assert linux_cores(set(range(8)), root) == 2
    assert linux_cores({4, 5, 6}, root) == 3  # bound to the efficiency cores


@pytest.mark.parametrize("text", ["", "nonsense", "7"])
def test_unknown_topology_is_zero(tmp_path: Path, text: str) -> None:
    assert linux_cores({0, 1}, machine(tmp_path, {0: text, 1: "1"})) == 0


def test_missing_topology_is_zero(tmp_path: Path) -> None:
    assert linux_cores({0, 1}, tmp_path) == 0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000", 0), ("200000 100000\n", 2), ("250000 100000", 2), ("50000 100000", 1)],
)
def test_quota_of_version_2(tmp_path: Path, text: str, cpus: int) -> None:
    write(tmp_path, {"proc": "0::/user/app\n", "mount/user/app/cpu.max": text})
    assert cpu_quota(tmp_path / "proc", tmp_path / "mount") == cpus


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    files = {
        "proc": "0::/user/app\n",
        "mount/cpu.max": "800000 100000",
        "mount/user/cpu.max": "300000 100000",
        "mount/user/app/cpu.max": "max 100000",
    }
    write(tmp_path, files)
    assert cpu_quota(tmp_path / "proc", tmp_path / "mount") == 3


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path, {"proc": "0::/docker/1234\n", "mount/cpu.max": "400000 100000"})
    assert cpu_quota(tmp_path / "proc", tmp_path / "mount") == 4


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "cpus"), [("-1", 0), ("600000", 6), ("20000", 1)])
def test_quota_of_version_1(tmp_path: Path, folder: str, quota: str, cpus: int) -> None:
    files = {
        "proc": "5:memory:/x\n4:cpuset:/x\n3:cpu,cpuacct:/app\n1:name=systemd:/\n",
        f"mount/{folder}/app/cpu.cfs_quota_us": f"{quota}\n",
        f"mount/{folder}/app/cpu.cfs_period_us": "100000\n",
    }
    write(tmp_path, files)
    assert cpu_quota(tmp_path / "proc", tmp_path / "mount") == cpus


@pytest.mark.parametrize("text", ["", "x y", "100000", "100000 0", "-5 100000", "\xff"])
def test_a_damaged_quota_is_no_quota(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"proc": "0::/\nnonsense\n", "mount/cpu.max": text})
    assert cpu_quota(tmp_path / "proc", tmp_path / "mount") == 0


def test_quota_without_a_list_of_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "none") == 0
    write(tmp_path, {"mount/cpu.max": "100000 100000"})
    assert cpu_quota(tmp_path / "none", tmp_path / "mount") == 1


def on_linux(monkeypatch: pytest.MonkeyPatch, allowed: set[int], cores: int, quota: int) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    monkeypatch.setattr(threads, "linux_cores", lambda _: cores)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)


@pytest.mark.parametrize(
    ("cores", "quota", "expected"), [(4, 0, 4), (4, 2, 2), (4, 16, 4), (1, 1, 1)]
)
def test_linux_takes_the_smaller_of_cores_and_quota(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: int, expected: int
) -> None:
    on_linux(monkeypatch, set(range(8)), cores, quota)
    assert default_threads() == expected


@pytest.mark.parametrize(("portable", "expected"), [(4, 4), (16, 8), (0, 8)])
def test_linux_without_topology(
    monkeypatch: pytest.MonkeyPatch, portable: int, expected: int
) -> None:
    on_linux(monkeypatch, set(range(8)), 0, 0)
    monkeypatch.setattr(threads, "_portable_cores", lambda: portable)
    assert default_threads() == expected


@pytest.mark.parametrize(("portable", "logical", "expected"), [(4, 8, 4), (0, 8, 8), (0, None, 1)])
def test_other_systems(
    monkeypatch: pytest.MonkeyPatch, portable: int, logical: int | None, expected: int
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(threads, "_portable_cores", lambda: portable)
    monkeypatch.setattr(os, "cpu_count", lambda: logical)
    assert default_threads() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"hw.perflevel0.physicalcpu": 8, "hw.physicalcpu": 12}, 8),
        ({"hw.physicalcpu": 4}, 4),
        ({}, 3),
    ],
)
def test_apple_prefers_performance_cores(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, int], expected: int
) -> None:
    def kernel(name: str) -> bytes | None:
        return values[name].to_bytes(4, sys.byteorder) if name in values else None

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(threads, "sysctl", kernel)
    monkeypatch.setattr(threads, "_portable_cores", lambda: 3)
    assert default_threads() == expected


def test_without_psutil_the_portable_count_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *more: Any, **named: Any) -> Any:
        if name == "psutil":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert threads._portable_cores() == 0


def test_sysctl_of_an_unknown_name_is_none() -> None:
    if os.name == "posix":
        assert sysctl("no.such.variable") is None
