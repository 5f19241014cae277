"""`spec.run` raised at the worst moments: one run at a time, and nothing is forgotten."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Forward
from tests.faults.oracle import Turns
from tests.faults.test_crashes import finish, jobs_made, settled
from tests.faults.test_mishaps import start
from tests.faults.user import DONE, User, sample

Object = dict[str, Any]

UNTOLD = {"pending_status_delay": 60}
"""A run whose pod does not start comes to no status."""


async def hold(user: User, job: str) -> str:
    """The name of the Job's pod, which does not go, as a kubelet holds a pod for its grace period."""
    name = str((await user.pod(job))["metadata"]["name"])
    await user.merge("pods", name, {"metadata": {"finalizers": ["example.com/held"]}})
    return name


async def release(user: User, pod: str) -> None:
    await user.merge("pods", pod, {"metadata": {"finalizers": None}})


async def says(user: User, words: str) -> Object:
    """The status, once its message has these words."""

    async def look() -> Object | None:
        status = (await user.find("finetunes", "sample") or {}).get("status", {})
        return status if words in status.get("message", "") else None

    found: Object = await user.until(words, look)
    return found


async def jobs(user: User) -> dict[str, bool]:
    """Each Job, and whether it is being deleted."""
    return {job["metadata"]["name"]: "deletionTimestamp" in job["metadata"] for job in await user.list("jobs")}


async def history(user: User) -> list[tuple[int, str]]:
    """Of each earlier run: its number, and how it ended."""
    status = (await user.find("finetunes", "sample") or {})["status"]
    return [(record["run"], record["phase"]) for record in status.get("history", ())]


async def comes_to_its_end(here: World, run: int) -> None:
    """The wanted run is the only one, and trains as if there had been no other."""
    await here.user.runs(f"sample-{run}")
    await here.user.phase("sample", "Running", run)
    await here.user.ends(f"sample-{run}", message=DONE)
    await here.user.phase("sample", "Succeeded", run)
    await settled(here.channel)
    assert max(jobs_made(here.channel).values()) == 1


async def test_raised_between_the_job_and_its_first_status(world: Worlds) -> None:
    here = await world(**UNTOLD)
    user = here.user
    async with Turns(user) as turns:
        await user.create(sample())
        pod = await hold(user, "sample-1")
        assert "status" not in (await user.find("finetunes", "sample") or {})
        await user.edit("sample", run=2)
        status = await says(user, f"Run 2 starts when run 1 has ended: its pod {pod}")
        assert (status["run"], status["phase"]) == (2, "Pending")
        await settled(here.channel, 3)
        assert await jobs(user) == {"sample-1": True}
        await release(user, pod)
        await comes_to_its_end(here, 2)
    assert not turns.together
    assert list(await jobs(user)) == ["sample-2"]
    assert await history(user) == [(1, "Cancelled")]


