"""`/healthz` of a real process says so when a watch is dead, the queue is stuck, or the loop has stalled."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp import web

from tests.cluster.ports import free_port
from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Forward, let_through, never
from tests.faults.user import sample


class Probe:
    """The kubelet's look at the process."""

    def __init__(self, here: World, port: int) -> None:
        self._here = here
        self._url = f"http://127.0.0.1:{port}"

    async def look(self, path: str = "/healthz") -> tuple[int, str]:
        """Status and text; status 0: no answer."""
        timeout = aiohttp.ClientTimeout(total=1)
        try:
            async with aiohttp.ClientSession() as session, session.get(self._url + path, timeout=timeout) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""

    async def until(self, status: int, words: str = "") -> str:
        """The text, once it has that status."""

        async def look() -> str | None:
            found, text = await self.look()
            return text if found == status and words in text else None

        text: str = await self._here.user.until(f"/healthz {status} {words}", look)
        return text


async def probed(world: Worlds, **flags: str | float) -> tuple[World, Probe]:
    port = free_port()
    here = await world(metrics_port=port, metrics_host="127.0.0.1", **flags)
    probe = Probe(here, port)
    await probe.until(200)
    return here, probe


async def test_a_dead_watch(world: Worlds) -> None:
    here, probe = await probed(world, liveness_watch_silence=10, watch_silence=5)
    await here.user.create(sample())
    await here.user.job("sample-1")

    async def hang(call: Call, forward: Forward) -> web.StreamResponse:
        return await never() if call.watch and "jobs" in call.path else await forward()

    async with something_happens(here, finetunes="sample", jobs="sample-1"):
        here.channel.intercept = hang
        here.channel.cut_watches()
        text = await probe.until(503)
        assert "watch: nothing heard of jobs for" in text
        assert "finetunes" not in text
        here.channel.intercept = let_through
        here.channel.cut_watches()
        await probe.until(200)


@asynccontextmanager
async def something_happens(here: World, **objects: str) -> AsyncIterator[None]:
    """Meanwhile these objects change twice a second, so that a watch that hears nothing of them is dead."""

    async def change() -> None:
        for number in itertools.count():
            for resource, name in objects.items():
                await here.user.merge(resource, name, {"metadata": {"annotations": {"changed": str(number)}}})
            await asyncio.sleep(0.5)

    changing = asyncio.create_task(change())
    try:
        yield
    finally:
        changing.cancel()
        with suppress(asyncio.CancelledError):
            await changing


async def test_a_stuck_queue(world: Worlds) -> None:
    here, probe = await probed(world, liveness_queue_age=2, workers=1, client_timeout=300)

    async def hang(call: Call, forward: Forward) -> web.StreamResponse:
        return await never() if str(call) == "POST jobs" else await forward()

    here.channel.intercept = hang
    await here.user.create(sample("one"))
    await here.user.create(sample("two"))
    text = await probe.until(503)
    assert "queue: the oldest key has been waiting for" in text
    assert "queue: a reconcile has been running for" in text


async def test_a_stalled_loop(world: Worlds) -> None:
    here, probe = await probed(world, liveness_loop_lag=1)
    here.operator.signal(signal.SIGSTOP)
    await asyncio.sleep(4)
    assert await probe.look() == (0, "")
    here.operator.signal(signal.SIGCONT)
    assert "loop: it woke" in await probe.until(503, "loop")
    await probe.until(200)


async def test_not_ready_before_the_first_lists(world: Worlds) -> None:
    here, probe = await probed(world)
    await here.user.until("ready", lambda: _status(probe, 200))

    async def hang(_: Call, __: Forward) -> web.StreamResponse:
        return await never()

    here.operator.kill()
    here.channel.intercept = hang
    here.operator.start()
    await probe.until(200)
    status, text = await probe.look("/readyz")
    assert status == 503
    assert "watch: finetunes not listed yet" in text
    here.channel.intercept = let_through
    here.channel.cut_watches()
    await here.user.until("ready", lambda: _status(probe, 200))


async def _status(probe: Probe, wanted: int) -> bool:
    status, _ = await probe.look("/readyz")
    return status == wanted
