"""Status writes that the network delivers late, twice, or after newer ones: the status never goes back in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.faults.conftest import Worlds
from tests.faults.gateway import Call, Forward, Gateway, never
from tests.faults.operators import Operator
from tests.faults.test_crashes import STORIES, Story, difference, jobs_made, settled
from tests.faults.user import DONE, User, end_state, sample

Object = dict[str, Any]

TIMEOUT = 1.0
"""Seconds that the operators here wait for an answer."""


def is_status(call: Call) -> bool:
    return str(call) == "PATCH finetunes/status"


def phase_of(call: Call) -> str:
    """Of the status that it writes."""
    return str(json.loads(call.body)[-1]["value"].get("phase"))


@dataclass
class Post:
    """A slow network: it delivers writes when it is told to, whether or not somebody waits for an answer."""

    kept: list[Forward] = field(default_factory=list)
    refused: int = 0
    landed: list[str] = field(default_factory=list)
    """Late deliveries that have changed something."""

    async def deliver(self, when: str) -> None:
        """Everything that it keeps, once more."""
        for number, forward in enumerate(self.kept):
            answer = await forward()
            if answer.status == 422:
                self.refused += 1
            else:
                self.landed.append(f"write {number + 1}, delivered {when}: {answer.status}")


async def started(user: User, **spec: Any) -> None:
    await user.create(sample(**spec))
    await user.runs("sample-1")


@pytest.mark.parametrize("ttl", [None, 1])
async def test_running_is_delivered_after_the_run_has_succeeded(world: Worlds, ttl: int | None) -> None:
    """With a time to live the Job is gone by then: a status that says Running would have it created again."""
    here = await world(client_timeout=TIMEOUT)
    user, post = here.user, Post()

    async def lose_the_first(call: Call, forward: Forward) -> web.StreamResponse:
        if not is_status(call) or phase_of(call) != "Running" or post.kept:
            return await forward()
        post.kept.append(forward)
        return await never()

    here.channel.intercept = lose_the_first
    await started(user, **({} if ttl is None else {"ttlSecondsAfterFinished": ttl}))
    await user.phase("sample", "Running")
    await user.ends("sample-1", message=DONE)
    done = await user.phase("sample", "Succeeded")
    if ttl is not None:
        await user.gone("jobs", "sample-1")
    assert len(post.kept) == 1
    await post.deliver("after the end")
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {"sample-1": 1}
    assert await user.find("finetunes", "sample") == done
    assert done["status"]["artifacts"][0]["uri"] == "pvc://sample-1/out"
    assert (post.refused, post.landed) == (1, [])


@dataclass
class Life:
    """A story, and what the API server holds at its end."""

    story: Story
    state: Object = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    post: Post = field(default_factory=Post)
    error: str = ""


async def live(life: Life, late: bool, gateway: Gateway, user: User, folder: Path) -> None:
    """With `late`, every other status write is lost to the operator, which tries again; and whenever one has landed,
    all that were ever sent are delivered again, the lost ones for the first time."""
    channel, kubeconfig = gateway.channel(user.namespace, folder)
    attempts = 0

    async def intercept(call: Call, forward: Forward) -> web.StreamResponse:
        nonlocal attempts
        if not late or not is_status(call):
            return await forward()
        attempts += 1
        if attempts % 2:
            life.post.kept.append(forward)
            return await never()
        answer = await forward()
        if answer.status < 300:
            life.post.kept.append(forward)
            await life.post.deliver(f"after {phase_of(call)}")
        return answer

    channel.intercept = intercept
    await user.begin()
    flags: dict[str, str | float] = {"pending_status_delay": 60, "backoff_cap": 1, "client_timeout": TIMEOUT}
    with Operator(kubeconfig, folder / f"{user.namespace}.log", namespace=user.namespace, **flags):
        await life.story(user)
        await settled(channel, 2)
        await life.post.deliver("at the end")
        await settled(channel, 2)
        life.state, life.jobs = await end_state(user), jobs_made(channel)


async def test_every_status_write_comes_late_and_twice_and_after_newer_ones(
    gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path
) -> None:
    async def both(story: Story) -> tuple[Life, Life]:
        plain, late = Life(story), Life(story)
        name = story.__name__.replace("_", "-")
        await live(plain, False, gateway, user_of(f"plain-{name}"), tmp_path)
        try:
            await live(late, True, gateway, user_of(f"late-{name}"), tmp_path)
        except AssertionError as error:
            late.error = str(error)
        return plain, late

    wrong = []
    for plain, late in await asyncio.gather(*(both(story) for story in STORIES)):
        name = late.story.__name__
        print(f"\n{name}: {len(late.post.kept)} writes, {late.post.refused} late deliveries refused")
        wrong += [f"{name}: {each}" for each in (late.error, *late.post.landed) if each]
        if late.jobs != plain.jobs:
            wrong.append(f"{name}: Jobs made: {late.jobs}, not {plain.jobs}")
        if not late.error and (differences := difference(plain.state, late.state)):
            wrong.append(f"{name}: ends differently\n{differences}")
        assert late.post.refused >= 6
    assert not wrong, "\n".join(wrong)


async def test_somebody_else_changes_it_before_every_write_and_the_watch_says_nothing(world: Worlds) -> None:
    """One read and one more attempt for each: nothing is tried again and again on what is known to be old."""
    here = await world(watch_silence=300)
    user, edits = here.user, 0
    written: list[int] = []

    async def edit_first(call: Call, forward: Forward) -> web.StreamResponse:
        nonlocal edits
        if is_status(call) and edits <= len([status for status in written if status == 200]):
            edits += 1
            await user.merge("finetunes", "sample", {"metadata": {"annotations": {"edit": str(edits)}}})
        answer = await forward()
        if is_status(call):
            written.append(answer.status)
        return answer

    here.channel.intercept = edit_first
    await started(user)
    assert here.channel.silence("/finetunes") == 1
    await user.phase("sample", "Running")
    await user.ends("sample-1", message=DONE)
    done = await user.phase("sample", "Succeeded")
    assert done["metadata"]["annotations"] == {"edit": str(edits)}
    assert written == [422, 200] * edits
    assert edits in (2, 3)
    reads = [call for call in here.channel.calls if call.verb == "GET" and call.path.endswith("finetunes/sample")]
    assert len(reads) == edits
    assert jobs_made(here.channel) == {"sample-1": 1}


async def test_a_write_whose_answer_was_lost_is_not_made_again(world: Worlds) -> None:
    """It has landed, and the watch says nothing: the next attempt is refused, and then there is nothing to write."""
    here = await world(client_timeout=TIMEOUT, watch_silence=300)
    user = here.user
    written: list[int] = []

    async def lose_answers(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if is_status(call):
            written.append(answer.status)
            if answer.status == 200:
                return await never()
        return answer

    here.channel.intercept = lose_answers
    await started(user)
    assert here.channel.silence("/finetunes") == 1
    await user.phase("sample", "Running")
    await user.until("second attempt", lambda: _reached(written, 422))
    await user.ends("sample-1", message=DONE)
    await user.phase("sample", "Succeeded")
    await settled(here.channel, 2)
    assert written.count(200) == written.count(422)
    assert written.count(200) in (2, 3)


async def _reached(written: list[int], status: int) -> bool:
    return status in written
