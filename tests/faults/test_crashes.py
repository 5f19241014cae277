"""The crash sweep: the operator is killed before and after every single write, and everything ends as if it had not.

For each story and each of its writes there are two points: the operator is killed by SIGKILL before the write reaches
the API server, or after it has been carried out and before the operator has heard of it; then it is started again.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import json
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.faults.gateway import Call, Channel, Forward, Gateway
from tests.faults.operators import Operator
from tests.faults.user import DONE, Refused, User, end_state, sample

AT_ONCE = 8
"""Points that are played at the same time."""
QUIET = 30.0
"""Seconds without any write, after everything has converged."""

Story = Callable[[User], Awaitable[None]]


async def finish(user: User) -> None:
    """The plain life of a run."""
    await user.create(sample())
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.ends("sample-1", message=DONE)
    await user.phase("sample", "Succeeded")


async def fail(user: User) -> None:
    """Bad data: no second attempt, and an Event."""
    await user.create(sample())
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.ends("sample-1", 3, '{"state":"Failed","reason":"DataValidationFailed","message":"no column q"}')
    await user.phase("sample", "Failed")


async def raise_run(user: User) -> None:
    """Run 2 is wanted, with another rank, while run 1 is at work."""
    await user.create(sample())
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.merge("finetunes", "sample", {"spec": {"run": 2, "recipe": {"imageToText": {"loraRank": 4}}}})
    await user.gone("jobs", "sample-1")
    await user.runs("sample-2")
    await user.phase("sample", "Running", run=2)
    await user.ends("sample-2", message=DONE)
    await user.phase("sample", "Succeeded", run=2)


async def raise_unstarted_run(user: User) -> None:
    """Run 2 is wanted before run 1 has come to a status: only its Job tells of it."""
    await user.create(sample())
    await user.pod("sample-1")

    async def counted() -> bool:
        return bool((await user.job("sample-1")).get("status", {}).get("active"))

    await user.until("pod counted", counted)
    await asyncio.sleep(0.5)  # its Job's last word is to have reached the operator, which tells nobody
    await user.edit("sample", run=2)
    await user.gone("jobs", "sample-1")
    await user.runs("sample-2")
    await user.phase("sample", "Running", run=2)
    await user.ends("sample-2", message=DONE)
    await user.phase("sample", "Succeeded", run=2)


async def raise_finished_run(user: User) -> None:
    """Run 2 after run 1 has succeeded, with a time to live."""
    await finish(user)
    await user.edit("sample", run=2, ttlSecondsAfterFinished=3600)
    await user.runs("sample-2")
    await user.phase("sample", "Running", run=2)
    await user.ends("sample-2", message=DONE)
    await user.phase("sample", "Succeeded", run=2)


async def suspend_and_resume(user: User) -> None:
    """Suspended while it runs, let go on, finished."""
    await user.create(sample())
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.edit("sample", suspend=True)
    await user.phase("sample", "Suspended")
    await user.stopped("sample-1")
    await user.edit("sample", suspend=False)
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.ends("sample-1", message=DONE)
    await user.phase("sample", "Succeeded")


async def cancel(user: User) -> None:
    """Cancelled while it runs."""
    await user.create(sample())
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.edit("sample", cancel=True)
    await user.phase("sample", "Cancelled")
    await user.gone("jobs", "sample-1")


async def change_deadline_and_expire(user: User) -> None:
    """A deadline set in flight; the Job goes a second after the end."""
    await user.create(sample(ttlSecondsAfterFinished=1))
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.edit("sample", activeDeadlineSeconds=5000)

    async def set_on_the_job() -> bool:
        return bool((await user.job("sample-1"))["spec"].get("activeDeadlineSeconds") == 5000)

    await user.until("deadline", set_on_the_job)
    await user.ends("sample-1", message=DONE)
    await user.phase("sample", "Succeeded")
    await user.gone("jobs", "sample-1")


STORIES: tuple[Story, ...] = (
    finish,
    fail,
    raise_run,
    raise_unstarted_run,
    raise_finished_run,
    suspend_and_resume,
    cancel,
    change_deadline_and_expire,
)


@dataclass
class Point:
    """Where the operator is killed; write 0: nowhere, that is the reference."""

    story: Story
    write: int = 0
    when: str = ""
    killed: str = ""
    error: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    channel: Channel = field(default_factory=lambda: Channel(""))

    @property
    def name(self) -> str:
        place = f"{self.when}-{self.write}" if self.write else "reference"
        return f"{self.story.__name__}-{place}".replace("_", "-")

    def __str__(self) -> str:
        return f"{self.name} ({self.killed})"


async def play(point: Point, gateway: Gateway, user: User, folder: Path) -> None:
    """One life with at most one kill; leaves what the API server holds at the end, and every call that was made."""
    point.channel, kubeconfig = gateway.channel(point.name, folder)
    operator = Operator(
        kubeconfig, folder / f"{point.name}.log", namespace=user.namespace, pending_status_delay=60, backoff_cap=1
    )

    async def intercept(call: Call, forward: Forward) -> web.StreamResponse:
        if call.number != point.write or point.killed or not call.write:
            return await forward()
        point.killed = str(call)
        if point.when == "after":
            await forward()
        operator.kill()
        answer = call.cut()
        operator.start()
        return answer

    point.channel.intercept = intercept
    await user.begin()
    with operator:
        await point.story(user)
        await settled(point.channel)
        point.state = await end_state(user)
        assert operator.alive, f"{point}: the operator has ended by itself"


async def settled(channel: Channel, seconds: float = 1.0) -> None:
    """Returns when no write has been sent for a while, apart from the Lease's."""

    def sent() -> int:
        return len([call for call in channel.calls if call.write and "leases" not in call.path])

    while True:
        before = sent()
        await asyncio.sleep(seconds)
        if sent() == before:
            return


