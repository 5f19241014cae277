"""The operator as a real process that can be killed at any moment and is started again within milliseconds.

Processes are forked from a server that has imported the operator already: its imports take longer than a whole run.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")


@functools.cache
def _ensure_server() -> None:
    """Start the server of forks with the operator imported: it takes its search path from the environment alone."""
    _context.set_forkserver_preload(["finetune_operator.__main__", "tests.faults.operators"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _serve(arguments: list[str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["finetune-operator", "run", *arguments]
    assert "finetune_operator.__main__" in sys.modules, "the server of forks has not imported the operator"
    from finetune_operator.__main__ import main

    try:
        main()
    except BaseException:
        traceback.print_exc()
        raise


class Operator:
    """`finetune-operator run` against one kubeconfig; its log goes to a file and outlives restarts."""

    def __init__(self, kubeconfig: Path, log: Path, **flags: str | float) -> None:
        settings: dict[str, str | float] = {
            "kubeconfig": str(kubeconfig),
            "leader-election": "false",
            "metrics-port": 0,
            "progress-port": 0,
            "log-format": "text",
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        self._arguments = [f"--{name}={value}" for name, value in settings.items()]
        self.log = log
        self.starts = 0
        self.process: BaseProcess | None = None

    def start(self) -> None:
        """Start it (again)."""
        _ensure_server()
        self.starts += 1
        self.process = _context.Process(target=_serve, args=(self._arguments, str(self.log)), daemon=True)
        self.process.start()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def memory(self) -> int:
        """Bytes that it has had at its worst moment."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL; it is dead on return."""
        assert self.process is not None
        self.process.kill()
        self.process.join()

    async def ended(self, timeout: float = 30) -> int | None:
        """Its exit code, once it has ended."""
        assert self.process is not None
        await asyncio.to_thread(self.process.join, timeout)
        return self.process.exitcode

    def stop(self) -> None:
        """End it, however it is."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join()

    def __enter__(self) -> Operator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
