"""The demo's operator: a process on this machine that outlives the command which started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.paths import cache_dir
from tests.cluster.ports import free_port
from tests.cluster.progress import step

READY_SECONDS = 60.0


def _state(name: str) -> Path:
    return cache_dir() / f"demo-operator.{name}"


def start_operator(kubeconfig: Path, address: str, image: str) -> Path:
    """Start it and wait until it leads; its log file. Raises ClusterError where it does not come up."""
    log, port = _state("log"), free_port(address)
    _state("log").parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "finetune_operator", "run", "--kubeconfig", str(kubeconfig)]
    command += ["--trainer-image", image, "--trainer-image-pull-policy", "IfNotPresent"]
    command += ["--progress-host", address, "--progress-port", str(port), "--progress-url", f"https://{address}:{port}"]
    command += ["--progress-interval", "1", "--metrics-port", "0", "--log-format", "text"]
    with step("starting the operator"), log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        _state("pid").write_text(str(process.pid))
        deadline = time.monotonic() + READY_SECONDS
        while "leading with" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"the operator did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
    return log


def stop_operator() -> None:
    """End the one that an earlier demo left running; nothing where there is none."""
    try:
        pid = int(_state("pid").read_text())
        ours = b"finetune_operator" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if ours:
        os.kill(pid, signal.SIGTERM)
        for _ in range(150):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.2)
    _state("pid").unlink(missing_ok=True)
