"""What creates never waits behind a crowd of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from finetune_operator.api.depth import too_deep
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import Access
from finetune_operator.kube.errors import ApiError


class Server:
    """Answers creations at once and changes when it is let."""

    def __init__(self) -> None:
        self.held = 0
        self.go = asyncio.Event()
        self.url = ""
        self.text = ""
        """What is there to be read."""

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response(text=self.text, content_type="application/json")
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


async def test_an_answer_that_is_nested_deeply_is_read_without_its_depths(server: Server) -> None:
    access = Access(server.url)
    async with KubeClient(access) as client:
        for levels in (254, 1005, 1100, 5000):
            server.text = '{"metadata":{"name":"a"},"spec":{"x":%s}}' % ("[" * levels + "]" * levels)
            answer = await client.get("/finetunes/a")
            assert answer["metadata"] == {"name": "a"}
            assert too_deep(answer["spec"])
        server.text = server.text[:-1]
        with pytest.raises(ApiError, match="the response is not a JSON object"):
            await client.get("/finetunes/a")


async def test_a_list_without_items_is_an_error_and_not_empty(server: Server) -> None:
    """Who takes it for nothing there begins a second pod."""
    async with KubeClient(Access(server.url)) as client:
        for text in ("{}", '{"kind":"Status","status":"Success"}', '{"items":{}}', '{"items":"none"}'):
            server.text = text
            with pytest.raises(ApiError, match="the response is no list"):
                await client.list("/pods")
            with pytest.raises(ApiError, match="the response is no list"):
                await client.page("/pods", {}, 1000)
        answers: list[tuple[str, list[object]]] = [
            ('{"items":[{}]}', [{}]),
            ('{"items":null}', []),
            ('{"items":[]}', []),
        ]
        for text, items in answers:
            server.text = text
            assert (await client.list("/pods"))["items"] == items
            assert (await client.page("/pods", {}, 1000))[0]["items"] == items
