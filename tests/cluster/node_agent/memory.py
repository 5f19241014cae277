"""The soft memory limit: containers that use more than their limit are killed, as the kernel would do for a cgroup."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from .process import ContainerProcess

_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemorySupervisor(threading.Thread):
    """Compares each container's use with its limit a few times a second.

    `limited` yields (process, limit in bytes) for the running containers that have one. A burst between two looks is
    not seen: this protects the machine from a run that grows, not from one allocation.
    """

    def __init__(self, limited: Callable[[], Iterable[tuple[ContainerProcess, int]]], period: float = 0.5) -> None:
        super().__init__(name="memory", daemon=True)
        self._limited = limited
        self._period = period
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(self._period):
            containers = list(self._limited())
            if not containers:
                continue
            sessions = _sessions()
            for process, limit in containers:
                pids = sessions.get(process.pid, [])
                # Shared pages count once per process in the resident size and once in all in the proportional one;
                # the second costs far more to read, so it is read only when the first is over the limit.
                if sum(map(resident, pids)) > limit and sum(map(proportional, pids)) > limit:
                    process.kill(out_of_memory=True)

    def stop(self) -> None:
        self._stopped.set()


def _sessions() -> dict[int, list[int]]:
    """Session id -> pids. A container's main process leads its session."""
    sessions: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with contextlib.suppress(OSError):
                sessions.setdefault(os.getsid(int(name)), []).append(int(name))
    return sessions


def resident(pid: int) -> int:
    """Resident set size in bytes; 0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """Proportional set size in bytes: shared pages are divided among their users. Falls back to the resident size."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident(pid)
