"""One container of a pod over time: its process, its state, its restarts and its files."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from .logs import LogOptions, render, tail
from .process import ContainerProcess, Exit
from .status import (
    BACKOFF_RESET,
    MAX_TERMINATION_MESSAGE,
    ContainerView,
    Running,
    State,
    Terminated,
    Waiting,
    lost,
    parse_state,
    termination,
)

# terminationMessagePolicy FallbackToLogsOnError: "limited to 2048 bytes or 80 lines, whichever is smaller"
_FALLBACK_BYTES, _FALLBACK_LINES = 2048, 80
RESTARTED = "The node agent was restarted, and the process of this container was killed"


class Container:
    """Mutable; used by its pod's thread only, except for `log` (read by the server) and `process` (read for memory)."""

    def __init__(self, spec: Mapping[str, Any], folder: Path, *, init: bool, has_init: bool) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.init = init
        self.folder = folder
        self.state: State = Waiting("PodInitializing" if has_init else "ContainerCreating")
        self.last: Terminated | None = None
        self.restarts = 0
        self.failures = 0  # ends in a row, for the back-off
        self.not_before = 0.0  # monotonic; when the next attempt to start is due
        self.pull_failures = 0
        self.process: ContainerProcess | None = None
        self._container_id = ""
        self._resume_numbering()

    def _resume_numbering(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._runs = max((int(path.stem) + 1 for path in self.folder.glob("*.log")), default=0)

    def restore(self, status: Mapping[str, Any]) -> None:
        """Takes over what an earlier agent wrote; a container that ran then is lost."""
        self.restarts = int(status.get("restartCount", 0))
        last = parse_state(status.get("lastState") or {})
        self.last = last if isinstance(last, Terminated) else None
        state = parse_state(status.get("state") or {})
        if isinstance(state, Running | Terminated):
            self.state = lost(state, RESTARTED, datetime.now(UTC))
            self._container_id = str(status.get("containerID", ""))

    @property
    def view(self) -> ContainerView:
        return ContainerView(
            self.name, self.spec.get("image", ""), self.state, self.last, self.restarts, self._container_id
        )

    @property
    def running(self) -> bool:
        return isinstance(self.state, Running)

    @property
    def succeeded(self) -> bool:
        return isinstance(self.state, Terminated) and self.state.exit_code == 0

    @property
    def memory_limit(self) -> int | None:
        """Bytes."""
        limit = ((self.spec.get("resources") or {}).get("limits") or {}).get("memory")
        return int(parse_quantity(limit)) if limit else None

    @property
    def termination_log(self) -> Path:
        return self.folder / "termination-log"

    @property
    def scratch(self) -> Path:
        """Stands for the container's own file system: default working directory, HOME and TMPDIR."""
        return self.folder / "rootfs"

    def log(self, *, previous: bool = False) -> Path | None:
        """The log of the current or the previous run; None if there is none."""
        number = self._runs - (2 if previous else 1)
        path = self.folder / f"{number}.log"
        return path if number >= 0 and path.exists() else None

    def new_run(self) -> Path:
        """Clears what a fresh container would not have, and returns the new run's log file."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        (self.scratch / "tmp").mkdir(parents=True)
        self.termination_log.write_bytes(b"")
        self._runs += 1
        path = self.folder / f"{self._runs - 1}.log"
        path.touch()
        # One earlier log is kept, as a kubelet does.
        (self.folder / f"{self._runs - 3}.log").unlink(missing_ok=True)
        return path

    def started(self, process: ContainerProcess, container_id: str) -> None:
        """Notes a successful start."""
        self._shift()
        self.process = process
        self._container_id = container_id
        self.state = Running(process.started_at)
        self.pull_failures = 0

    def failed_to_start(self, message: str, container_id: str) -> None:
        """Notes that the program could not be executed: exit code 128, as container runtimes report it."""
        self._shift()
        self._container_id = container_id
        now = datetime.now(UTC)
        self.state = Terminated(128, "StartError", message, now, now, container_id)
        self.failures += 1

    def _shift(self) -> None:
        if isinstance(self.state, Terminated):
            self.last = self.state
        if self.last is not None:
            self.restarts += 1

    def collect(self) -> Exit | None:
        """Takes the end of the process into the state; None if there is nothing new."""
        process = self.process
        if process is None or process.exit is None:
            return None
        self.process = None
        end = process.exit
        if (end.at - process.started_at).total_seconds() > BACKOFF_RESET:
            self.failures = 0
        self.failures += 1
        self.state = termination(
            end.code,
            oom_killed=end.oom_killed,
            message=self._termination_message(end.code),
            started_at=process.started_at,
            finished_at=end.at,
            container_id=self._container_id,
        )
        return end

    def wait_with(self, reason: str, message: str = "") -> None:
        """Becomes Waiting; an end that it had so far becomes the last state."""
        if isinstance(self.state, Terminated):
            self.last = self.state
        self.state = Waiting(reason, message)

    def retry_after(self, seconds: float) -> None:
        self.not_before = time.monotonic() + seconds

    def _termination_message(self, exit_code: int) -> str:
        text = b""
        if self.termination_log.is_file():  # and not a pipe that somebody put there, which would never end
            with contextlib.suppress(OSError), self.termination_log.open("rb") as file:
                text = file.read(MAX_TERMINATION_MESSAGE)
        policy = self.spec.get("terminationMessagePolicy", "File")
        path = self.log()
        if not text and exit_code != 0 and policy == "FallbackToLogsOnError" and path is not None:
            with path.open("rb") as records:
                lines = tail(render((line.rstrip(b"\n") for line in records), LogOptions()), _FALLBACK_LINES)
            text = b"".join(lines)[-_FALLBACK_BYTES:]
        return text.decode(errors="replace")
