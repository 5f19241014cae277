"""What the kernel lets a process that reads hostile files have, and how much there is to give."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
PROC: Final = Path("/proc")


def bound_memory(most: int) -> None:
    """Bytes of memory of its own that this process may have from now on; more is a MemoryError. No core dumps."""
    _lower(resource.RLIMIT_DATA, most)
    _lower(resource.RLIMIT_CORE, 0)


def bound_processor(seconds: int) -> None:
    """Processor time that this process may take in all; it dies of SIGXCPU."""
    _lower(resource.RLIMIT_CPU, seconds)


def bound_files(size: int) -> None:
    """Bytes of each file that this process writes; more is an OSError."""
    _lower(resource.RLIMIT_FSIZE, size)


def memory_bound() -> int | None:
    """Bytes; None without a bound."""
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def container_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that the container of this process may use: the least limit of its cgroup (v1 or v2) and of those above it,
    or the machine's memory."""
    limits = [_kilobytes(proc / "meminfo", "MemTotal")]
    limits += [_number(path) for path in _limits(_lines(proc / "self" / "cgroup"), cgroups)]
    return min(limit for limit in limits if limit is not None)


def own_memory(proc: Path = PROC) -> int:
    """Bytes that this process has for itself, and that the kernel cannot take back from it."""
    status = proc / "self" / "status"
    return sum(_kilobytes(status, name) or 0 for name in ("RssAnon", "RssShmem"))


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (bound, bound))


def _limits(memberships: list[str], cgroups: Path) -> Iterator[Path]:
    """The files that may hold a limit. A container sees its own cgroup as the root, whatever its path is outside."""
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        yield from (root / each / name for each in (own, *own.parents) if ".." not in each.parts)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    [text] = _lines(path)[:1] or [""]
    return int(text) if text.isdigit() else None


def _kilobytes(path: Path, name: str) -> int | None:
    """In bytes."""
    for line in _lines(path):
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
