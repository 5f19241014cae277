"""SIGKILL, for real: the operator is a process, and dies while a call is at the provider or has just been answered."""

from __future__ import annotations

import asyncio
import json
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
from tests.upstream.test_stopping import BOUND, pass_the_bound, stops

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

    def __init__(self, one: Life, kubeconfig: Path, log: Path, *more: str) -> None:
        command = [sys.executable, "-m", "finetune_operator", "run", f"--kubeconfig={kubeconfig}"]
        command += [f"--namespace={one.namespace}", f"--allow-base-url={one.fake.url}"]
        command += ["--allow-dataset-host=127.0.0.1", *FAST, *more]
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


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_process_stops_what_was_deleted_while_none_ran_or_its_log_says_what_is_left(
    api: ControlPlane, tmp_path: Path, refuses: bool
) -> None:
    log = tmp_path / "second.log"
    async with life(CASES["oxen"], api.kubeconfig) as one:
        one.fake.options.outcome = "stay"
        first = Process(one, api.kubeconfig, tmp_path / "first.log", BOUND)
        try:
            await one.apply()
            running = await one.until(lambda body: (body.get("status") or {}).get("phase") == "Running")
        finally:
            first.kill()
        await one.delete()
        await pass_the_bound(one)
        if refuses:
            one.fake.fault("status", status=503, times=10_000)
        second = Process(one, api.kubeconfig, log, BOUND)
        try:
            await one.until_gone()
        finally:
            second.kill()
        assert stops(one) > 0
        told = [json.loads(line) for line in log.read_text().splitlines() if "CancelFailed" in line]
        assert len(told) == refuses
        for line in told:
            assert line["levelname"] == "ERROR"
            for named in ("Oxen", running["status"]["upstream"]["id"], running["status"]["upstream"]["url"]):
                assert named in line["message"]
