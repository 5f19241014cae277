"""A Job that the API server will not have: the status has its words, and it is created once it will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Channel, Forward, failure
from tests.faults.test_mishaps import condition, goes_on, taken
from tests.faults.test_runs import says
from tests.faults.user import Refused, User, sample

Object = dict[str, Any]

WORDS = "no Jobs in this house"
_GROUP = "/apis/admissionregistration.k8s.io/v1"


def _policy(name: str, namespace: str, reason: str | None) -> dict[str, Object]:
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    validation = {"expression": "false", "message": WORDS, **({"reason": reason} if reason else {})}
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return {
        "validatingadmissionpolicies": {
            "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]},
        },
        "validatingadmissionpolicybindings": {
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": where},
        },
    }


async def jobs_are_taken(user: User) -> bool:
    """Whether the API server would have a Job now."""
    _, job = taken("Job")
    try:
        await user.call("POST", f"{user.path('jobs')}?dryRun=All", job)
    except Refused:
        return False
    return True


@asynccontextmanager
async def no_jobs(user: User, reason: str | None = None) -> AsyncIterator[Callable[[], Any]]:
    """A policy refuses the namespace's Jobs until what this gives is called."""
    name = f"no-jobs-{user.namespace}"
    objects = _policy(name, user.namespace, reason)

    async def allow() -> None:
        while objects:
            await user.call("DELETE", f"{_GROUP}/{objects.popitem()[0]}/{name}")

    async def enforced() -> bool:
        return not await jobs_are_taken(user)

    for resource, body in objects.items():
        await user.call("POST", f"{_GROUP}/{resource}", body)
    try:
        await user.until("policy", enforced)
        yield allow
    finally:
        await allow()


def tries(channel: Channel) -> list[float]:
    """When a Job was offered."""
    return [call.began for call in channel.calls if str(call) == "POST jobs"]


async def offered(here: World, times: int) -> None:
    async def look() -> bool:
        return len(tries(here.channel)) >= times

    await here.user.until(f"offered {times} times", look)


@pytest.mark.parametrize(("reason", "code"), [(None, 422), ("RequestEntityTooLarge", 413)])
async def test_refused_by_a_policy_until_that_is_gone(world: Worlds, reason: str | None, code: int) -> None:
    here = await world()
    user = here.user
    async with no_jobs(user, reason) as allow:
        await user.create(sample())
        refused = await condition(user, "Accepted", "InvalidSpec")
        assert refused["status"]["phase"] == "Stalled"
        assert refused["status"]["message"].startswith(f"The API server refuses the Job ({code}): ")
        assert WORDS in refused["status"]["message"]
        await offered(here, 3)
        first, second, third = tries(here.channel)[:3]
        assert third - second > second - first > 0.9
        assert [str(call) for call in here.channel.writes()].count("PATCH finetunes/status") == 1
        await allow()
        await user.runs("sample-1")
        await user.phase("sample", "Running")
        await condition(user, "Accepted", "Valid")
    await goes_on(user)


async def test_an_edit_is_tried_at_once(world: Worlds) -> None:
    here = await world(recheck_interval=3600)
    user = here.user
    async with no_jobs(user) as allow:
        await user.create(sample())
        await says(user, WORDS)
        await allow()
        await user.until("no policy", lambda: jobs_are_taken(user))
        assert len(tries(here.channel)) == 1
        await user.edit("sample", ttlSecondsAfterFinished=3600)
        await user.runs("sample-1")
    await goes_on(user)


@pytest.mark.parametrize("code", [400, 401, 402, 405, 415, 451])
async def test_whatever_the_refusal_is_called(world: Worlds, code: int) -> None:
    """Webhooks answer with any code that they like."""
    here = await world()
    user, open_again = here.user, asyncio.Event()

    async def refuse(call: Call, forward: Forward) -> web.StreamResponse:
        return await forward() if open_again.is_set() or str(call) != "POST jobs" else failure(code, "Odd")

    here.channel.intercept = refuse
    await user.create(sample())
    await says(user, f"The API server refuses the Job ({code}): Odd, says the gateway")
    await offered(here, 2)
    open_again.set()
    await user.runs("sample-1")
    await goes_on(user)
