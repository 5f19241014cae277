"""One container's process: start, signals, output, end, and everything that it left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.cluster.daemon import LAUNCHER

from .logs import LogWriter

MARKER = "NODE_AGENT_CONTAINER"  # in the environment of every process: it survives setsid and a double fork
_OUTPUT_GRACE = 5.0  # seconds to drain the output after the last process is gone

# Main processes die with the agent. The kernel ties that to the *thread* that started them: one, which never ends.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


class StartError(Exception):
    """A process could not be started; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a process; `code` as a runtime gives it: 128 + n for a death by signal n."""

    code: int
    at: datetime
    oom_killed: bool


def resolve(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """The program's file, looked up on the container's own PATH. Raises StartError."""
    program = argv[0]
    if "/" in program:
        found = cwd / program
        if not found.is_file():
            raise StartError(f'exec: "{program}": stat {program}: no such file or directory')
        if not os.access(found, os.X_OK):
            raise StartError(f'exec: "{program}": permission denied')
        return str(found)
    on_path = shutil.which(program, path=env.get("PATH", ""))
    if on_path is None:
        raise StartError(f'exec: "{program}": executable file not found in $PATH')
    return on_path


class ContainerProcess:
    """A running process in a session of its own; `on_exit` is called once, from another thread, after it has ended."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        marker: str,
        on_exit: Callable[[], None],
    ) -> None:
        """Starts it. Raises StartError."""
        program = resolve(argv, env, cwd)
        self.marker = marker
        self.exit: Exit | None = None
        self.oom_killed = False
        self._on_exit = on_exit
        try:
            self._process = _starter.submit(
                subprocess.Popen,
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), program, *argv[1:]],
                env={**env, MARKER: marker},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,
                bufsize=0,
            ).result()
        except (OSError, ValueError) as error:
            raise StartError(f'exec: "{argv[0]}": {error}') from error
        self.pid = self._process.pid
        self.started_at = datetime.now(UTC)
        writer = LogWriter(log)
        self._output = threading.Thread(target=self._pump, args=(writer,), name=f"output-{self.pid}", daemon=True)
        self._output.start()
        threading.Thread(target=self._reap, name=f"reap-{self.pid}", daemon=True).start()

    def terminate(self) -> None:
        """SIGTERM to the main process, as a runtime does; its children are its own business."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self, *, out_of_memory: bool = False) -> None:
        """SIGKILL to every process of the container."""
        self.oom_killed = self.oom_killed or out_of_memory
        kill_members(self.marker, self.pid)

    def _pump(self, writer: LogWriter) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        with contextlib.closing(writer), self._process.stdout:
            while chunk := os.read(descriptor, 65536):
                writer.write(chunk)

    def _reap(self) -> None:
        # Wait without reaping: while the main process is a zombie its pid, and so the group's id, cannot be reused.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        ended = datetime.now(UTC)
        kill_members(self.marker, self.pid)
        status = self._process.wait()
        self._output.join(_OUTPUT_GRACE)
        self.exit = Exit(128 - status if status < 0 else status, ended, self.oom_killed)
        self._on_exit()


def kill_members(marker: str, leader: int | None = None) -> None:
    """SIGKILL to the process group of `leader` and to every process that carries the marker, until none is left."""
    for _ in range(10):  # a fork bomb may be faster than one pass
        if leader is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, signal.SIGKILL)
        pids = [pid for pid in members(marker) if pid != leader]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            return


def members(marker: str) -> list[int]:
    """The live processes of this user whose environment has a marker that starts with `marker` (Linux; else none)."""
    wanted = f"{MARKER}={marker}".encode()
    own = os.getpid()
    found = []
    for pid in _pids():
        if pid == own:
            continue
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if any(entry.startswith(wanted) for entry in entries):
                found.append(pid)
    return found


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
