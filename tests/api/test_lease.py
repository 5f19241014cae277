"""Election on the real API server, with contenders as processes of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from tests.cluster.control_plane import ControlPlane
from tests.cluster.paths import CHECKOUT

DURATION, DEADLINE, PERIOD = 3.0, 2.0, 0.3
SLACK = 3.0
"""For a loaded machine; the exact times are proved on a virtual clock (tests/unit/test_lease.py)."""

CONTENDER = f"""
import asyncio, signal, sys
from finetune_operator.controller.lease import Lease
from finetune_operator.kube import config
from finetune_operator.kube.client import KubeClient

async def main(kubeconfig, name, identity):
    async with KubeClient(config.load(kubeconfig)) as client:
        lease = Lease(client, namespace="default", name=name, identity=identity,
                      duration={DURATION}, renew_deadline={DEADLINE}, retry_period={PERIOD})
        task = asyncio.create_task(lease.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        print("contending", flush=True)
        await lease.acquired()
        print("leading", lease.valid(), flush=True)
        try:
            await task
        except asyncio.CancelledError:
            print("released", lease.valid(), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Contender:
    """A process that prints what happens to it; killed at the end."""

    def __init__(self, process: asyncio.subprocess.Process, identity: str) -> None:
        self.identity = identity
        self.process = process
        self.said: asyncio.Queue[str] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, kubeconfig: Path, lease: str, identity: str) -> Self:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", CONTENDER, str(kubeconfig), lease, identity),
            cwd=CHECKOUT / "operator",
            stdout=subprocess.PIPE,
        )
        return cls(process, identity)

    async def _listen(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            self.said.put_nowait(line.decode().strip())

    async def says(self) -> str:
        return await asyncio.wait_for(self.said.get(), 60)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._listening


def holder(control_plane: ControlPlane, name: str) -> str:
    lease = json.loads(control_plane.kubectl("get", "lease", name, "-o", "json"))
    return str(lease["spec"].get("holderIdentity", ""))


async def first_to_lead(one: Contender, other: Contender) -> tuple[Contender, Contender]:
    """(the one that leads, the one that goes on waiting)."""
    hearing = {asyncio.create_task(each.says()): each for each in (one, other)}
    done, pending = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == ["leading True"], "exactly one takes over"
    for task in pending:
        task.cancel()
    return hearing[done.pop()], hearing[pending.pop()]


async def test_release_hands_over_at_once_and_sigkill_after_the_duration(control_plane: ControlPlane) -> None:
    name = "taken-over"
    async with AsyncExitStack() as stack:

        async def contend(identity: str) -> Contender:
            return await stack.enter_async_context(await Contender.start(control_plane.kubeconfig, name, identity))

        first = await contend("first")
        assert [await first.says(), await first.says()] == ["contending", "leading True"]
        second, third = await contend("second"), await contend("third")
        assert [await second.says(), await third.says()] == ["contending"] * 2
        await asyncio.sleep(DURATION + 1)
        assert holder(control_plane, name) == "first", "renewed for longer than its duration"
        assert second.said.empty()
        assert third.said.empty()

        first.process.terminate()
        released_at = time.monotonic()
        leader, standby = await first_to_lead(second, third)
        assert time.monotonic() - released_at < PERIOD + SLACK
        assert await first.says() == "released False"
        assert holder(control_plane, name) == leader.identity

        leader.process.kill()
        killed_at = time.monotonic()
        assert await standby.says() == "leading True"
        assert DURATION - PERIOD - 0.2 <= time.monotonic() - killed_at < DURATION + 2 * PERIOD + SLACK
        assert holder(control_plane, name) == standby.identity

        standby.process.terminate()
        assert await standby.says() == "released False"
        assert await standby.process.wait() == 0
        assert holder(control_plane, name) == ""


async def test_who_is_cut_off_ends_before_another_could_lead(tmp_path: Path) -> None:
    with ControlPlane(tmp_path, controller_manager=False) as own:
        async with await Contender.start(own.kubeconfig, "cut-off", "alone") as leader:
            assert [await leader.says(), await leader.says()] == ["contending", "leading True"]
            own.pause_apiserver()
            paused_at = time.monotonic()
            try:
                assert await asyncio.wait_for(leader.process.wait(), 30) == 1, "LeaseLost ends the process"
                assert DEADLINE - PERIOD - 0.2 <= time.monotonic() - paused_at < DEADLINE + SLACK
            finally:
                own.resume_apiserver()
