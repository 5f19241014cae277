"""Status writes that the network delivers late, twice, or after newer ones: the status never goes back in time."""

from __future__ import annotations

import asyncio
import collections
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.controller.policies.job.sidecars import SIDECAR_GRACE
from tests.faults.conftest import Worlds
from tests.faults.gateway import Call, Channel, Forward, Gateway, Interceptor, never
from tests.faults.operators import Operator
from tests.faults.oracle import Turns
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


async def test_a_job_is_delivered_after_the_run_has_succeeded(world: Worlds) -> None:
    """And after somebody has deleted the Job that the run had: the late one must not train again."""
    here = await world(client_timeout=TIMEOUT)
    user, post = here.user, Post()

    async def lose_the_first(call: Call, forward: Forward) -> web.StreamResponse:
        if str(call) != "POST jobs" or post.kept:
            return await forward()
        post.kept.append(forward)
        return await never()

    here.channel.intercept = lose_the_first
    await started(user)
    await user.phase("sample", "Running")
    await user.ends("sample-1", message=DONE)
    done = await user.phase("sample", "Succeeded")
    await user.delete("jobs", "sample-1")
    await user.gone("jobs", "sample-1")
    await post.deliver("after the end")
    assert len(post.landed) == 1
    await user.gone("jobs", "sample-1")
    await settled(here.channel, 2)
    assert await user.list("jobs") == []
    assert await user.find("finetunes", "sample") == done


@dataclass
class Life:
    """A story, and what the API server holds at its end."""

    story: Story
    state: Object = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    post: Post = field(default_factory=Post)
    error: str = ""
    together: set[tuple[str, ...]] = field(default_factory=set)
    made: int = 0
    """The most Jobs that there were of one name, one after the other."""


Weather = Callable[[Channel, Post], Interceptor]
"""What the network does to the writes of a life."""


def late(which: Callable[[Call], bool]) -> Weather:
    """Every other of these writes is lost to the operator, which tries again; and whenever one has landed, all that
    were ever sent are delivered again, the lost ones for the first time: late, twice, and after newer ones."""

    def weather(_: Channel, post: Post) -> Interceptor:
        attempts: collections.Counter[str] = collections.Counter()

        async def intercept(call: Call, forward: Forward) -> web.StreamResponse:
            if not which(call):
                return await forward()
            attempts[str(call)] += 1
            if attempts[str(call)] % 2:
                post.kept.append(forward)
                return await never()
            answer = await forward()
            if answer.status < 300:
                post.kept.append(forward)
                await post.deliver(f"after {phase_of(call) if is_status(call) else call}")
            return answer

        return intercept

    return weather


def doubled(_: Channel, post: Post) -> Interceptor:
    """Each write arrives twice, and the operator hears of the second time."""

    async def intercept(call: Call, forward: Forward) -> web.StreamResponse:
        if not call.write:
            return await forward()
        post.kept.append(forward)
        await forward()
        return await forward()

    return intercept


def overtaken(_: Channel, post: Post) -> Interceptor:
    """Each write is lost at first, tried again, and arrives once more when the next write has landed."""
    waiting: list[Forward] = []
    seen: set[str] = set()

    async def intercept(call: Call, forward: Forward) -> web.StreamResponse:
        if not call.write:
            return await forward()
        identity = f"{call} {call.path}"
        if is_status(call):
            identity += phase_of(call)
        if identity not in seen:
            seen.add(identity)
            post.kept.append(forward)
            waiting.append(forward)
            return await never()
        answer = await forward()
        while waiting and answer.status < 300:
            await waiting.pop()()
        return answer

    return intercept


