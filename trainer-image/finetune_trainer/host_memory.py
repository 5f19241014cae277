"""The memory of the host, or this pod's share of it, in bytes. Does not import torch: it is used before torch is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
MEMINFO: Final = Path("/proc/meminfo")


def total(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """All memory that this pod may use."""
    return min(_meminfo("MemTotal", meminfo), _number(cgroup / "memory.max") or 2**63)


def available(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """The memory that is available on the host, or the pod's limit minus what the pod uses and cannot reclaim."""
    free = _meminfo("MemAvailable", meminfo)
    limit, current = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is None or current is None:
        return free
    return min(free, limit - current + (_stat(cgroup / "memory.stat", "inactive_file") or 0))


def _meminfo(name: str, path: Path) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise ValueError(f"{path} has no {name}")


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)
