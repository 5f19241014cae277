"""A web server on loopback that serves what it is given, and can misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """`files`: path -> bytes, or a handler. `requests`: (method, path with query, headers) as they came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Handler] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.port = 0

    @property
    def host(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "") -> str:
        """Of a path."""
        return f"http://{self.host}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What was put there, with ranges and ETags; else 404."""
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        found = self.files.get(request.path)
        if found is None:
            return web.Response(status=404, text="Not Found")
        if not isinstance(found, bytes):
            return await found(request)
        return ranged(request, found)


def ranged(request: web.Request, data: bytes) -> web.Response:
    """The bytes, or those from `Range: bytes=N-` on."""
    headers = {"ETag": f'"{len(data)}-{hash(data) & 0xFFFF:x}"'}
    asked = request.headers.get("Range", "")
    if not asked or request.headers.get("If-Range") != headers["ETag"]:
        return web.Response(body=data, headers=headers)
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return web.Response(status=206, body=data[start:], headers=headers)


@asynccontextmanager
async def serving(site: Site, port: int = 0) -> AsyncIterator[Site]:
    """The site, running."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await site.answer(request)

    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", port)
    await listener.start()
    site.port = runner.addresses[0][1]
    try:
        yield site
    finally:
        await runner.cleanup()


def breaking_off(data: bytes, after: int, times: int) -> Handler:
    """The connection ends after `after` bytes, the first `times` times."""
    left = times

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal left
        whole = ranged(request, data)
        if not left:
            return whole
        left -= 1
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(
            status=whole.status, headers={**whole.headers, "Content-Length": str(len(whole.body))}
        )
        await response.prepare(request)
        await response.write(whole.body[:after])
        assert request.transport
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response

    return answer


def redirecting(target: str, status: int = 302) -> Handler:
    """To somewhere else."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": target, "Connection": "close"})

    return answer