async def live(life: Life, weather: Weather | None, gateway: Gateway, user: User, folder: Path) -> None:
    channel, kubeconfig = gateway.channel(user.namespace, folder)
    if weather is not None:
        channel.intercept = weather(channel, life.post)
    await user.begin()
    flags: dict[str, str | float] = {"pending_status_delay": 60, "backoff_cap": 1, "client_timeout": TIMEOUT}
    with Operator(kubeconfig, folder / f"{user.namespace}.log", namespace=user.namespace, **flags):
        async with Turns(user) as turns:
            await life.story(user)
            await settled(channel, 2)
            await life.post.deliver("at the end")
            await settled(channel, SIDECAR_GRACE + 2)
        life.together, life.made = turns.together, max(len(uids) for uids in turns.made.values())
        life.state, life.jobs = await end_state(user), jobs_made(channel)


async def both(
    story: Story, weather: Weather, gateway: Gateway, user_of: Callable[[str], User], folder: Path
) -> tuple[Life, Life]:
    """The same story without and with the weather, one after the other."""
    plain, spoilt = Life(story), Life(story)
    name = f"{story.__name__}-{uuid.uuid4().hex[:6]}".replace("_", "-")
    await live(plain, None, gateway, user_of(f"plain-{name}"), folder)
    try:
        await live(spoilt, weather, gateway, user_of(f"spoilt-{name}"), folder)
    except AssertionError as error:
        spoilt.error = str(error)
    return plain, spoilt


async def test_every_status_write_comes_late_and_twice_and_after_newer_ones(
    gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path
) -> None:
    """Not one of them changes anything."""
    lives = [both(story, late(is_status), gateway, user_of, tmp_path) for story in STORIES]
    wrong = []
    for plain, spoilt in await asyncio.gather(*lives):
        name = spoilt.story.__name__
        print(f"\n{name}: {len(spoilt.post.kept)} writes, {spoilt.post.refused} late deliveries refused")
        wrong += [f"{name}: {each}" for each in (spoilt.error, *spoilt.post.landed) if each]
        if spoilt.jobs != plain.jobs:
            wrong.append(f"{name}: Jobs made: {spoilt.jobs}, not {plain.jobs}")
        wrong += differs(plain, spoilt)
        assert spoilt.post.refused >= 6
    assert not wrong, "\n".join(wrong)


def differs(plain: Life, spoilt: Life) -> list[str]:
    if spoilt.error or not (differences := difference(plain.state, spoilt.state)):
        return []
    return [f"{spoilt.story.__name__}: ends differently\n{differences}"]


def all_but_patches_of_jobs(call: Call) -> bool:
    """A late suspension stops the pod once more, and the operator has it go on; nobody here would start that pod."""
    return call.write and str(call) != "PATCH jobs"


def forget_suspension(state: Object) -> None:
    """All Jobs here have ended: a patch that suspends or resumes one changes nothing any more."""
    for name, left in state.items():
        if name.startswith("jobs/"):
            left["spec"].pop("suspend", None)
            (left["annotations"] or {}).pop("finetune.dev/suspended-by-spec", None)


@pytest.mark.parametrize(
    "weather", [late(all_but_patches_of_jobs), doubled, overtaken], ids=["late", "twice", "overtaken"]
)
async def test_every_write_of_a_life(
    weather: Weather, gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path
) -> None:
    """Creates, patches and deletions too: some change something when they come late, and that is put right again.

    No create of a Job can be made conditional. One that arrives when its run has been superseded and its Job is gone
    makes another, which is ended as soon as it is seen; each run writes to a folder of its own.
    """
    wrong = []
    lives = [both(story, weather, gateway, user_of, tmp_path) for story in STORIES]
    for plain, spoilt in await asyncio.gather(*lives):
        name = spoilt.story.__name__
        print(
            f"\n{name}: {len(spoilt.post.kept)} writes; {spoilt.made} Jobs of one name; {'; '.join(spoilt.post.landed)}"
        )
        wrong += [f"{name}: {spoilt.error}"] if spoilt.error else []
        if spoilt.made == 1:
            wrong += [f"{name}: at work together: {each}" for each in spoilt.together]
        for life in (plain, spoilt):
            forget_suspension(life.state)
        wrong += differs(plain, spoilt)
        assert len(spoilt.post.kept) >= 3
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
