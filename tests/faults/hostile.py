"""What a hostile tenant does in a namespace of its own: one function for each kind, all as context managers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.api.finetunes import changed, nested
from tests.faults.user import Refused, User, sample
from tests.upstream import runs
from tests.upstream.archives import ONE
from tests.upstream.bench import Store
from tests.upstream.contexts import zipped
from tests.upstream.test_datasets_hostile import parquet_bomb

Object = dict[str, Any]
DRIP = 2000
"""Bytes a second."""


@dataclass
class Tenant:
    """A user with bad intent, and the store that its datasets come from."""

    user: User
    store: HostileStore
    provider: str
    """Address of a provider."""

    async def create(self, body: bytes) -> None:
        """A FineTune, unless the API server will not have it: that is as good an end as any."""
        with suppress(Refused):
            await self.user.call("POST", self.user.path("finetunes"), body)

    def manifest(self, name: str) -> Object:
        return changed(sample(name), "metadata.namespace", self.user.namespace)

    async def at_a_provider(self, name: str, uri: str) -> None:
        """A FineTune at BFL with this dataset."""
        spec = {**runs.bfl(self.provider), "dataset": {"uri": uri, "secretRef": {"name": "s3"}}}
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTune", "metadata": {"name": name}, "spec": spec}
        await self.user.create(body)

    async def secrets(self) -> None:
        for name, values in (("s3", self.store.secret()), ("bfl", runs.BFL_SECRET)):
            data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
            await self.user.create(
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}, "secrets"
            )


@dataclass
class HostileStore(Store):
    """An S3 endpoint whose objects drip where they are below `drip/`, and whose folder `endless/` has no last page."""

    pages: int = 0
    asked: set[str] = field(default_factory=set)
    """Objects that somebody has begun to read."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["path"]
        if "list-type" in request.query and request.query.get("prefix", "").startswith("endless"):
            return self._another_page()
        if request.method == "GET" and "list-type" not in request.query:
            self.asked.add(key)
            if "/drip/" in f"/{key}":
                return await _dripping(request, self.objects[key])
        return await super()._answer(request)

    def _another_page(self) -> web.Response:
        self.pages += 1
        rows = "".join(
            f"<Contents><Key>endless/{self.pages:06}-{number:04}.png</Key><Size>1</Size></Contents>"
            for number in range(1000)
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{self.pages}</NextContinuationToken>"
        return web.Response(text=f"<ListBucketResult>{more}{rows}</ListBucketResult>", content_type="text/xml")


async def _dripping(request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(data)), "ETag": '"1"'})
    await response.prepare(request)
    with suppress(ConnectionError):
        for start in range(0, len(data), DRIP // 4):
            await response.write(data[start : start + DRIP // 4])
            await asyncio.sleep(0.25)
    return response


@asynccontextmanager
async def _again_and_again(work: Callable[[int], Awaitable[Any]], every: float) -> AsyncIterator[None]:
    async def repeat() -> None:
        number = 0
        while True:
            number += 1
            with suppress(Refused):
                await work(number)
            await asyncio.sleep(every)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _edit_all(tenant: Tenant, names: list[str], number: int) -> None:
    for name in names:
        change = {"metadata": {"annotations": {"edit": str(number)}}}
        await tenant.user.merge("finetunes", name, change)


@asynccontextmanager
async def deep(tenant: Tenant) -> AsyncIterator[None]:
    """FineTunes of thousands of levels, each changed all the time."""
    names = [f"deep-{levels}" for levels in (200, 1100, 5000, 9000)]
    for name in names:
        await tenant.create(nested(tenant.manifest(name), int(name.partition("-")[2])))
    async with _again_and_again(lambda number: _edit_all(tenant, names, number), 0.2):
        yield


@asynccontextmanager
async def wide(tenant: Tenant) -> AsyncIterator[None]:
    """FineTunes of 1.2 MB of `{}`, as many as the chart's limit has no room for, and edits of them."""
    names = [f"wide-{number:02}" for number in range(18)]
    for name in names:
        text = orjson.dumps(changed(tenant.manifest(name), "spec.backend.job.advanced", {"x": "HERE"}))
        await tenant.create(text.replace(b'"HERE"', b"[" + b",".join([b"{}"] * 400_000) + b"]"))
    async with _again_and_again(lambda number: _edit_all(tenant, names[:2], number), 0.5):
        yield


@asynccontextmanager
async def dripping(tenant: Tenant) -> AsyncIterator[None]:
    """Datasets for a provider that arrive at 2 kB/s: more of them than there are places."""
    await tenant.secrets()
    for number in range(8):
        tenant.store.objects[f"data/drip/{number}.zip"] = zipped(ONE) + bytes(1_000_000)
        await tenant.at_a_provider(f"drip-{number}", f"s3://data/drip/{number}.zip")
    await tenant.user.until("dripping", lambda: _true(bool(tenant.store.asked)), 15)
    yield


@asynccontextmanager
async def bombing(tenant: Tenant) -> AsyncIterator[None]:
    """Datasets for a provider: kilobytes that unpack to gigabytes."""
    await tenant.secrets()
    bomb = parquet_bomb()
    for number in range(4):
        tenant.store.objects[f"data/{number}.parquet"] = bomb
        await tenant.at_a_provider(f"bomb-{number}", f"s3://data/{number}.parquet")
    await tenant.user.until("bombing", lambda: _true(bool(tenant.store.asked)), 15)
    yield


@asynccontextmanager
async def endless(tenant: Tenant) -> AsyncIterator[None]:
    """Datasets for a provider whose listings have no last page."""
    await tenant.secrets()
    for number in range(4):
        await tenant.at_a_provider(f"endless-{number}", "s3://data/endless/")
    await tenant.user.until("endless", lambda: _true(tenant.store.pages > 3), 15)
    yield


@asynccontextmanager
async def shouting(tenant: Tenant) -> AsyncIterator[None]:
    """Hundreds of large Warning Events about a Job that waits for its pod."""
    await tenant.user.create(sample("waits"))
    await tenant.user.job("waits-1")
    about = {"kind": "Job", "name": "waits-1", "namespace": tenant.user.namespace}
    words = {"type": "Warning", "reason": "FailedCreate", "message": "a" * 900, "involvedObject": about}
    ballast = {"metadata": {"generateName": "a.", "annotations": {"ballast": "x" * 200_000}}}
    for _ in range(200):
        await tenant.user.create({"apiVersion": "v1", "kind": "Event", **words, **ballast}, "events")
    yield


async def _true(value: bool) -> bool:
    return value
