"""Owns a cluster that is to outlive the command that started it: `python -m tests.cluster.supervisor NAME LEVEL`.

Everything in the cluster is a child of this process and ends with it. The lock beside the cluster's folder is held as
long as this process lives, so that others can tell whether it does without trusting a process number.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from tests.cluster.cluster import running_cluster
from tests.cluster.errors import ClusterError
from tests.cluster.levels import Level
from tests.cluster.paths import CHECKOUT, cluster_dir
from tests.cluster.record import Record

START_TIMEOUT_SECONDS = 300.0
STOP_TIMEOUT_SECONDS = 90.0


def record_path(name: str) -> Path:
    """Where the cluster says that it is ready, and how it is reached."""
    return cluster_dir(name) / "cluster.json"


def log_path(name: str) -> Path:
    return cluster_dir(name) / "supervisor.log"


def owner(name: str) -> int | None:
    """The process that runs the named cluster; None when there is none."""
    path = _lock_path(name)
    if not path.exists():
        return None
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read())
    return None


def start(name: str, level: Level) -> Record:
    """Starts a supervisor that is independent of this process and waits for its cluster. Raises ClusterError."""
    cluster_dir(name).mkdir(mode=0o700, parents=True, exist_ok=True)
    with log_path(name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.supervisor", name, level],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not record_path(name).exists():
        if process.poll() is not None:
            raise ClusterError(f"the cluster did not start ({log_path(name)}):\n{_tail(log_path(name))}")
        if time.monotonic() > deadline:
            process.terminate()
            process.wait()
            raise ClusterError(f"the cluster was not ready within {START_TIMEOUT_SECONDS:.0f} s, see {log_path(name)}")
        time.sleep(0.05)
    return Record.read(record_path(name))


def stop(name: str) -> None:
    """Ends the named cluster's supervisor and with it the cluster; does nothing when there is none."""
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    asked = False
    while (pid := owner(name)) is not None:
        with contextlib.suppress(ProcessLookupError):
            if not asked:
                os.kill(pid, signal.SIGTERM)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        asked = True
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("level", type=Level)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    path = record_path(arguments.name)
    try:
        with _owning(arguments.name), running_cluster(cluster_dir(arguments.name), arguments.level) as record:
            record.write(path)
            try:
                while True:
                    signal.pause()
            finally:
                path.unlink(missing_ok=True)
    except ClusterError as error:
        sys.exit(str(error))


def _end(number: int, frame: FrameType | None) -> None:
    # A second signal must not cut the orderly end short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


@contextlib.contextmanager
def _owning(name: str) -> Iterator[None]:
    with _lock_path(name).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(f"cluster {name} is running already") from None
        _write_pid(lock)
        yield


def _write_pid(lock: IO[str]) -> None:
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _lock_path(name: str) -> Path:
    return cluster_dir(name).with_suffix(".lock")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-3000:].strip()


if __name__ == "__main__":
    main()
