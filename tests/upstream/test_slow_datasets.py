"""Datasets that hardly arrive: they cost their own namespace its share of the places, and nobody else anything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from finetune_operator.backends.http import min_throughput
from finetune_operator.backends.provider_run import Step, UpstreamRun
from finetune_operator.backends.providers.bfl.provider import BflUpstream
from finetune_operator.backends.transfer import spool
from finetune_operator.backends.transfer.spool import Disk
from finetune_operator.controller.model import Key, Transfer
from finetune_operator.controller.upstream.credentials import Credentials
from finetune_operator.controller.upstream.runner import HEAVY_OF_ONE, Runner
from tests.upstream.contexts import client, png, run_of, zipped
from tests.upstream.web import Site, serving

GREEDY = 6
"""Runs of the namespace whose datasets drip."""


class _Keys:
    """The Secret's word, without a cluster."""

    async def provider(self, *_: object) -> dict[str, str]:
        return {"api-key": "k"}

    async def places(self, *_: object) -> tuple[dict[str, str], dict[str, str]]:
        return {}, {}


async def _no_finetune(*_: object) -> Mapping[str, Any]:
    raise AssertionError("nothing is billed")


async def _dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b"x" * 100)
            await asyncio.sleep(0.02)
    return response


def _in(namespace: str, name: str, dataset: str) -> UpstreamRun:
    return replace(run_of(dataset), namespace=namespace, name=name, uid=f"{namespace}-{name}")


async def test_datasets_that_drip_beside_an_honest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spool, "MinThroughput", lambda: min_throughput.MinThroughput(seconds=0.4, least=1_000, most=100_000)
    )
    monkeypatch.setattr(spool, "PAUSE_SECONDS", 0.01)
    told: asyncio.Queue[Key] = asyncio.Queue()
    async with serving(Site()) as site, client([site.host]) as http:
        site.files |= {"/drip.zip": _dripping, "/good.zip": zipped({"a.png": png(), "a.txt": b"one"})}
        runner = Runner(
            {"bfl": BflUpstream()},
            http,
            cast(Credentials, _Keys()),
            allowed=frozenset(),
            per_provider=4,
            notify=told.put_nowait,
            notify_later=lambda *_: None,
            live=_no_finetune,
            clock=lambda: datetime.now(UTC),
            disk=Disk(50_000_000),
            spool_dir=str(tmp_path),
        )
        greedy = [_in("greedy", str(number), site.url("/drip.zip")) for number in range(GREEDY)]
        for run in greedy:
            runner.begin(run, Step.PREPARE)
        transfers = await _once_they_drip(runner, greedy)
        honest = _in("honest", "dogs", site.url("/good.zip"))
        runner.begin(honest, Step.PREPARE)
        async with asyncio.timeout(20):
            while (await told.get()).namespace != "honest":
                pass
        assert runner.view(honest.uid, 1).success(Step.PREPARE)
        assert [each.before for each in transfers[HEAVY_OF_ONE:]] == list(range(GREEDY - HEAVY_OF_ONE))
        assert all(each.received and each.before is None for each in transfers[:HEAVY_OF_ONE])
        async with asyncio.timeout(30):
            while (failed := runner.view(greedy[0].uid, 1).failure(Step.PREPARE)) is None:
                await told.get()
        assert failed.failure is not None
        assert "sends less than" in failed.failure.message
        await runner.close()


async def _once_they_drip(runner: Runner, runs: list[UpstreamRun]) -> list[Transfer]:
    async with asyncio.timeout(10):
        while True:
            found = [runner.view(run.uid, 1).transfer for run in runs]
            if all(each is not None and each.received for each in found[:HEAVY_OF_ONE]):
                return [each for each in found if each is not None]
            await asyncio.sleep(0.01)
