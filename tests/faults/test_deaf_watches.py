"""Watches that are dead without a sign: the connection is open, and nothing comes. Nothing is created on their word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from finetune_operator.controller.cache import Cache
from finetune_operator.controller.freshness import OLD
from finetune_operator.controller.queue import RetryQueue
from finetune_operator.controller.watch import Watches
from finetune_operator.kube.config import Access
from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Channel, Forward, Gateway
from tests.faults.test_crashes import jobs_made, settled
from tests.faults.test_leaders import Pair
from tests.faults.user import DONE, Object, User, sample

WATCHES = ("/finetunes", "/jobs")


async def watching(channel: Channel, user: User) -> None:
    """Returns when everything has been listed and is watched."""

    async def look() -> bool:
        return len([call for call in channel.open if call.watch]) == len(WATCHES)

    await user.until("watches", look)


def reads(channel: Channel) -> int:
    """How often the FineTune has been read by its name."""
    return len([call for call in channel.calls if call.verb == "GET" and call.path.endswith("/finetunes/sample")])


# Taking over


@pytest.fixture
async def pair(gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path) -> AsyncIterator[Pair]:
    """The first leads, and a run is under way; the second has heard of both, and stands by."""
    user = user_of(f"deaf-{time.monotonic_ns():x}")
    await user.begin()
    made = Pair(gateway, user, tmp_path)
    with made.operators[0]:
        await made.until_leads(0)
        await user.create(sample())
        await user.runs("sample-1")
        await user.phase("sample", "Running")
        with made.operators[1]:
            await watching(made.channels[1], user)
            yield made


async def succeeded(user: User) -> Object:
    """The run is over, and somebody has removed its Job."""
    await user.ends("sample-1", message=DONE)
    done = await user.phase("sample", "Succeeded")
    await user.delete("jobs", "sample-1")
    await user.gone("jobs", "sample-1")
    return done


async def expired(user: User) -> Object:
    """The run is over, and its Job's time to live too."""
    await user.edit("sample", ttlSecondsAfterFinished=1)
    await user.ends("sample-1", message=DONE)
    done = await user.phase("sample", "Succeeded")
    await user.gone("jobs", "sample-1")
    return done


async def cancelled(user: User) -> Object:
    """The run has been cancelled."""
    await user.edit("sample", cancel=True)
    done = await user.phase("sample", "Cancelled")
    await user.gone("jobs", "sample-1")
    return done


@pytest.mark.parametrize("deaf", [("/finetunes",), ("/jobs",), WATCHES], ids="".join)
@pytest.mark.parametrize("end", [succeeded, expired, cancelled])
async def test_a_deaf_standby_that_takes_over_leaves_a_run_that_is_over(
    pair: Pair, end: Callable[[User], Awaitable[Object]], deaf: tuple[str, ...]
) -> None:
    assert [pair.channels[1].silence(resource) for resource in deaf] == [1] * len(deaf)
    done = await end(pair.user)
    pair.operators[0].kill()
    print(f"\ntake-over: {await pair.until_leads(1):.1f} s")
    await settled(pair.channels[1], 3)
    assert [jobs_made(channel) for channel in pair.channels] == [{"sample-1": 1}, {}]
    assert await pair.user.find("finetunes", "sample") == done


@pytest.mark.parametrize("deaf", WATCHES)
async def test_a_deaf_standby_that_takes_over_sees_what_has_happened_meanwhile(pair: Pair, deaf: str) -> None:
    """It does not wait for the next sweep."""
    assert pair.channels[1].silence(deaf) == 1
    pair.operators[0].kill()
    await pair.user.ends("sample-1", message=DONE)
    await pair.user.create(sample("next"))
    await pair.until_leads(1)
    await pair.user.phase("sample", "Succeeded", seconds=30)
    await pair.user.runs("next-1")
    await pair.user.phase("next", "Running", seconds=30)
    assert [jobs_made(channel) for channel in pair.channels] == [{"sample-1": 1}, {"next-1": 1}]


async def test_nothing_is_written_before_everything_has_been_listed_anew(pair: Pair) -> None:
    """Neither while the Lease is held already."""
    asked = asyncio.Event()
    answered = asyncio.Event()

    async def hold_lists(call: Call, forward: Forward) -> web.StreamResponse:
        if call.verb == "GET" and not call.watch and call.path.endswith("/jobs"):
            asked.set()
            await answered.wait()
        return await forward()

    second = pair.channels[1]
    second.intercept = hold_lists
    await pair.user.edit("sample", suspend=True)
    await pair.user.phase("sample", "Suspended")
    pair.operators[0].kill()
    await pair.user.edit("sample", suspend=False)
    await asyncio.wait_for(asked.wait(), 60)
    await asyncio.sleep(2)
    assert second.writes() == []
    assert not pair.leads(1)
    assert second.writes(leases=True)
    answered.set()
    await pair.until_leads(1)
    await pair.user.runs("sample-1")
    await pair.user.phase("sample", "Running")


