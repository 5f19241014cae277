"""A provider and a bucket that answer on loopback while synchronous tests run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.upstream.bench import Store
from tests.upstream.life import CASES

Object = dict[str, Any]


@dataclass(frozen=True)
class Provider:
    """Where the provider is, what its and the bucket's Secrets hold, and the spec of a run there."""

    url: str
    secrets: dict[str, dict[str, str]]
    spec: Object


@contextmanager
def provider(name: str) -> Iterator[Provider]:
    """The fake of a provider, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    case, store, stack = CASES[name], Store(), AsyncExitStack()
    store.folder()

    async def start() -> str:
        await stack.enter_async_context(store.serve())
        fake = await stack.enter_async_context(case.fake().serve())
        return str(fake.url)

    try:
        url = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        yield Provider(url, {"credentials": dict(case.secret), "s3": store.secret()}, case.spec(url))
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
