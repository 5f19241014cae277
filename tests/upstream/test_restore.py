"""A FineTune from a backup is another object, with a new uid and no status: suspended first, it pays nothing again."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.api.names import ADOPT_ANNOTATION
from finetune_operator.kube import resources
from tests.cluster.control_plane import ControlPlane
from tests.upstream.life import Life, over
from tests.upstream.test_end_to_end import PROVIDERS, living, phase


async def lost(run: Life) -> None:
    """The cluster goes, and everything in it; what is at the provider stays."""
    await run.bury()
    path = resources.finetune(run.namespace, run.name)
    await run.client.json_patch(path, [{"op": "add", "path": "/metadata/finalizers", "value": []}])
    await run.delete()
    run.store.objects = {key: value for key, value in run.store.objects.items() if not key.startswith("data/out")}
    await run.replace()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_restored_suspended_and_adopted_it_is_paid_once(api: ControlPlane, name: str, finished: bool) -> None:
    async with living(api, name) as run:
        run.fake.options.outcome = "succeed" if finished else "stay"
        await run.apply()
        before = await run.until(over if finished else phase("Running"))
        await lost(run)
        await run.apply(suspend=True)
        body = await run.until(phase("Suspended"))
        assert body["metadata"]["uid"] != before["metadata"]["uid"]
        calls = len(run.fake.calls)
        await asyncio.sleep(1)
        assert len(run.fake.calls) == calls, "nothing is called while it is suspended"
        known = before["status"]["upstream"]["id"]
        await run.change("/metadata/annotations", {ADOPT_ANNOTATION: known})
        await run.change("/spec/suspend", False)
        run.fake.options.outcome = "succeed"
        after = await run.until(over)
        assert (after["status"]["phase"], after["status"]["upstream"]["id"]) == ("Succeeded", known)
        assert [each["uri"] for each in after["status"]["artifacts"]]
        if finished:
            assert after["status"]["artifacts"] == before["status"]["artifacts"]
        assert run.billed == 1


async def test_restored_without_a_word_it_is_another_run(api: ControlPlane) -> None:
    """The promise holds for one uid: what the documentation says must be so."""
    async with living(api, "octoai") as run:
        await run.apply()
        await run.until(over)
        await lost(run)
        await run.apply()
        await run.until(over)
        assert run.billed == 2
