"""What the network and the API server do to the operator. No wake-up is lost, it never floods, and it converges."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tests.cluster.control_plane import ControlPlane
from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Channel, Forward, Interceptor, failure, let_through, never
from tests.faults.test_crashes import jobs_made, settled
from tests.faults.user import DONE, User, sample

RUNS = 4
STORM = 3.0
"""Seconds that a storm lasts."""

Object = dict[str, Any]
NAMES = [f"run-{index}" for index in range(RUNS)]


async def each(work: Callable[[str], Awaitable[Any]]) -> None:
    """For all runs at once."""
    await asyncio.gather(*(work(name) for name in NAMES))


async def whole_life(user: User) -> None:
    """Every run from its creation to its end."""

    async def live(name: str) -> None:
        await user.create(sample(name))
        await ends_well(user, name)

    await each(live)


async def ends_well(user: User, name: str) -> None:
    """The run's pod starts, and succeeds."""
    await user.runs(f"{name}-1")
    await user.phase(name, "Running")
    await user.ends(f"{name}-1", message=DONE)
    await user.phase(name, "Succeeded")


def one_job_each(channel: Channel) -> None:
    assert jobs_made(channel) == {f"{name}-1": 1 for name in NAMES}


def storm(answer: Callable[[], web.StreamResponse], share: float, seconds: float = STORM) -> Interceptor:
    """Answers that share of all calls in the operator's way, for a while from now."""
    over = time.monotonic() + seconds
    chance = random.Random(7)

    async def intercept(call: Call, forward: Forward) -> web.StreamResponse:
        if time.monotonic() < over and chance.random() < share:
            return answer()
        return await forward()

    return intercept


def busiest(channel: Channel, seconds: float = 1.0) -> int:
    """The most calls that were made within any such time."""
    times = sorted(call.began for call in channel.calls)
    return max((sum(1 for time in times if start <= time < start + seconds) for start in times), default=0)


ANSWERS: dict[str, Callable[[], web.StreamResponse]] = {
    "409": lambda: failure(409, "Conflict"),
    "409-exists": lambda: failure(409, "AlreadyExists"),
    "429": lambda: failure(429, "TooManyRequests", Retry_After="1"),
    "500": lambda: failure(500, "InternalError"),
    "503": lambda: failure(503, "ServiceUnavailable"),
    "html": lambda: web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html"),
    "garbage": lambda: web.Response(text="\x1f\x8b no JSON", content_type="application/json"),
}


async def test_storms_of_failures(world: Worlds) -> None:
    """Of each kind one in which half of the calls fail, and one in which all do; side by side."""

    async def weather(answer: str, share: float) -> str:
        here = await world()
        await here.user.until("watches", lambda: _watching(here))
        for name in NAMES:
            await here.user.create(sample(name))
        here.channel.intercept = storm(ANSWERS[answer], share)
        try:
            await each(lambda name: ends_well(here.user, name))
            one_job_each(here.channel)
            assert busiest(here.channel) <= 40 * RUNS
        except AssertionError as error:
            return f"{share:.0%} {answer}: {error}"
        return ""

    storms = [weather(answer, share) for answer in ANSWERS for share in (0.5, 1.0)]
    assert [error for error in await asyncio.gather(*storms) if error] == []


async def test_a_status_that_the_api_server_refuses_is_tried_ever_less_often(world: Worlds) -> None:
    here = await world(backoff_cap=60)
    refused = 0

    async def refuse(call: Call, forward: Forward) -> web.StreamResponse:
        nonlocal refused
        if str(call) == "PATCH finetunes/status":
            refused += 1
            return failure(422, "Invalid")
        return await forward()

    here.channel.intercept = refuse
    await here.user.create(sample())
    await here.user.runs("sample-1")
    await asyncio.sleep(STORM)
    assert 3 <= refused <= 25
    here.channel.intercept = let_through
    await here.user.phase("sample", "Running")
    assert jobs_made(here.channel) == {"sample-1": 1}


async def _watching(here: World) -> bool:
    return len([call for call in here.channel.open if call.watch]) == 2


@pytest.mark.parametrize("when", ["before", "after"])
async def test_every_write_s_connection_is_reset_once(world: Worlds, when: str) -> None:
    here = await world()
    met: set[str] = set()

    async def reset(call: Call, forward: Forward) -> web.StreamResponse:
        identity = f"{call} {call.path} {call.body!r}"
        if not call.write or identity in met:
            return await forward()
        met.add(identity)
        if when == "after":
            await forward()
        return call.cut()

    here.channel.intercept = reset
    await whole_life(here.user)
    one_job_each(here.channel)


