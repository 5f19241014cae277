"""A proxy before the API server, through which an operator under test sees the world: it counts, delays, lies and cuts.

Each operator has a channel of its own, told apart by the first part of the path. The gateway speaks plain HTTP to the
operators and is the cluster's administrator to the API server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
import orjson
import yaml
from aiohttp import web
from yarl import URL

from finetune_operator.kube import config

WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP_BY_HOP = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "accept-encoding"}


@dataclass(slots=True, eq=False)
class Call:
    """One request of an operator, and what became of it."""

    verb: str
    path: str
    request: web.Request
    body: bytes
    number: int
    """1 for the channel's first write, 2 for its second … ; 0 for reads."""
    began: float = field(default_factory=time.monotonic)
    silent: bool = False
    status: int = 0
    """What the API server answered; 0: it was not asked."""

    @property
    def write(self) -> bool:
        return self.verb in WRITES

    @property
    def watch(self) -> bool:
        return "watch" in self.request.query

    @property
    def namespace(self) -> str:
        """Empty for what is in none, or in all."""
        return self.path.partition("/namespaces/")[2].partition("/")[0]

    @property
    def resource(self) -> str:
        """`jobs`, `finetunes/status` …: the path without its names."""
        parts = self.path.split("/")
        parts = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else parts[-1:]
        return "/".join(part for index, part in enumerate(parts) if index != 1)

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"

    def cut(self) -> web.Response:
        """Break the connection instead of answering."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return web.Response()


Forward = Callable[[], Awaitable[web.StreamResponse]]
Interceptor = Callable[[Call, Forward], Awaitable[web.StreamResponse]]


async def let_through(_: Call, forward: Forward) -> web.StreamResponse:
    """No fault."""
    return await forward()


def failure(status: int, reason: str, **headers: str) -> web.Response:
    """An answer of the API server's that is not a success."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": f"{reason}, says the gateway",
        "code": status,
    }
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response(body, status=status, headers=fields)


class Channel:
    """One operator's view of the API server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Call] = []
        self.intercept: Interceptor = let_through
        self.open: set[Call] = set()
        self._writes = 0

    def writes(self, *, leases: bool = False) -> list[Call]:
        """Those that the API server has carried out, in the order in which they were sent."""
        return [
            call
            for call in self.calls
            if call.write and 200 <= call.status < 300 and (leases or "leases" not in call.path)
        ]

    def next_number(self) -> int:
        self._writes += 1
        return self._writes

    def silence(self, resource: str = "") -> int:
        """Deliver nothing more on what is open now (the watches of a resource, or all); it stays open. How many."""
        silent = [call for call in self.open if call.path.endswith(resource)]
        for call in silent:
            call.silent = True
        return len(silent)

    def cut_watches(self) -> int:
        """Break every watch; how many there were."""
        watches = [call for call in self.open if call.watch]
        for call in watches:
            call.cut()
        return len(watches)


class Gateway:
    """The proxy. Use it as an async context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        self._access = config.load(str(kubeconfig))
        self.channels: dict[str, Channel] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._access.ssl_context() or True)
        self._session = aiohttp.ClientSession(connector=connector)
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.1)  # TLS connections close in the background

    def channel(self, name: str, folder: Path, token: str = "") -> tuple[Channel, Path]:
        """A new channel, and the kubeconfig that leads through it.

        `token` goes on to the API server, and counts there if the gateway itself has no name: see `stranger`.
        """
        channel = self.channels[name] = Channel(name)
        path = folder / f"{name}.kubeconfig"
        context = {"name": "gateway", "context": {"cluster": "gateway", "user": "gateway"}}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "gateway", "cluster": {"server": f"{self.url}/{name}"}}],
            "users": [{"name": "gateway", "user": {"token": token} if token else {}}],
            "contexts": [context],
            "current-context": "gateway",
        }
        path.write_text(yaml.safe_dump(content))
        return channel, path

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        _, name, path = request.rel_url.raw_path.split("/", 2)
        channel = self.channels[name]
        number = channel.next_number() if request.method in WRITES and "leases" not in path else 0
        call = Call(request.method, f"/{path}", request, await request.read(), number)
        channel.calls.append(call)
        channel.open.add(call)
        try:
            return await channel.intercept(call, lambda: self._forward(call))
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return call.cut()
        finally:
            channel.open.discard(call)

    async def _forward(self, call: Call) -> web.StreamResponse:
        url = URL(f"{self._access.server}{call.path}", encoded=True).with_query(None)
        if call.request.rel_url.raw_query_string:
            url = URL(f"{url}?{call.request.rel_url.raw_query_string}", encoded=True)
        headers = {key: value for key, value in call.request.headers.items() if key.lower() not in _HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self._session.request(
            call.verb, url, data=call.body or None, headers=headers, timeout=timeout
        ) as answer:
            call.status = answer.status
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP_BY_HOP}
            if not call.watch or answer.status >= 300:
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
            return await self._stream(call, answer, kept)

    async def _stream(self, call: Call, answer: aiohttp.ClientResponse, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(call.request)
        with suppress(aiohttp.ClientError, ConnectionError):
            async for chunk in answer.content.iter_any():
                if call.silent:
                    await never()
                await response.write(chunk)
        return response


def stranger(kubeconfig: Path, file: Path) -> Path:
    """A kubeconfig of the same cluster for nobody: a gateway with it lets the operators' own tokens count."""
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"] = [{"name": each["name"], "user": {}} for each in config["users"]]
    file.write_text(yaml.safe_dump(config))
    return file


def changes(body: bytes) -> object:
    """A call's body as JSON, for messages."""
    return orjson.loads(body) if body else None


async def never() -> web.Response:
    """Neither an answer nor an end."""
    await asyncio.Event().wait()
    raise AssertionError
