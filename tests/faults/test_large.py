"""FineTunes of 1.2 MB: eighteen of them once ended the operator at its limit of 1 GiB, and again after each restart."""

from __future__ import annotations

from typing import Any

import orjson

from tests.api.finetunes import changed
from tests.faults.conftest import World, Worlds
from tests.faults.user import User, sample

Object = dict[str, Any]

SIZE = 1_200_000
FEW = 9
MOST = 150 << 20
"""Bytes by which all of them may raise the operator's memory for good and at the worst moment."""


def _large(name: str, number: int) -> Object:
    """Of three kinds: all that the CRD's bounds leave to a spec; what they cut off; labels and annotations."""
    made = sample(name, suspend=True)
    if number % 3 == 0:
        variables = [{"name": f"V{each}", "value": "x" * 4096} for each in range(64)]
        return changed(made, "spec.backend.job.env", variables)
    if number % 3 == 1:
        return changed(made, "spec.backend.job.advanced", {"x": [{}] * (SIZE // 3)})
    made["metadata"]["labels"] = {f"k{each}": "" for each in range(SIZE // 40)}
    made["metadata"]["annotations"] = {"theirs": "x" * 200_000}
    return made


async def _create(user: User) -> None:
    for number in range(FEW):
        manifest = changed(_large(f"large-{number}", number), "metadata.namespace", user.namespace)
        await user.call("POST", user.path("finetunes"), orjson.dumps(manifest))


async def _served(here: World, name: str) -> None:
    await _runs(here, name)
    for number in range(FEW):
        if number % 3 != 2:  # whose labels are too many to be read: the log names it
            await here.user.phase(f"large-{number}", "Suspended")


async def _runs(here: World, name: str) -> None:
    await here.user.create(sample(name))
    await here.user.job(f"{name}-1")
    await here.user.runs(f"{name}-1")
    await here.user.phase(name, "Running")


async def test_large_ones_that_are_made_while_the_operator_watches_and_before(world: Worlds) -> None:
    here = await world()
    await _runs(here, "first")
    before = here.operator.memory()
    await _create(here.user)
    await _served(here, "beside")
    assert here.operator.memory() - before < MOST
    here.operator.kill()
    here.operator.start()
    await _served(here, "after")
    assert here.operator.memory() - before < MOST