async def test_raised_at_once(world: Worlds) -> None:
    """Before anybody has heard of the Job: its pod is on its way too."""
    here = await world(**UNTOLD)
    user = here.user

    async def raise_meanwhile(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if str(call) == "POST jobs" and json.loads(call.body)["metadata"]["name"] == "sample-1":
            await user.edit("sample", run=2)
        return answer

    here.channel.intercept = raise_meanwhile
    async with Turns(user) as turns:
        await user.create(sample())
        await comes_to_its_end(here, 2)
    assert not turns.together
    assert list(await jobs(user)) == ["sample-2"]
    assert await history(user) == [(1, "Cancelled")]


async def test_raised_twice_with_a_kill_after_each_job(world: Worlds) -> None:
    here = await world(**UNTOLD)
    user = here.user
    killed: list[str] = []

    async def kill_and_raise(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if str(call) != "POST jobs" or len(killed) == 2:
            return answer
        killed.append(json.loads(call.body)["metadata"]["name"])
        await user.edit("sample", run=1 + len(killed))
        here.operator.kill()
        here.operator.start()
        return call.cut()

    here.channel.intercept = kill_and_raise
    async with Turns(user) as turns:
        await user.create(sample())
        await comes_to_its_end(here, 3)
    assert killed == ["sample-1", "sample-2"]
    assert not turns.together
    assert list(await jobs(user)) == ["sample-3"]
    assert await history(user) == [(2, "Cancelled"), (1, "Cancelled")]


async def killed_with_a_job(here: World) -> None:
    """Run 1 has a Job and a pod, and nobody serves the FineTune any more."""
    await here.user.create(sample())
    await here.user.pod("sample-1")
    here.operator.kill()
    assert "status" not in (await here.user.find("finetunes", "sample") or {})


async def test_raised_twice_while_the_operator_is_down(world: Worlds) -> None:
    here = await world(**UNTOLD)
    user = here.user
    async with Turns(user) as turns:
        await killed_with_a_job(here)
        await user.runs("sample-1")
        await user.edit("sample", run=2)
        await user.edit("sample", run=3)
        here.operator.start()
        await comes_to_its_end(here, 3)
    assert not turns.together
    assert list(await jobs(user)) == ["sample-3"]
    assert await history(user) == [(1, "Cancelled")]


async def test_a_run_that_ended_while_the_operator_was_down_is_on_record(world: Worlds) -> None:
    here = await world(**UNTOLD)
    user = here.user
    await killed_with_a_job(here)
    await user.runs("sample-1")
    await user.ends("sample-1", message=DONE)

    async def ended() -> bool:
        conditions = (await user.job("sample-1"))["status"].get("conditions", ())
        return any(each["type"] == "Complete" for each in conditions)

    await user.until("Job complete", ended)
    await user.edit("sample", run=2, ttlSecondsAfterFinished=3600)
    here.operator.start()
    await comes_to_its_end(here, 2)
    (record,) = (await user.phase("sample", "Succeeded", 2))["status"]["history"]
    assert (record["run"], record["phase"], record["message"]) == (1, "Succeeded", "trained")
    assert [artifact["name"] for artifact in record["artifacts"]] == ["adapter"]
    assert (await user.job("sample-1"))["spec"]["ttlSecondsAfterFinished"] == 3600


async def test_a_job_that_comes_after_the_end_of_a_later_run_is_ended(world: Worlds) -> None:
    """Its creation was on its way for long; nobody has heard of it, and the wanted run is over."""
    here = await world(client_timeout=1)
    user = here.user
    late: list[Object] = []

    async def lose_the_first(call: Call, forward: Forward) -> web.StreamResponse:
        if str(call) != "POST jobs" or late:
            return await forward()
        late.append(json.loads(call.body))
        await user.edit("sample", run=2)
        return call.cut()

    here.channel.intercept = lose_the_first
    await user.create(sample())
    await comes_to_its_end(here, 2)
    assert list(await jobs(user)) == ["sample-2"]
    await user.create(late[0], "jobs")
    await user.gone("jobs", "sample-1")
    await settled(here.channel)
    assert list(await jobs(user)) == ["sample-2"]
    assert (await user.phase("sample", "Succeeded", 2))["status"]["artifacts"]
    assert await history(user) == [(1, "Cancelled")]


async def test_a_later_run_is_not_ended_by_somebody_who_has_not_heard_of_it(world: Worlds) -> None:
    """The watches do not keep step: the Job that another replica has made is seen before the raised run."""
    here = await world()
    user = here.user
    await start(user)
    for call in here.channel.open:
        call.silent = call.watch and call.resource == "finetunes"
    await user.edit("sample", run=2)
    (body,) = (call.body for call in here.channel.writes() if str(call) == "POST jobs")
    text = body.decode().replace("sample-1", "sample-2").replace('"finetune.dev/run":"1"', '"finetune.dev/run":"2"')
    made = await user.create(json.loads(text), "jobs")
    await user.gone("jobs", "sample-1")
    await comes_to_its_end(here, 2)
    assert [job["metadata"]["uid"] for job in await user.list("jobs")] == [made["metadata"]["uid"]]
    assert await history(user) == [(1, "Cancelled")]


async def test_a_pod_that_outlives_a_job_deleted_by_hand_is_waited_for(world: Worlds) -> None:
    here = await world()
    user = here.user
    async with Turns(user) as turns:
        await start(user)
        pod = await hold(user, "sample-1")
        await user.delete("jobs", "sample-1")
        await user.gone("jobs", "sample-1")
        await user.edit("sample", run=2)
        await says(user, f"Run 2 starts when run 1 has ended: its pod {pod}")
        await settled(here.channel, 3)
        assert await jobs(user) == {}
        await release(user, pod)
        await comes_to_its_end(here, 2)
    assert not turns.together


async def test_a_cancelled_run_s_pod_is_waited_for(world: Worlds) -> None:
    here = await world()
    user = here.user
    async with Turns(user) as turns:
        await start(user)
        pod = await hold(user, "sample-1")
        await user.edit("sample", cancel=True)
        await user.phase("sample", "Cancelled")
        await user.edit("sample", cancel=False, run=2)
        await says(user, f"Run 2 starts when run 1 has ended: its pod {pod}")
        await settled(here.channel, 3)
        assert await jobs(user) == {"sample-1": True}
        await release(user, pod)
        await comes_to_its_end(here, 2)
    assert not turns.together


async def test_what_a_raised_run_names_is_looked_for_as_at_first(world: Worlds) -> None:
    here = await world()
    user = here.user
    await finish(user)
    await user.edit("sample", run=2, dataset={"secretRef": {"name": "reader"}})
    await says(user, "there is no Secret reader")
    assert list(await jobs(user)) == ["sample-1"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"}}
    await user.create(secret, "secrets")
    await comes_to_its_end(here, 2)


async def test_the_next_run_is_one_at_a_provider(world: Worlds) -> None:
    here = await world(**UNTOLD)
    user = here.user
    await user.create(sample())
    await user.pod("sample-1")
    at_a_provider = sample(backend="oxen")["spec"]["backend"]
    await user.edit("sample", run=2, backend={"job": None, **at_a_provider})
    await user.gone("jobs", "sample-1")
    await says(user, "there is no Secret oxen")
    assert await history(user) == [(1, "Cancelled")]