# Leading


def test_no_watch_is_left_out_here() -> None:
    """Whoever has the operator watch something else has to say here what happens where nothing is heard of it."""
    access = Access("http://127.0.0.1:1")
    watches = Watches(access, Cache(), RetryQueue())
    assert sorted(f"/{stream.resource.plural}" for stream in watches.streams) == sorted(WATCHES)


@pytest.mark.parametrize("deaf", WATCHES)
async def test_a_leader_hears_again_of_all_that_has_happened_meanwhile(world: Worlds, deaf: str) -> None:
    """After the silence that it allows: what was cancelled, what has ended, what was applied."""
    here = await world(watch_silence=4)
    user = here.user
    for name in ("ends", "cancelled"):
        await user.create(sample(name))
        await user.runs(f"{name}-1")
        await user.phase(name, "Running")
    await watching(here.channel, user)
    assert here.channel.silence(deaf) == 1
    await user.ends("ends-1", message=DONE)
    await user.edit("cancelled", cancel=True)
    await user.create(sample("new"))
    await user.phase("ends", "Succeeded", seconds=30)
    await user.phase("cancelled", "Cancelled", seconds=30)
    await user.gone("jobs", "cancelled-1")
    await user.runs("new-1")
    await user.phase("new", "Running", seconds=30)
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {"ends-1": 1, "cancelled-1": 1, "new-1": 1}


async def waiting_for_a_secret(here: World) -> None:
    """A FineTune that is looked at again and again, until what it names is there."""
    manifest = sample()
    manifest["spec"]["dataset"]["secretRef"] = {"name": "reader"}
    await here.user.create(manifest)

    async def look() -> bool:
        found = await here.user.find("finetunes", "sample") or {}
        return bool(found.get("status", {}).get("reason") == "SecretNotFound")

    await here.user.until("SecretNotFound", look)


async def give_the_secret(user: User) -> None:
    await user.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"}}, "secrets")


async def deafened(here: World, resource: str) -> None:
    """Nothing comes of it any more, and that for longer than the cache is believed without a sign."""
    await watching(here.channel, here.user)
    assert here.channel.silence(resource) == 1
    await asyncio.sleep(OLD + 0.5)


@pytest.mark.parametrize(("spec", "phase"), [({"cancel": True}, "Cancelled"), ({"suspend": True}, "Suspended")])
async def test_a_leader_that_does_not_hear_of_a_switch_reads_before_it_creates(
    world: Worlds, spec: Object, phase: str
) -> None:
    here = await world(watch_silence=300)
    await waiting_for_a_secret(here)
    await deafened(here, "/finetunes")
    await here.user.edit("sample", **spec)
    await give_the_secret(here.user)
    await here.user.phase("sample", phase)
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {}


async def test_a_leader_that_does_not_hear_of_a_deletion_reads_before_it_creates(world: Worlds) -> None:
    here = await world(watch_silence=300)
    await waiting_for_a_secret(here)
    await deafened(here, "/finetunes")
    await here.user.delete("finetunes", "sample")
    await give_the_secret(here.user)
    await here.user.until("read", lambda: _has_read(here.channel))
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {}


async def _has_read(channel: Channel) -> bool:
    return reads(channel) > 0


async def test_a_leader_that_does_not_hear_of_a_cancel_makes_no_job_that_has_vanished_again(world: Worlds) -> None:
    here = await world(watch_silence=300)
    user = here.user
    await user.create(sample())
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await deafened(here, "/finetunes")
    await user.edit("sample", cancel=True)
    await user.delete("jobs", "sample-1")
    await user.phase("sample", "Cancelled")
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {"sample-1": 1}
    assert await user.list("jobs") == []


async def test_a_leader_that_does_not_hear_of_its_job_finds_it_by_its_name(world: Worlds) -> None:
    """The Job has been created, the answer was lost, and the watch says nothing."""
    here = await world()
    lost = 0

    async def lose_the_answer(call: Call, forward: Forward) -> web.StreamResponse:
        nonlocal lost
        answer = await forward()
        if str(call) == "POST jobs" and not lost:
            lost = 1
            return call.cut()
        return answer

    here.channel.intercept = lose_the_answer
    await deafened(here, "/jobs")
    await here.user.create(sample())
    await here.user.runs("sample-1")
    await here.user.phase("sample", "Running")
    await here.user.ends("sample-1", message=DONE)
    await here.user.phase("sample", "Succeeded")
    assert lost == 1
    assert jobs_made(here.channel) == {"sample-1": 1}


async def test_where_the_watch_is_heard_of_a_create_costs_no_read(world: Worlds) -> None:
    here = await world()
    await watching(here.channel, here.user)
    await asyncio.sleep(OLD + 0.5)
    await here.user.create(sample())
    await here.user.runs("sample-1")
    await here.user.phase("sample", "Running")
    assert reads(here.channel) == 0