def jobs_made(channel: Channel) -> dict[str, int]:
    """How often each Job was created."""
    made = (call for call in channel.writes() if str(call) == "POST jobs")
    names = [json.loads(call.body)["metadata"]["name"] for call in made]
    return dict(collections.Counter(names))


def difference(wanted: Any, found: Any, path: str = "") -> str:
    """Where the two differ, for people."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        parts = [difference(wanted.get(key), found.get(key), f"{path}.{key}") for key in sorted({*wanted, *found})]
        return "\n".join(part for part in parts if part)
    return "" if wanted == found else f"{path}: {found!r} instead of {wanted!r}"


async def test_a_kill_at_any_write_changes_nothing(
    gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path
) -> None:
    began = time.monotonic()
    turns = asyncio.Semaphore(AT_ONCE)
    users: list[User] = []

    async def played(point: Point) -> Point:
        async with turns:
            user = user_of(point.name)
            users.append(user)
            try:
                await play(point, gateway, user, tmp_path)
            except (AssertionError, Refused) as error:
                point.error = str(error)
        return point

    references = await asyncio.gather(*(played(Point(story)) for story in STORIES))
    assert not any(reference.error for reference in references), [reference.error for reference in references]
    points = [
        Point(reference.story, write, when)
        for reference in references
        for write in range(1, len(reference.channel.writes()) + 1)
        for when in ("before", "after")
    ]
    await asyncio.gather(*(played(point) for point in points))

    wrong = []
    for reference in references:
        for point in (each for each in points if each.story is reference.story):
            if point.error:
                wrong.append(f"{point}: {point.error}")
                continue
            if differences := difference(reference.state, point.state):
                wrong.append(f"{point}: ends differently\n{differences}")
            if jobs_made(point.channel) != jobs_made(reference.channel):
                wrong.append(f"{point}: Jobs made: {jobs_made(point.channel)}")
    writes = {reference.story.__name__: [str(call) for call in reference.channel.writes()] for reference in references}
    took = time.monotonic() - began
    # How many intermediate states of a Job become a status depends on timing: a life can have fewer writes.
    killed = sum(bool(point.killed) for point in points)
    print(f"\ncrash sweep: {killed} of {len(points)} points reached in {took:.0f} s, {len(wrong)} failures")
    for story, calls in writes.items():
        print(f"  {story}: {len(calls)} writes: {', '.join(calls)}")
    assert not wrong, "\n".join(wrong)
    assert killed >= 0.9 * len(points)
    assert all(count == 1 for reference in references for count in jobs_made(reference.channel).values())

    await quiet_and_gone(gateway, users, tmp_path)


async def quiet_and_gone(gateway: Gateway, users: list[User], folder: Path) -> None:
    """A new operator over all that is left has nothing to write; and deleting the FineTunes leaves nothing behind."""
    channel, kubeconfig = gateway.channel("everything", folder)
    ours = {user.namespace for user in users}

    def written() -> list[str]:
        return [f"{call} {call.path}" for call in channel.writes() if call.namespace in ours]

    with Operator(kubeconfig, folder / "everything.log") as operator:
        await asyncio.sleep(QUIET)
        assert written() == []
        assert len([call for call in channel.calls if call.watch]) >= 2
        for user in users:
            await user.delete("finetunes", "sample")
        for user in users:
            for resource in ("finetunes", "jobs", "pods", "persistentvolumeclaims"):
                await user.until(f"{resource} gone", functools.partial(_none, user, resource))
        assert written() == []
        operator.signal(signal.SIGTERM)
        assert await operator.ended() == 0
    assert "Traceback" not in operator.log.read_text()


async def _none(user: User, resource: str) -> bool:
    return not await user.list(resource)
