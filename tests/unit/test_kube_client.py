"""What creates never waits behind a crowd of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import Access


class Server:
    """Answers creations at once and changes when it is let."""

    def __init__(self) -> None:
        self.held = 0
        self.go = asyncio.Event()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if request.method != "POST" or "events" in request.path:
            self.held += 1
            await self.go.wait()
        return web.json_response({"metadata": {}})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    serving = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serving.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    serving.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield serving
    await runner.cleanup()


@pytest.mark.parametrize(("concurrency", "bound"), [(16, 4), (4, 1), (2, 1)])
async def test_changes_share_a_quarter_of_the_calls_in_flight(server: Server, concurrency: int, bound: int) -> None:
    access = Access(server.url)
    async with KubeClient(access, concurrency=concurrency) as client:
        changes = [asyncio.create_task(client.json_patch("/finetunes/a/status", [])) for _ in range(20)]
        changes += [asyncio.create_task(client.delete("/jobs/a")) for _ in range(20)]
        changes += [asyncio.create_task(client.announce("/events", {})) for _ in range(20)]
        while server.held < bound:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.wait_for(client.create("/jobs", {}), 10)
        assert server.held == bound
        server.go.set()
        await asyncio.gather(*changes)
    assert server.held == len(changes)
