"""FineTunes that are nested too deeply, or cannot be read: each costs itself, and no other waits for it.

The API server takes 10,000 levels where a schema leaves the inside of a field free: in the parameters that a status
records. orjson reads 1,024 and writes 254.
"""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from tests.api.finetunes import nested, nested_status
from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Forward
from tests.faults.test_crashes import jobs_made, settled
from tests.faults.user import DONE, Refused, User, sample

Object = dict[str, Any]

DEEP = {
    "deep-101": (101, False),
    "deep-300": (300, False),
    "deep-1005": (1005, False),
    "deep-1100": (1100, False),
    "deep-9000": (9000, False),
    "deep-objects": (1100, True),
}
"""By name: how many levels, and whether of objects instead of lists."""
MERGE = "application/merge-patch+json"


async def create(user: User, name: str, levels: int, objects: bool = False, **spec: Any) -> None:
    await user.create(sample(name, **spec))
    await user.call("PATCH", user.path("finetunes", f"{name}/status"), nested_status(levels, objects=objects), MERGE)


async def served(user: User, name: str) -> None:
    await user.job(f"{name}-1")
    await user.runs(f"{name}-1")
    await user.phase(name, "Running")


def watches(here: World) -> int:
    """How often FineTunes have been watched: a watch that ends is begun anew."""
    return sum(call.watch and call.path.endswith("/finetunes") for call in here.channel.calls)


async def test_deep_ones_that_are_there_before_the_operator(world: Worlds) -> None:
    here = await world()
    here.operator.kill()
    for name, shape in DEEP.items():
        await create(here.user, name, *shape)
    await here.user.create(sample("honest"))
    here.operator.start()
    for name in ("honest", *DEEP):
        await served(here.user, name)
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {f"{name}-1": 1 for name in ("honest", *DEEP)}


async def test_deep_ones_that_are_made_while_the_operator_watches(world: Worlds) -> None:
    here = await world()
    await here.user.create(sample("earlier"))
    await served(here.user, "earlier")
    before = watches(here)
    for name, shape in DEEP.items():
        await create(here.user, name, *shape)
    await here.user.create(sample("later"))
    for name in ("later", *DEEP):
        await served(here.user, name)
    await settled(here.channel, 2)
    assert watches(here) == before
    assert jobs_made(here.channel) == {f"{name}-1": 1 for name in ("earlier", "later", *DEEP)}


async def test_deep_ones_among_hundreds_in_a_page(world: Worlds) -> None:
    here = await world()
    here.operator.kill()
    names = [f"held-{number}" for number in range(501)]
    for name in names:
        await here.user.create(sample(name, suspend=True))
    deep = ["held-250-deep", "z-deep"]
    for name in deep:
        await create(here.user, name, 1100, suspend=True)
    here.operator.start()

    async def all_held() -> bool:
        found = await here.user.list("finetunes")
        return sum(1 for each in found if each.get("status", {}).get("phase") == "Suspended") == len(names + deep)

    await here.user.until("all held", all_held)


async def test_one_cannot_become_deep_within_a_run(world: Worlds) -> None:
    here = await world()
    await here.user.create(sample("sample"))
    await served(here.user, "sample")
    with pytest.raises(Refused, match=r"spec\.backend cannot be changed within a run"):
        await here.user.call("PATCH", here.user.path("finetunes", "sample"), nested({"spec": {}}, 1100), MERGE)


@pytest.mark.parametrize("levels", [300, 1100])
async def test_deep_parameters_in_a_status_are_replaced_by_the_run_s_own(world: Worlds, levels: int) -> None:
    here = await world()
    user = here.user
    await user.create(sample("sample"))
    await served(user, "sample")
    before = (await user.phase("sample", "Running"))["status"]["parameters"]
    deep = b"[" * levels + b"]" * levels
    text = b'{"status":{"parameters":{"x":%s},"history":[{"run":7,"parameters":{"x":%s}}]}}' % (deep, deep)
    await user.call("PATCH", user.path("finetunes", "sample/status"), text, MERGE)

    async def replaced() -> bool:
        status = (await user.phase("sample", "Running"))["status"]
        return bool(status["parameters"] == before and status["history"] == [{"run": 7}])

    await user.until("parameters", replaced)
    await user.create(sample("other"))
    await served(user, "other")
    await user.ends("sample-1", message=DONE)
    await user.phase("sample", "Succeeded")


async def test_what_no_api_server_makes_is_left_out_of_a_list_by_name(world: Worlds) -> None:
    here = await world(sweep_period=5)
    bad = [b"null", b"{}", b'{"metadata":{"name":"bad","namespace":"team","labels":{"a":"\\ud800"}}}']

    async def add(call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        if call.path.endswith("/finetunes") and isinstance(answer, web.Response) and isinstance(answer.body, bytes):
            answer.body = answer.body.replace(b'"items":[', b'"items":[' + b",".join(bad) + b",").replace(b",]", b"]")
        return answer

    await here.user.create(sample("earlier"))
    await served(here.user, "earlier")
    here.operator.kill()
    here.channel.intercept = add
    await here.user.create(sample("later"))
    here.operator.start()
    await served(here.user, "later")
    lists = sum(call.path.endswith("/finetunes") and not call.watch for call in here.channel.calls)

    async def listed_again() -> bool:
        now = sum(call.path.endswith("/finetunes") and not call.watch for call in here.channel.calls)
        return now > lists

    await here.user.until("another list", listed_again)
    assert "watch of finetunes: team/bad is left out, it cannot be read: no low surrogate" in here.log()
    assert (
        "watch of finetunes: an object without a name is left out, it cannot be read: it is not an object" in here.log()
    )
    assert "ended" not in here.log()
    await here.user.ends("earlier-1", message=DONE)
    await here.user.phase("earlier", "Succeeded")
    assert jobs_made(here.channel) == {"earlier-1": 1, "later-1": 1}
