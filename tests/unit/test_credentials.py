"""A Secret that many runs share is read once for the calls that come together, and anew for the next ones."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, cast

from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.providers.protocol import capabilities_of
from finetune_operator.controller.upstream import credentials
from finetune_operator.controller.upstream.credentials import Credentials
from finetune_operator.kube.client import KubeClient
from tests.upstream.contexts import run_of

RUN = run_of("https://data.example.com/dogs.zip")


class Secrets:
    """The one call of a client: each read sees the next version of the key."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reads = 0
        self.credentials = Credentials(cast(KubeClient, self), lambda: self.now)

    async def get(self, _path: str) -> dict[str, Any]:
        self.reads += 1
        key = f"key-{self.reads}"
        await asyncio.sleep(0)
        return {"data": {"api-key": base64.b64encode(key.encode()).decode()}}

    async def key(self) -> str:
        return (await self.credentials.provider(RUN, capabilities_of(BflUpstream())))["api-key"]


async def test_calls_that_come_together_read_once() -> None:
    secrets = Secrets()
    assert await asyncio.gather(*(secrets.key() for _ in range(5))) == ["key-1"] * 5
    secrets.now += credentials.KEPT_SECONDS - 0.1
    assert await secrets.key() == "key-1"


async def test_a_later_call_uses_what_was_rotated() -> None:
    secrets = Secrets()
    await secrets.key()
    secrets.now += credentials.KEPT_SECONDS
    assert await secrets.key() == "key-2"
