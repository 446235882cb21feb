"""How many threads pay on this machine."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path, PurePosixPath


def default_threads() -> int:
    """Physical cores this process may use; performance cores where there are two kinds.

    Never 0. Second hardware threads of a core and efficiency cores slow llama.cpp down: every
    thread waits for the slowest one (as `common_cpu_get_num_math` in llama.cpp's common.cpp).
    """
    if sys.platform == "darwin":
        cores = _apple_cores()
    elif sys.platform == "linux":
        allowed = os.sched_getaffinity(0)
        cores = linux_cores(allowed) or min(_portable_cores() or len(allowed), len(allowed))
        cores = min(cores, cpu_quota() or cores)
    else:
        cores = _portable_cores()
    return max(1, cores or os.cpu_count() or 1)


def thread_counts(usual: int) -> tuple[int, ...]:
    """Counts worth measuring, the usual one first: logical processors too, and one thread fewer."""
    logical = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or usual
    if sys.platform == "linux":
        logical = min(logical, cpu_quota() or logical)
    return tuple(dict.fromkeys((usual, max(1, logical), max(1, usual - 1))))


def linux_cores(allowed: set[int], system: Path = Path("/sys")) -> int:
    """Distinct physical cores among the `allowed` logical ones; 0 if the kernel does not tell."""
    devices = system / "devices"
    # Only hybrid x86 machines have this file: it lists the performance cores.
    fast = _read_list(devices / "cpu_core" / "cpus") & allowed
    cores: set[frozenset[int]] = set()
    for cpu in fast or allowed:
        topology = devices / "system" / "cpu" / f"cpu{cpu}" / "topology"
        siblings = _read_list(topology / "thread_siblings_list")
        if cpu not in siblings:
            return 0
        cores.add(frozenset(siblings))
    return len(cores)


def cpu_quota(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs the control groups (v1 or v2) of this process grant, at least 1; 0 if unlimited.

    Threads beyond the quota are stopped in turns while the others wait for them.
    """
    quotas: list[float] = []
    for line in (_read_text(proc) or "0::/\n1:cpu:/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            quotas += [_quota_v2(folder) for folder in _ancestors(mount, path)]
        elif "cpu" in controllers.split(","):
            quotas += [_quota_v1(folder) for folder in _ancestors(mount / controllers, path)]
            quotas += [_quota_v1(folder) for folder in _ancestors(mount / "cpu", path)]
    limits = [quota for quota in quotas if quota > 0]
    return max(1, int(min(limits))) if limits else 0


def _ancestors(mount: Path, path: str) -> list[Path]:
    # A container often sees its own group as the root, so folders of the path may be missing.
    inner = PurePosixPath(path.lstrip("/"))
    return [mount / part for part in (inner, *inner.parents)]


def _quota_v2(folder: Path) -> float:
    quota, _, period = (_read_text(folder / "cpu.max") or "max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(folder: Path) -> float:
    quota = _read_text(folder / "cpu.cfs_quota_us") or "-1"
    return _ratio(quota, _read_text(folder / "cpu.cfs_period_us") or "")


def _ratio(quota: str, period: str) -> float:
    try:
        return float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return 0.0


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_list(path: Path) -> set[int]:
    """Parses the kernel's list format, as `0-3,8`; empty if there is none."""
    numbers: set[int] = set()
    for part in (_read_text(path) or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _portable_cores() -> int:
    try:
        import psutil
    except ImportError:
        return 0
    return int(psutil.cpu_count(logical=False) or 0)


def _apple_cores() -> int:
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        value = sysctl(name)
        if value is not None and 0 < len(value) <= 8:
            return int.from_bytes(value, sys.byteorder)
    return _portable_cores()


def sysctl(name: str) -> bytes | None:
    """The raw value of a macOS kernel variable; None where there is none of that name."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "sysctlbyname"):
        return None
    size, buffer = ctypes.c_size_t(256), ctypes.create_string_buffer(256)
    key = name.encode("ascii")
    failed = library.sysctlbyname(key, buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else buffer.raw[: size.value]
