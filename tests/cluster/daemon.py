"""A long-running process of a cluster: started, watched, stopped; it never outlives the process that started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.errors import ClusterError

LAUNCHER = Path(__file__).with_name("die_with_parent.py")
LOG_TAIL_BYTES = 3000
POLL_SECONDS = 0.02

# The kernel's parent-death signal is tied to the *thread* that started the child, so all children are started by one
# thread that lives as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="daemon-starter")


def direct_environment() -> dict[str, str]:
    """The caller's environment without its proxies, which cannot reach the addresses of a cluster on this machine."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


class Daemon:
    """One process with its log file; all methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` is the working directory and holds `<name>.log`; `env` is added to the caller's environment."""
        self.name = name
        self.command = [str(part) for part in command]
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process; raises ClusterError when it is running already or its program is missing."""
        if self.running:
            raise ClusterError(f"{self.name} is running already")
        program = shutil.which(self.command[0])
        if not program:
            raise ClusterError(f"{self.name}: there is no program {self.command[0]}")
        self._process = _starter.submit(self._spawn, program).result()

    def _spawn(self, program: str) -> subprocess.Popen[bytes]:
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), program, *self.command[1:]]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                launch,
                cwd=self.folder,
                env=direct_environment() | self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the caller, who then stops us in order.
                start_new_session=True,
            )

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `timeout` seconds; does nothing when it is not running."""
        if not self._process:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def wait_until(self, ready: Callable[[], bool], timeout: float, what: str = "ready") -> None:
        """Polls `ready`; raises ClusterError with the end of the log when the process ends or the time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                code = self._process.returncode if self._process else None
                raise ClusterError(f"{self.name} ended with code {code} before it was {what}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} was not {what} within {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def log_tail(self) -> str:
        if not self.log.exists():
            return "(no log)"
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")
