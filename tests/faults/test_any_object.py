"""Whatever the API server takes for a FineTune, a Job, a pod or an Event: it ends no watch, and others are served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tests.faults import anything
from tests.faults.conftest import World, Worlds
from tests.faults.test_deaf_watches import watching
from tests.faults.user import DONE, Refused, User, sample

Object = dict[str, Any]

FEW, MANY = 30, 60
"""Examples of each."""


async def taken(examples: Iterable[Any], offer: Callable[[Any], Awaitable[Any]]) -> int:
    """How many of them the API server has accepted."""
    count = 0
    for example in examples:
        try:
            await offer(example)
            count += 1
        except Refused as refused:
            if refused.status not in (400, 403, 404, 409, 413, 422, 500):
                raise
    return count


async def served(user: User, name: str) -> None:
    """A whole life."""
    await user.create(sample(name))
    await user.runs(f"{name}-1")
    await user.phase(name, "Running")
    await user.ends(f"{name}-1", message=DONE)
    await user.phase(name, "Succeeded")


def watches(here: World) -> int:
    return sum(call.watch for call in here.channel.calls)


async def send(user: User, verb: str, resource: str, name: str, body: Object) -> Object:
    """As JSON of any size and number, which orjson would not write."""
    if verb == "POST":
        body = {**body, "metadata": {**body["metadata"], "namespace": user.namespace}}
    content = "application/json" if verb == "POST" else "application/merge-patch+json"
    return await user.call(verb, user.path(resource, name), json.dumps(body).encode(), content)


async def replaced(user: User, resource: str, name: str, body: Object) -> None:
    """A new object in the place of the last one of the name."""
    try:
        await user.delete(resource, name, gracePeriodSeconds=0)
        await user.gone(resource, name)
    except Refused as refused:
        if refused.status != 404:
            raise
    await send(user, "POST", resource, "", body)


async def test_no_object_ends_a_watch(world: Worlds) -> None:
    here = await world(watch_silence=300, sweep_period=3600)
    user = here.user
    await watching(here.channel, user)
    await user.create(sample("victim"))
    job = await user.job("victim-1")
    victim = await user.find("finetunes", "victim") or {}
    begun = watches(here)
    accepted: dict[str, int] = {}

    async def finetune(example: Object) -> None:
        number = sum(accepted.values()) + len(here.channel.calls)
        metadata = {**example["metadata"], "name": f"any-{number}"}
        await send(user, "POST", "finetunes", "", {**example, "metadata": metadata})

    async def status(example: Object) -> None:
        await send(user, "PATCH", "finetunes", "victim/status", {"status": example})

    async def job_status(example: Object) -> None:
        await send(user, "PATCH", "jobs", "victim-1/status", {"status": example})

    async def pod(example: tuple[Object, Object]) -> None:
        body, state = example
        made = await send(user, "POST", "pods", "", body)
        await send(user, "PATCH", "pods", f"{made['metadata']['name']}/status", {"status": state})

    offers: list[tuple[str, list[Any], Callable[[Any], Awaitable[Any]]]] = [
        ("Jobs", anything.examples(anything.jobs(victim), MANY), lambda body: replaced_job(user, body)),
        ("Events", anything.examples(anything.events(job), MANY), lambda body: send(user, "POST", "events", "", body)),
        ("pods", anything.examples(anything.pods(job), FEW), pod),
        ("statuses", anything.examples(anything.statuses(), MANY), status),
        ("statuses of Jobs", anything.examples(anything.job_statuses(), MANY), job_status),
        ("FineTunes", anything.examples(anything.finetunes(), MANY), finetune),
    ]
    for what, examples, offer in offers:
        accepted[what] = await taken(examples, offer)
        await served(user, f"honest-after-{len(accepted)}")
    print(f"\naccepted: {json.dumps(accepted)}")
    await asyncio.sleep(1.5)  # what is refused or waits is looked at again every second
    assert watches(here) == begun
    assert "ended" not in here.log()
    assert "left out" not in here.log()
    assert all(count >= FEW // 6 for count in accepted.values()), accepted


async def replaced_job(user: User, body: Object) -> None:
    await replaced(user, "jobs", body["metadata"]["name"], body)
