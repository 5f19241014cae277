"""Removes every trace of a node from the machine, after an orderly stop or after everything was killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.node_network import remove_network
from tests.cluster.node_slot import NodeSlot

CGROUPS = Path("/sys/fs/cgroup")
# Where libcni keeps the result of each ADD; the place is compiled into it.
CNI_RESULTS = Path("/var/lib/cni/results")
KILL_TIMEOUT_SECONDS = 10.0


def sweep(slot: NodeSlot) -> None:
    """Ends all processes of the slot's pods and unmounts and deletes what they had; images are kept.

    The caller holds the slot. Only what carries the slot's own names and paths is touched.
    """
    _kill(lambda: [*_pids_in_cgroups(slot), *_shims(slot)])
    for sandbox in _network_namespaces(slot):
        subprocess.run(["umount", "--lazy", sandbox], capture_output=True)
        sandbox.unlink(missing_ok=True)
    unmount_below(slot.run_folder, slot.scratch, slot.images)
    remove_network(slot)
    for cgroup in _cgroups(slot):
        _remove_cgroup(cgroup)
    for folder in (slot.run_folder, slot.scratch):
        shutil.rmtree(folder, ignore_errors=True)


def cgroup_roots() -> list[Path]:
    """The root of the unified hierarchy, or of each controller's where version 1 is mounted."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [root for root in CGROUPS.iterdir() if root.is_dir() and not root.is_symlink()]


def _cgroups(slot: NodeSlot) -> list[Path]:
    return [cgroup for root in cgroup_roots() if (cgroup := root / slot.name).is_dir()]


def _pids_in_cgroups(slot: NodeSlot) -> Iterator[int]:
    for cgroup in _cgroups(slot):
        for procs in cgroup.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from map(int, procs.read_text().split())


def _shims(slot: NodeSlot) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if b"containerd-shim" in arguments[0] and str(slot.containerd_socket).encode() in arguments:
                yield int(process.name)


def _kill(find: Callable[[], Iterable[int]]) -> None:
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while pids := set(find()):
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {sorted(pids)} do not end after SIGKILL")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _network_namespaces(slot: NodeSlot) -> Iterator[Path]:
    """The namespaces of the slot's pods, from the recorded results; the records go with them."""
    for record in CNI_RESULTS.glob(f"{slot.name}-*"):
        with contextlib.suppress(OSError, ValueError):
            result = json.loads(record.read_text())
            for interface in result["result"].get("interfaces", []):
                if sandbox := interface.get("sandbox"):
                    yield Path(sandbox)
            for own in CNI_RESULTS.glob(f"*-{result['containerId']}-*"):
                own.unlink(missing_ok=True)


def unmount_below(*folders: Path) -> None:
    """Unmounts everything below the folders. Raises ClusterError when something cannot be."""
    # Innermost first: later lines of mountinfo are mounted on top of earlier ones.
    for mount in reversed(_mounts_below(*folders)):
        subprocess.run(["umount", "--lazy", mount], capture_output=True)
    if left := _mounts_below(*folders):
        raise ClusterError(f"still mounted, so nothing is deleted: {', '.join(map(str, left))}")


def _mounts_below(*folders: Path) -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [mount for mount in mounts if any(mount.is_relative_to(folder) for folder in folders)]


def _remove_cgroup(cgroup: Path) -> None:
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
