"""The memory of the host, or this pod's part of it. Bytes. No torch: it is asked before torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
MEMINFO: Final = Path("/proc/meminfo")


def total(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """What there is."""
    return min(_meminfo("MemTotal", meminfo), _number(cgroup / "memory.max") or 2**63)


def available(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """What the host has left, or the pod's limit less what the pod uses and could not drop."""
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
    raise ValueError(f"{path} does not say {name}")


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
