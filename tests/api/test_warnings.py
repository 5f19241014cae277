"""Which Events are read, from an API server that has very many, or very large ones."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from finetune_operator.backends.job.waits import waiting
from finetune_operator.kube import config, resources
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import TooLarge
from finetune_operator.kube.paging import pages
from finetune_operator.kube.warnings import about_object, warnings_about
from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]

PATH = resources.core("default", "events")
QUOTA = "Error creating: pods is forbidden: exceeded quota: gpus"


class Counting(KubeClient):
    """Notes the size of each page."""

    sizes: list[int]

    async def page(self, path: str, params: Any, most: int) -> tuple[Object, int]:
        answer, size = await super().page(path, params, most)
        self.sizes.append(size)
        return answer, size


@pytest.fixture
async def client(api: ControlPlane) -> AsyncIterator[Counting]:
    opened = Counting(config.load(str(api.kubeconfig)), concurrency=16, timeout=60)
    opened.sizes = []
    async with opened:
        yield opened


async def _say(client: KubeClient, uid: str, name: str, reason: str, message: str, second: int = 0) -> None:
    time = f"2026-12-01T00:{second // 60:02}:{second % 60:02}Z"
    event = {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Job", "namespace": "default", "name": "sample-1", "uid": uid},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "firstTimestamp": time,
        "lastTimestamp": time,
    }
    await client._call("POST", PATH, body=orjson.dumps(event))


async def test_a_quota_behind_six_hundred_others_is_told(client: Counting) -> None:
    """They are about the same Job, come before it by name, and are newer."""
    uid, made = str(uuid.uuid4()), uuid.uuid4().hex[:8]
    await asyncio.gather(
        *(_say(client, uid, f"a-{made}-{n:04}", f"Reason{n % 3}", f"{n}", second=60 + n) for n in range(600)),
        *(_say(client, str(uuid.uuid4()), f"b-{made}-{n}", "FailedCreate", "another's", 999) for n in range(5)),
        _say(client, uid, f"z-{made}", "FailedCreate", QUOTA, second=1),
    )
    found = await warnings_about(client, "default", about_object(uid))
    assert [(each["reason"], each["message"]) for each in found] == [
        ("Reason2", "599"),
        ("Reason1", "598"),
        ("Reason0", "597"),
        ("FailedCreate", QUOTA),
    ]
    said = waiting([], found)
    assert (said.reason, said.message) == ("QuotaExceeded", f"The pod could not be created: {QUOTA}")


async def test_large_ones_are_not_read_whole_and_hide_no_other_reason(client: Counting) -> None:
    uid, made = str(uuid.uuid4()), uuid.uuid4().hex[:8]
    for number in range(12):
        await _say(client, uid, f"a-{made}-{number:04}", "Noise", "x" * 1_000_000)
    await _say(client, uid, f"z-{made}", "FailedCreate", QUOTA)
    found = await warnings_about(client, "default", about_object(uid))
    assert ("FailedCreate", QUOTA) in [(each["reason"], each["message"]) for each in found]
    assert all(len(each["message"]) <= 4096 for each in found)
    assert sum(client.sizes) < 5_000_000


async def test_more_than_is_read_is_said(client: Counting) -> None:
    uid, made = str(uuid.uuid4()), uuid.uuid4().hex[:8]
    await asyncio.gather(*(_say(client, uid, f"{made}-{n:04}", "Noise", "") for n in range(150)))
    selector = {"fieldSelector": f"involvedObject.uid={uid}"}
    with pytest.raises(TooLarge, match="more than 1 pages"):
        _ = [page async for page in pages(client, PATH, selector, most_bytes=1 << 20, most_pages=1)]
    read = [page async for page in pages(client, PATH, selector, most_bytes=1 << 20, most_pages=2)]
    assert [len(page) for page in read] == [100, 50]
