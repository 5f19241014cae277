"""SIGKILL, for real: the operator is a process, and dies while a call is at the provider or has just been answered."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.paths import CHECKOUT
from tests.upstream.fakes.server import Call
from tests.upstream.life import CASES, FAST, Life, create_unknown, life, over

pytestmark = [pytest.mark.slow]

POINTS = [
    ("oxen", "create", "arrived"),
    ("oxen", "create", "committed"),
    ("oxen", "run", "arrived"),
    ("oxen", "run", "committed"),
    ("scenario", "create", "committed"),
    ("scenario", "train", "committed"),
    ("octoai", "create", "arrived"),
    ("octoai", "create", "committed"),
    ("bfl", "create", "arrived"),
    ("bfl", "create", "committed"),
]


class Process:
    """`finetune-operator run`, which may die."""

    def __init__(self, one: Life, kubeconfig: Path, log: Path) -> None:
        command = [sys.executable, "-m", "finetune_operator", "run", f"--kubeconfig={kubeconfig}"]
        command += [f"--namespace={one.namespace}", f"--allow-base-url={one.fake.url}"]
        command += ["--allow-dataset-host=127.0.0.1", *FAST]
        self._log = log.open("ab")
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "operator")}
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environment)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self._log.close()


@asynccontextmanager
async def dying(one: Life, kubeconfig: Path, folder: Path, route: str, moment: str) -> AsyncIterator[list[Process]]:
    """An operator that is killed at this moment and replaced; `[0]` is the living one."""
    processes = [Process(one, kubeconfig, folder / "first.log")]

    async def hook(now: str, call: Call) -> None:
        if len(processes) == 1 and (now, call.route) == (moment, route):
            processes[0].kill()
            processes.insert(0, Process(one, kubeconfig, folder / "second.log"))
            if now == "arrived":
                raise ConnectionResetError("the request never got through")

    one.fake.hook = hook
    try:
        yield processes
    finally:
        processes[0].kill()


@pytest.mark.parametrize(("name", "route", "moment"), POINTS)
async def test_a_killed_process_is_billed_once(
    api: ControlPlane, tmp_path: Path, name: str, route: str, moment: str
) -> None:
    async with (
        life(CASES[name], api.kubeconfig) as one,
        dying(one, api.kubeconfig, tmp_path, route, moment) as processes,
    ):
        await one.apply()
        body = await asyncio.wait_for(one.until(over, 90), 120)
        assert len(processes) == 2, "the operator was never killed"
        if name == "bfl" and moment == "arrived":
            assert create_unknown(body)
            assert one.billed == 0
        else:
            assert body["status"]["phase"] == "Succeeded", body["status"]
            assert one.billed == 1
