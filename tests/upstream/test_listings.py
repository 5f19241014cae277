"""Listings of the hub and of S3 that never end, or are made to fill the memory: refused in words, in bounded time."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from finetune_operator.api.hub import Repository
from finetune_operator.backends.errors import UpstreamError
from finetune_operator.backends.http.documents import TooHeavy, json_of, xml_of
from finetune_operator.backends.http.fetcher import Fetcher
from finetune_operator.backends.transfer.stores import listing
from finetune_operator.backends.transfer.stores.hub import Hub
from finetune_operator.backends.transfer.stores.s3 import Bucket, Place
from tests.upstream.contexts import client
from tests.upstream.web import Handler, Site, serving

TREE = "/api/datasets/a/b/tree/main"
Page = Callable[[int], Awaitable[bytes]]


def _hub(site: Site, page: Page) -> Handler:
    count = itertools.count()

    async def answer(_: web.Request) -> web.Response:
        number = next(count)
        body = await page(number)
        return web.Response(body=body, headers={"Link": f'<{site.url(TREE)}?cursor={number}>; rel="next"'})

    return answer


def _s3(page: Page) -> Handler:
    count = itertools.count()

    async def answer(_: web.Request) -> web.Response:
        number = next(count)
        more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>%d</NextContinuationToken>" % number
        return web.Response(body=b"<ListBucketResult>%s%s</ListBucketResult>" % (await page(number), more))

    return answer


async def _read(store: str, page: Page) -> tuple[str, int]:
    """What is said in the end, and how many pages were asked for."""
    async with serving(Site()) as site, client([site.host]) as http:
        site.files |= {TREE: _hub(site, page), "/bucket": _s3(page)}
        if store == "hub":
            hub = Hub(Fetcher(http), {"HF_ENDPOINT": site.url()})
            reading = hub.files(Repository.of("hf://datasets/a/b", "datasets"))
        else:
            reading = Bucket(Fetcher(http), {"AWS_ENDPOINT_URL": site.url()}).keys(Place("bucket", "x"))
        with pytest.raises(UpstreamError) as failed:
            await reading
        return failed.value.message, len(site.requests)


async def _nothing(_: int) -> bytes:
    return b"[]"


@pytest.mark.parametrize(("store", "where"), [("hub", "hf://datasets/a/b"), ("s3", "s3://bucket/x")])
class TestEndless:
    async def test_pages_without_end(self, store: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "MAX_PAGES", 20)
        said, pages = await _read(store, _nothing)
        assert said.startswith(f"the listing of {where}")
        assert said.endswith("has more than 20 pages: name a file in the URI")
        assert pages == 21

    async def test_bytes_without_end(self, store: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def page(_: int) -> bytes:
            return b"[]" + b" " * 100_000

        monkeypatch.setattr(listing, "MAX_BYTES", 1_000_000)
        said, pages = await _read(store, page)
        assert where in said
        assert said.endswith("has more than 1000000 bytes: name a file in the URI")
        assert pages == 10

    async def test_time_without_end(self, store: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def page(_: int) -> bytes:
            await asyncio.sleep(0.05)
            return b"[]"

        monkeypatch.setattr(listing, "SECONDS", 0.5)
        said, pages = await _read(store, page)
        assert where in said
        assert said.endswith("was not complete within 0 s")
        assert pages < 12

    async def test_a_page_that_would_fill_the_memory(self, store: str, where: str) -> None:
        async def page(_: int) -> bytes:
            return b"[%s{}]" % (b"{}," * 1_000_000) if store == "hub" else b"<a/>" * 1_000_000

        said, pages = await _read(store, page)
        assert where in said
        assert "too large to be read" in said or "sends more than" in said
        assert pages == 1


async def test_what_would_become_too_much_is_not_read() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TooHeavy):
            await json_of(b"[%s{}]" % (b"{}," * 1_000_000))
        with pytest.raises(TooHeavy):
            await xml_of(b"<x>%s</x>" % (b"<a/>" * 900_000))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


async def test_the_event_loop_goes_on_while_a_large_one_is_read() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    read = await json_of(b"[%s1]" % (b'{"path":"x"},' * 100_000))
    turning.cancel()
    assert len(read) == 100_001
    assert turns > 1
