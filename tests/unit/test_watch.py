"""What an event puts into the queue, and before whom."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from kopf._cogs.clients import api

from finetune_operator.controller.cache import Cache
from finetune_operator.controller.model import Key
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.watch import Watches
from finetune_operator.kube.config import Access
from tests.unit.observations import RUNNING, body, job

Object = dict[str, Any]
KEY = Key("default", "sample")


class World:
    """The streams of an operator, fed by hand."""

    def __init__(self) -> None:
        self.cache = Cache()
        self.queue: RetryQueue[Key] = RetryQueue()
        self.finetunes, self.jobs = Watches(Access(""), self.cache, self.queue).streams

    async def order(self) -> list[str]:
        """The names in the order in which they will be worked on."""
        names = []
        while len(self.queue):
            key = await asyncio.wait_for(self.queue.get(), 1)
            assert key is not None
            self.queue.done(key)
            names.append(key.name)
        return names


def _event(kind: str | None, thing: Object) -> Object:
    return {"type": kind, "object": thing}


def _finetune(name: str, **more: Any) -> Object:
    made = body(name)
    made["metadata"]["uid"] = name
    return {**made, **more}


async def test_runs_without_a_job_go_first_whether_listed_or_new() -> None:
    world = World()
    told = {"status": {"run": 1, "phase": "Running"}}
    for kind, thing in (
        (None, _finetune("finished", **told)),
        ("MODIFIED", _finetune("told", **told)),
        (None, _finetune("backlog")),
        ("ADDED", _finetune("new")),
    ):
        world.finetunes.take(_event(kind, thing))
    assert await world.order() == ["backlog", "new", "finished", "told"]


async def test_a_raised_run_goes_first_and_a_run_at_a_provider_does_not() -> None:
    world = World()
    raised = _finetune("raised", status={"run": 1, "phase": "Succeeded"})
    raised["spec"]["run"] = 2
    hosted = _finetune("hosted")
    hosted["spec"]["backend"] = {"oxen": {}}
    world.finetunes.take(_event("ADDED", hosted))
    world.finetunes.take(_event("MODIFIED", raised))
    assert await world.order() == ["raised", "hosted"]


@pytest.mark.parametrize(
    ("kind", "status", "queued"),
    [("ADDED", {}, False), ("ADDED", RUNNING, True), ("MODIFIED", {}, True), (None, {}, True)],
)
async def test_the_birth_of_a_job_is_no_news(kind: str | None, status: Object, queued: bool) -> None:
    world = World()
    world.jobs.take(_event(kind, job(status=status)))
    assert (await world.order() == [KEY.name]) is queued
    assert world.cache.jobs.get(("default", "sample-1")) is not None


async def test_what_is_known_already_is_no_news() -> None:
    world = World()
    world.cache.jobs.put(job(status=RUNNING))
    world.jobs.take(_event("MODIFIED", job(status=RUNNING)))
    assert await world.order() == []


@pytest.mark.parametrize(
    ("kind", "told", "queued"),
    [("MODIFIED", {"run": 1}, False), ("MODIFIED", {"run": 2}, True), ("MODIFIED", {}, True), (None, {"run": 1}, True)],
)
async def test_the_echo_of_our_own_write_is_no_news(kind: str | None, told: Object, queued: bool) -> None:
    world = World()
    with world.cache.finetunes.writing(KEY, {"run": 1}):
        world.finetunes.take(_event(kind, _finetune("sample", status=told)))
    assert (await world.order() == ["sample"]) is queued
    assert (world.cache.finetunes.get(KEY) or {}).get("status") == told


async def test_what_comes_after_our_write_is_news() -> None:
    world = World()
    with world.cache.finetunes.writing(KEY, {"run": 1}):
        pass
    world.finetunes.take(_event("MODIFIED", _finetune("sample", status={"run": 1})))
    assert await world.order() == ["sample"]


async def test_an_edit_between_our_write_and_its_answer_is_news() -> None:
    """The API server has stored both, and has our status in either event; the answer is still on its way."""
    world = World()
    ours, edited = (_finetune("sample", status={"run": 1}) for _ in range(2))
    edited["metadata"]["resourceVersion"] = "101"
    edited["spec"]["cancel"] = True
    with world.cache.finetunes.writing(KEY, {"run": 1}):
        world.finetunes.take(_event("MODIFIED", ours))
        world.finetunes.take(_event("MODIFIED", edited))
    assert await world.order() == ["sample"]


def test_kopf_parses_by_the_name_that_is_replaced() -> None:
    """A kopf that reads its streams in another way is still right, and slower: this says so."""
    assert api.json is orjson  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "labels"), [("DELETED", {"finetune.dev/name": "sample"}), ("MODIFIED", {})])
async def test_a_job_that_is_gone_or_has_lost_its_label_is_known_by_its_name(kind: str, labels: Object) -> None:
    world = World()
    world.jobs.take(_event(kind, job(status=RUNNING, labels=labels)))
    assert await world.order() == ["sample"]
