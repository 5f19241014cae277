"""Starts and stops one process per GPU, and decides the exit code. Standard library and the contract only.

torchrun would do the same, but it turns every exit code into 1 (measured), and the operator decides by the exit code.
Rank 0 starts first and alone: it validates configuration and data and downloads the model; the others start when it is
ready. Each rank sees only its own GPU, and writes its own termination message, one of which becomes the pod's.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from finetune_operator.api import trainer_config
from finetune_operator.api.trainer_config import (
    FINAL_EXIT_CODES,
    ExitCode,
    TerminationMessage,
    read_termination_message,
)
from finetune_trainer.environment import RANK_ENV, RANKS_DIR_ENV, RANKS_ENV
from finetune_trainer.errors import EXIT_FAILED, TrainerReason
from finetune_trainer.reporting.progress import emit
from finetune_trainer.stop import Stop

PREPARED: Final = "prepared"
"""The file by which rank 0 says that data and model are ready."""
LAUNCHER_ENV: Final = "FINETUNE_LAUNCHER"
"""The launcher's process id."""
POLL_S: Final = 0.05
GRACE_PERIOD_S: Final = 15.0
"""How long the other ranks may take to notice that one has failed before they are killed."""


def launch(count: int, termination_log: Path | None, stop: Stop) -> int:
    """Run `count` ranks until all have ended; returns the exit code, and writes the deciding rank's message.

    termination_log: the file for the pod's termination message.
    """
    stop.finish()  # from here on a signal only sets the flag, which `_watch` passes on
    with TemporaryDirectory(prefix="finetune-ranks-", ignore_cleanup_errors=True) as folder:
        ranks = _Ranks(count, Path(folder))
        _watch(ranks, stop)
        rank = decide(ranks.codes, {rank for rank in ranks.codes if ranks.reason(rank) == TrainerReason.RANK_LOST})
        message, code = ranks.message(rank), _shell_code(ranks.codes[rank])
    _write(message, termination_log)
    if rank != 0:  # rank 0 reports its own end, but not that of another rank
        emit("end", state=message.state, reason=message.reason, message=message.message, exitCode=code)
    return code


def decide(codes: Mapping[int, int], lost: set[int]) -> int:
    """The rank whose exit code becomes that of the run.

    codes: exit codes by rank, in the order in which the ranks ended; negative for a signal. lost: the ranks that failed
    only because another one did. Rank 0 writes the result, so its success is the run's. Otherwise a final exit code
    (bad configuration or data, out of memory) takes precedence over a retry, and that over whatever ended first.
    """
    if codes.get(0) == ExitCode.DONE:
        return 0
    for wanted in (*FINAL_EXIT_CODES, ExitCode.RETRY):
        found = [rank for rank, code in codes.items() if code == wanted]
        if found:
            return min(found)
    failed = [rank for rank, code in codes.items() if code != ExitCode.DONE]
    return next((rank for rank in failed if rank not in lost), failed[0])


def die_with_parent() -> None:
    """End this rank at once, without a termination message, when its launcher is killed. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if str(os.getppid()) != os.environ.get(LAUNCHER_ENV):  # the launcher is dead already
            os._exit(EXIT_FAILED)


@dataclass
class _Ranks:
    count: int
    folder: Path
    running: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)

    def start(self, rank: int) -> None:
        """Start a rank with SIGTERM blocked, until its `Stop.listen`: a signal in its first moments is not lost."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self.running[rank] = subprocess.Popen(
                [sys.executable, "-m", "finetune_trainer"],
                env=self._environment(rank),
                stdout=None if rank == 0 else subprocess.DEVNULL,  # events come from one process
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def reap(self) -> None:
        """Record the exit codes of the ranks that have ended."""
        for rank, process in list(self.running.items()):
            if (code := process.poll()) is not None:
                self.codes[rank] = code
                del self.running[rank]

    def send(self, signum: int) -> None:
        """Send a signal to every running rank."""
        for process in self.running.values():
            process.send_signal(signum)

    def reason(self, rank: int) -> str | None:
        """The reason in a rank's termination message, if it wrote one."""
        written = self._written(rank)
        return written.reason if written else None

    def message(self, rank: int) -> TerminationMessage:
        """A rank's termination message, with the progress that rank 0 reports."""
        message = self._written(rank) or TerminationMessage(
            state="Failed",
            reason=TrainerReason.TRAINER_FAILED,
            message=f"process {rank} of {self.count} ended {_how(self.codes[rank])}",
        )
        first = self._written(0)
        if rank == 0 or first is None:
            return message
        known = ("step", "total_steps", "loss", "checkpoint", "base_model_revision")
        return message.model_copy(update={name: getattr(first, name) for name in known})

    def _written(self, rank: int) -> TerminationMessage | None:
        try:
            return read_termination_message(self._log(rank).read_text())
        except (OSError, UnicodeDecodeError):
            return None

    def _log(self, rank: int) -> Path:
        return self.folder / f"termination-{rank}.json"

    def _environment(self, rank: int) -> dict[str, str]:
        env = {
            # Within one pod.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.count)),
            **os.environ,
            RANK_ENV: str(rank),
            RANKS_ENV: str(self.count),
            RANKS_DIR_ENV: str(self.folder),
            LAUNCHER_ENV: str(os.getpid()),
            trainer_config.TERMINATION_LOG_ENV: str(self._log(rank)),
            "CUDA_VISIBLE_DEVICES": own_device(rank, os.environ.get("CUDA_VISIBLE_DEVICES")),
        }
        if rank != 0:
            env.pop(trainer_config.SERVER_URL_ENV, None)
        return env


def own_device(rank: int, visible: str | None) -> str:
    """CUDA_VISIBLE_DEVICES of a rank. visible: that of the pod (indices or UUIDs), None for every device."""
    names = [name.strip() for name in visible.split(",")] if visible else []
    return names[rank] if rank < len(names) else str(rank)


def _watch(ranks: _Ranks, stop: Stop) -> None:
    """Wait until all ranks have ended. If one fails, the others are killed: their next collective would hang."""
    ranks.start(0)
    signalled, killed_at = False, float("inf")
    while ranks.running:
        time.sleep(POLL_S)
        ranks.reap()
        if stop.requested and not signalled:
            ranks.send(signal.SIGTERM)
            signalled = True
        if not signalled and set(ranks.running) == {0} and not ranks.codes and (ranks.folder / PREPARED).exists():
            for rank in range(1, ranks.count):
                ranks.start(rank)
        if killed_at == float("inf") and _is_decided(ranks.codes):
            killed_at = time.monotonic() + GRACE_PERIOD_S
        if time.monotonic() > killed_at:
            ranks.send(signal.SIGKILL)


def _is_decided(codes: Mapping[int, int]) -> bool:
    return codes.get(0) == ExitCode.DONE or any(code not in (ExitCode.DONE, ExitCode.RETRY) for code in codes.values())


def _write(message: TerminationMessage, log: Path | None) -> None:
    if log is None:
        return
    try:
        log.write_text(message.to_json())
    except OSError as error:
        print(f"the termination message could not be written: {error}", flush=True)


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code} and without a termination message"
    hint = ": the pod may have run out of memory" if code == -signal.SIGKILL else ""
    return f"by signal {-code} ({signal.Signals(-code).name}){hint}"
