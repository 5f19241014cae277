"""A FineTune that is deleted while no operator runs: its run is stopped however late the next one comes; where it
cannot be, that is said with everything that a person needs, also where nobody takes an Event any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.kube import resources
from tests.cluster.control_plane import ControlPlane
from tests.upstream.life import CASES, Life, life

Object = dict[str, Any]
PROVIDERS = ("oxen", "scenario", "bfl", "octoai")
TITLES = {"oxen": "Oxen", "scenario": "Scenario", "bfl": "Black Forest Labs", "octoai": "OctoAI"}
STOPS = ("cancel", "stop", "delete")
"""What the fakes call the routes that stop a run, or remove what cannot be stopped."""
SHORT = timedelta(seconds=1)
BOUND = "--cancel-bound=1s"


@asynccontextmanager
async def deleted_while_down(api: ControlPlane, name: str) -> AsyncIterator[tuple[Life, Object]]:
    """A life whose operator was killed while the run went on, and whose FineTune was deleted for longer than the bound;
    with the record of the run."""
    async with life(CASES[name], api.kubeconfig) as run:
        run.fake.options.outcome = "stay"
        run.start(BOUND)
        await run.apply()
        running = await run.until(lambda body: (body.get("status") or {}).get("phase") == "Running")
        await run.bury()
        await run.delete()
        yield run, running["status"]["upstream"]


async def pass_the_bound(run: Life) -> None:
    """Until the deletion is older than the bound."""
    body = await run.get()
    assert body is not None
    deleted = datetime.fromisoformat(body["metadata"]["deletionTimestamp"])
    await asyncio.sleep((deleted + SHORT - datetime.now(UTC)).total_seconds() + 0.1)


def stops(run: Life) -> int:
    return sum(map(run.fake.count, STOPS))


async def warnings(run: Life) -> list[str]:
    """What the Events of the FineTune say of a run that could not be stopped."""
    events = await run.client.list(resources.core(run.namespace, "events"))
    return [each["message"] for each in events["items"] if each["reason"] == "CancelFailed"]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_the_next_operator_stops_the_run(api: ControlPlane, name: str) -> None:
    async with deleted_while_down(api, name) as (run, _):
        await pass_the_bound(run)
        await run.replace(BOUND)
        await run.until_gone()
        assert stops(run) > 0
        assert await warnings(run) == []


@pytest.mark.parametrize("trouble", [{"kind": "status", "status": 503}, {"kind": "hang"}], ids=["refuses", "hangs"])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_provider_that_does_not_stop_it_is_named_with_the_run(
    api: ControlPlane, caplog: pytest.LogCaptureFixture, name: str, trouble: dict[str, Any]
) -> None:
    async with deleted_while_down(api, name) as (run, record):
        run.fake.fault(**trouble, times=10_000)
        await pass_the_bound(run)
        await run.replace("--cancel-bound=3s")  # room for a second attempt after one that hangs
        await run.until_gone()
        assert stops(run) > 1
        [event] = await warnings(run)
        [logged] = [each.message for each in caplog.records if "CancelFailed" in each.message]
        for said in (event, logged):
            for named in (TITLES[name], record["id"], record["url"]):
                assert named in said
        assert f"{run.namespace}/{run.name}" in logged
        written = run.clockwork.writes
        told = next(number for number, write in enumerate(written) if write.endswith("/events"))
        let_go = next(number for number, write in enumerate(written) if write.endswith(f"/finetunes/{run.name}"))
        assert told < let_go, "a crash between the two would leave it untold"


async def test_in_a_namespace_that_is_being_deleted_the_log_says_it(
    api: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    """There the Secret goes as well, at a time of its own, and no Event is taken."""
    async with deleted_while_down(api, "oxen") as (run, record):
        await run.client.delete(resources.core(run.namespace, "secrets", "credentials"))
        await run.client.delete(f"/api/v1/namespaces/{run.namespace}")
        await pass_the_bound(run)
        await run.replace(BOUND)
        await run.until_gone()
        assert await warnings(run) == []
        [logged] = [
            each.message for each in caplog.records if each.message.startswith(f"{run.namespace}/{run.name}: C")
        ]
        for named in ("CancelFailed", "Oxen", record["id"], record["url"], "there is no Secret credentials"):
            assert named in logged


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_run_whose_secret_goes_first_is_stopped_all_the_same(api: ControlPlane, name: str) -> None:
    """With the credentials that the operator has read last."""
    async with life(CASES[name], api.kubeconfig) as run:
        run.fake.options.outcome = "stay"
        run.start("--cancel-bound=30s")
        await run.apply()
        await run.until(lambda body: (body.get("status") or {}).get("phase") == "Running")
        await run.client.delete(resources.core(run.namespace, "secrets", "credentials"))
        await run.until(lambda body: body["status"]["reason"] == "SecretNotFound")
        await run.delete()
        await run.client.delete(f"/api/v1/namespaces/{run.namespace}")
        await run.until_gone()
        assert stops(run) > 0
        assert await warnings(run) == []


async def test_a_secret_that_comes_back_in_time_stops_it(api: ControlPlane) -> None:
    async with deleted_while_down(api, "oxen") as (run, _):
        await run.client.delete(resources.core(run.namespace, "secrets", "credentials"))
        await pass_the_bound(run)
        await run.replace("--cancel-bound=1h")
        await run.until(lambda body: "there is no Secret" in body["status"]["upstream"].get("message", ""))
        await run.secret("credentials", run.case.secret)
        await run.until_gone()
        assert stops(run) > 0