async def test_an_answer_that_comes_after_nobody_waits_any_more(world: Worlds) -> None:
    """The write is carried out, but its answer takes longer than the operator waits for it."""
    here = await world(client_timeout=1)
    met: set[str] = set()

    async def delay(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if call.write and call.path not in met:
            met.add(call.path)
            await asyncio.sleep(3)
        return answer

    here.channel.intercept = delay
    await whole_life(here.user)
    one_job_each(here.channel)


async def test_watches_that_are_cut_again_and_again(world: Worlds) -> None:
    here = await world()

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.3)
            here.channel.cut_watches()

    cutting = asyncio.create_task(cut())
    began = time.monotonic()
    await whole_life(here.user)
    took = time.monotonic() - began
    cutting.cancel()
    one_job_each(here.channel)
    watches = [call for call in here.channel.calls if call.watch]
    assert len(watches) <= 2 * (8 + took / 4)  # ever longer waits between them, on either stream


async def test_a_storm_of_410(world: Worlds) -> None:
    """Every version to go on from is too old: the lists that follow wait ever longer."""
    here = await world()
    over = time.monotonic() + 2 * STORM

    async def expire(call: Call, forward: Forward) -> web.StreamResponse:
        if not call.watch or time.monotonic() > over:
            return await forward()
        gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
        return web.Response(text=json.dumps(gone) + "\n")

    here.channel.intercept = expire
    here.channel.cut_watches()
    await asyncio.sleep(2 * STORM)
    assert 2 <= len([call for call in here.channel.calls if call.watch]) <= 24
    await whole_life(here.user)
    one_job_each(here.channel)


async def test_silence(world: Worlds) -> None:
    """Connections stay open and nobody answers; a partition, or an API server that hangs."""
    here = await world(client_timeout=1, watch_silence=2)
    await here.user.until("watches", lambda: _watching(here))
    await here.user.create(sample(NAMES[0]))
    await here.user.runs(f"{NAMES[0]}-1")
    await here.user.phase(NAMES[0], "Running")
    here.channel.silence()

    async def hang(_: Call, __: Forward) -> web.StreamResponse:
        return await never()

    here.channel.intercept = hang
    before = len(here.channel.calls)
    await here.user.ends(f"{NAMES[0]}-1", message=DONE)
    for name in NAMES[1:]:
        await here.user.create(sample(name))
    await asyncio.sleep(2 * STORM)
    assert here.operator.alive
    assert len(here.channel.calls) - before <= 40
    here.channel.intercept = let_through
    await here.user.phase(NAMES[0], "Succeeded")
    await asyncio.gather(*(ends_well(here.user, name) for name in NAMES[1:]))
    one_job_each(here.channel)


async def test_stale_lists_after_a_restart(world: Worlds) -> None:
    """A fresh operator is shown the world of some time ago: it neither creates again nor goes back."""
    recorded: dict[str, bytes] = {}

    async def remember(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if call.verb == "GET" and not call.watch and isinstance(answer, web.Response):
            recorded.setdefault(call.path, bytes(answer.body or b""))  # type: ignore[arg-type]
        return answer

    fresh = await world()
    fresh.channel.intercept = remember
    fresh.operator.kill()
    fresh.operator.start()
    for name in NAMES:
        await fresh.user.create(sample(name))
    await each(lambda name: fresh.user.runs(f"{name}-1"))
    fresh.operator.kill()
    # From now on its first lists are those from before anything was created.
    old = dict(recorded)

    async def replay(call: Call, forward: Forward) -> web.StreamResponse:
        if call.verb == "GET" and not call.watch and (body := old.pop(call.path, None)) is not None:
            return web.Response(body=body, content_type="application/json")
        return await forward()

    fresh.channel.intercept = replay
    fresh.operator.start()

    async def comes_to_its_end(name: str) -> None:
        await fresh.user.phase(name, "Running")
        await fresh.user.ends(f"{name}-1", message=DONE)
        await fresh.user.phase(name, "Succeeded")

    await each(comes_to_its_end)
    one_job_each(fresh.channel)
    assert len(recorded) == 2
    assert old == {}


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_the_api_server_restarts(world: Worlds, plane: ControlPlane, how: str) -> None:
    here = await world()
    await here.user.until("watches", lambda: _watching(here))
    for name in NAMES:
        await here.user.create(sample(name))
    await each(lambda name: here.user.runs(f"{name}-1"))
    if how == "kill":
        plane.kill_apiserver()
        await asyncio.sleep(2)
        await asyncio.to_thread(plane.start_apiserver)
    else:
        await asyncio.to_thread(plane.restart_apiserver)

    async def comes_to_its_end(name: str) -> None:
        await here.user.phase(name, "Running")
        await here.user.ends(f"{name}-1", message=DONE)
        await here.user.phase(name, "Succeeded")

    await each(comes_to_its_end)
    one_job_each(here.channel)
    await settled(here.channel)
