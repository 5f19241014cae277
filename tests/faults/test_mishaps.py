"""What people do to a run: deleting, recreating, wiping, stripping, taking names. It converges to the truth."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.faults.conftest import World, Worlds
from tests.faults.gateway import Call, Forward
from tests.faults.test_crashes import finish, jobs_made, settled
from tests.faults.user import DONE, User, sample

Object = dict[str, Any]


async def start(user: User, **spec: Any) -> Object:
    """A FineTune whose pod runs."""
    await user.create(sample(**spec))
    await user.runs("sample-1")
    return await user.phase("sample", "Running")


async def goes_on(user: User) -> None:
    """The run comes to its end as if nothing had happened."""
    await user.ends("sample-1", message=DONE)
    await user.phase("sample", "Succeeded")


async def condition(user: User, kind: str, reason: str) -> Object:
    """The FineTune, once it has that condition with that reason."""

    async def look() -> Object | None:
        found = await user.find("finetunes", "sample") or {}
        held = {each["type"]: each["reason"] for each in found.get("status", {}).get("conditions", ())}
        return found if held.get(kind) == reason else None

    found: Object = await user.until(f"{kind}={reason}", look)
    return found


async def owned(user: User, uid: str) -> Object:
    """The Job, once it belongs to the FineTune of this uid."""

    async def look() -> Object | None:
        job = await user.find("jobs", "sample-1")
        return job if job is not None and job["metadata"]["ownerReferences"][0]["uid"] == uid else None

    found: Object = await user.until(f"Job of {uid}", look)
    return found


async def nothing_left(user: User) -> None:
    for resource in ("finetunes", "jobs", "pods", "persistentvolumeclaims"):

        async def none(resource: str = resource) -> bool:
            return not await user.list(resource)

        await user.until(f"no {resource}", none)


async def test_deleted_and_recreated_at_once(world: Worlds) -> None:
    here = await world()
    user = here.user
    old = await start(user)
    await user.delete("finetunes", "sample")
    new = await user.create(sample())
    job = await owned(user, new["metadata"]["uid"])
    assert job["metadata"]["ownerReferences"][0]["uid"] != old["metadata"]["uid"]
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    assert [item["metadata"]["uid"] for item in await user.list("jobs")] == [job["metadata"]["uid"]]
    assert jobs_made(here.channel) == {"sample-1": 2}
    await goes_on(user)


async def test_deleted_while_its_job_is_being_created(world: Worlds) -> None:
    here = await world()

    async def delete_meanwhile(call: Call, forward: Forward) -> web.StreamResponse:
        if str(call) == "POST jobs" and jobs_made(here.channel) == {}:
            await here.user.delete("finetunes", "sample")
            await here.user.gone("finetunes", "sample")
        return await forward()

    here.channel.intercept = delete_meanwhile
    await here.user.create(sample())
    await here.user.until("Job", lambda: _made(here))
    await nothing_left(here.user)
    await settled(here.channel, 2)
    await nothing_left(here.user)
    assert jobs_made(here.channel) == {"sample-1": 1}


async def test_deleted_and_recreated_while_its_job_is_being_created(world: Worlds) -> None:
    here = await world()
    successor: list[Object] = []

    async def replace_meanwhile(call: Call, forward: Forward) -> web.StreamResponse:
        if str(call) == "POST jobs" and not successor:
            await here.user.delete("finetunes", "sample")
            successor.append(await here.user.create(sample()))
        return await forward()

    here.channel.intercept = replace_meanwhile
    await here.user.create(sample())
    await here.user.until("successor", lambda: _some(successor))
    await owned(here.user, successor[0]["metadata"]["uid"])
    await here.user.runs("sample-1")
    await goes_on(here.user)
    assert len(await here.user.list("jobs")) == 1


async def _made(here: World) -> bool:
    return bool(jobs_made(here.channel))


async def _some(items: list[Object]) -> bool:
    return bool(items)


async def test_status_wiped_during_the_run_and_after_it(world: Worlds) -> None:
    here = await world()
    user = here.user
    before = await start(user)
    await wipe(user)
    again = await user.phase("sample", "Running")
    assert timeless(again) == timeless(before)
    await goes_on(user)
    done = await user.phase("sample", "Succeeded")
    await wipe(user)
    assert timeless(await user.phase("sample", "Succeeded")) == timeless(done)
    assert jobs_made(here.channel) == {"sample-1": 1}


async def wipe(user: User) -> None:
    operation = {"op": "replace", "path": "/status", "value": {}}
    await user.call("PATCH", user.path("finetunes", "sample/status"), [operation], "application/json-patch+json")


def timeless(finetune: Object) -> Object:
    status = json.loads(json.dumps(finetune["status"]))
    for each in status["conditions"]:
        del each["lastTransitionTime"]
    return dict(status)


async def test_labels_and_annotations_stripped(world: Worlds) -> None:
    here = await world()
    user = here.user
    before = await start(user)
    made = await user.job("sample-1")
    ours = dict.fromkeys(made["metadata"]["labels"])
    # Without any label the API server would put the pod template's on it.
    await user.merge("jobs", "sample-1", {"metadata": {"labels": {**ours, "team": "ocr"}, "annotations": None}})
    await user.merge("finetunes", "sample", {"metadata": {"labels": None, "annotations": None}})

    async def back() -> bool:
        labels = (await user.job("sample-1"))["metadata"]["labels"]
        return bool(labels == {**made["metadata"]["labels"], "team": "ocr"})

    await user.until("labels", back)
    assert timeless(await user.phase("sample", "Running")) == timeless(before)
    await goes_on(user)
    assert jobs_made(here.channel) == {"sample-1": 1}


async def test_marker_of_a_suspension_stripped(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    await user.edit("sample", suspend=True)
    await user.phase("sample", "Suspended")
    await user.merge("jobs", "sample-1", {"metadata": {"annotations": None}})

    async def marked() -> bool:
        annotations = (await user.job("sample-1"))["metadata"].get("annotations") or {}
        return "finetune.dev/suspended-by-spec" in annotations

    await user.until("marker", marked)
    await user.edit("sample", suspend=False)
    await user.runs("sample-1")
    await goes_on(user)


async def test_job_deleted_by_hand_after_completion(world: Worlds) -> None:
    here = await world()
    await finish(here.user)
    await here.user.delete("jobs", "sample-1")
    await here.user.gone("jobs", "sample-1")
    await here.user.edit("sample", ttlSecondsAfterFinished=5)  # and looked at again, for another reason
    await settled(here.channel, 2)
    assert await here.user.list("jobs") == []
    await here.user.phase("sample", "Succeeded")
    assert jobs_made(here.channel) == {"sample-1": 1}


async def test_job_deleted_by_hand_during_the_run(world: Worlds) -> None:
    """It comes back under the same name, and so resumes from the same folder; but not before its pod has ended."""
    here = await world()
    user = here.user
    await start(user)
    pod = await user.pod("sample-1")
    held = {"metadata": {"finalizers": ["example.com/held"]}}  # as a kubelet holds a pod for its grace period
    await user.merge("pods", pod["metadata"]["name"], held)
    await user.delete("jobs", "sample-1")
    await user.gone("jobs", "sample-1")
    await condition(user, "Reconciling", "Progressing")
    await settled(here.channel, 3)
    assert await user.list("jobs") == []
    await user.merge("pods", pod["metadata"]["name"], {"metadata": {"finalizers": None}})
    await user.job("sample-1")
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await goes_on(user)
    assert jobs_made(here.channel) == {"sample-1": 2}


def taken(kind: str) -> tuple[str, Object]:
    """Somebody else's object of the name that the run needs."""
    metadata = {"name": "sample-1", "labels": {"team": "another"}}
    if kind == "PersistentVolumeClaim":
        spec: Object = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        return "persistentvolumeclaims", {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    spec = {"suspend": True, "template": {"spec": pod}}
    return "jobs", {"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": spec}


async def test_name_taken_by_a_stranger(world: Worlds) -> None:
    for kind in ("Job", "PersistentVolumeClaim"):
        here = await world()
        user = here.user
        resource, body = taken(kind)
        await user.create(body, resource)
        before = await user.find(resource, "sample-1")
        await user.create(sample())
        stalled = await condition(user, "Stalled", "NameConflict")
        assert f"{kind} sample-1" in stalled["status"]["message"]
        for switch in ({"suspend": True}, {"suspend": False}, {"cancel": False, "activeDeadlineSeconds": 60}):
            await user.edit("sample", **switch)
        await settled(here.channel, 2)
        after = await user.find(resource, "sample-1")
        assert before is not None
        assert after is not None
        for part in ("labels", "annotations", "ownerReferences", "uid", "generation"):
            assert after["metadata"].get(part) == before["metadata"].get(part)
        assert after["spec"] == before["spec"]
        await user.delete(resource, "sample-1")
        await user.runs("sample-1")
        await user.phase("sample", "Running")
        await goes_on(user)


async def test_what_is_named_and_missing(world: Worlds) -> None:
    here = await world()
    user = here.user
    manifest = sample()
    manifest["spec"]["dataset"]["secretRef"] = {"name": "reader"}
    manifest["spec"]["backend"]["job"]["cache"] = {"claimName": "models"}
    await user.create(manifest)
    missing = await condition(user, "Accepted", "SecretNotFound")
    assert "Secret reader" in missing["status"]["message"]
    await settled(here.channel, 2)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"}}
    await user.create(secret, "secrets")
    missing = await condition(user, "Accepted", "ClaimNotFound")
    assert "PersistentVolumeClaim models" in missing["status"]["message"]
    _, claim = taken("PersistentVolumeClaim")
    claim["metadata"]["name"] = "models"
    await user.create(claim, "persistentvolumeclaims")
    await user.runs("sample-1")
    await condition(user, "Accepted", "Valid")
    await goes_on(user)


async def test_quota_refused_and_raised(world: Worlds) -> None:
    here = await world()
    user = here.user
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
    await user.create({**quota, "spec": {"hard": {"count/jobs.batch": "0"}}}, "resourcequotas")

    async def enforced() -> bool:
        found = await user.find("resourcequotas", "few") or {}
        return bool(found.get("status", {}).get("hard"))

    await user.until("quota", enforced)
    await user.create(sample())
    refused = await condition(user, "Running", "QuotaExceeded")
    assert "exceeded quota: few" in refused["status"]["message"]
    assert refused["status"]["phase"] == "Pending"

    async def announced() -> bool:
        return any(event["reason"] == "QuotaExceeded" for event in await user.list("events"))

    await user.until("Event", announced)
    assert len(await user.list("events")) < 10
    await user.merge("resourcequotas", "few", {"spec": {"hard": {"count/jobs.batch": "9"}}})
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await goes_on(user)


async def test_pods_refused_by_a_quota(world: Worlds) -> None:
    """The Job is there, but its pod is not: only Events say why."""
    here = await world(pending_status_delay=0.5)
    user = here.user
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
    await user.create({**quota, "spec": {"hard": {"pods": "0"}}}, "resourcequotas")

    async def enforced() -> bool:
        found = await user.find("resourcequotas", "few") or {}
        return bool(found.get("status", {}).get("hard"))

    await user.until("quota", enforced)
    await user.create(sample())
    refused = await condition(user, "Running", "QuotaExceeded")
    assert "exceeded quota: few" in refused["status"]["message"]


async def test_run_raised_again_and_again(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    for run in range(2, 9):
        await user.edit("sample", run=run)
        await user.job(f"sample-{run}")

        async def recorded(run: int = run) -> bool:
            found = await user.find("finetunes", "sample") or {}
            return bool(found["status"].get("run") == run)

        await user.until(f"run {run}", recorded)
    await user.runs("sample-8")
    status = (await user.phase("sample", "Running", run=8))["status"]
    assert [record["run"] for record in status["history"]] == [7, 6, 5, 4, 3]
    for run in range(1, 8):
        await user.gone("jobs", f"sample-{run}")
    assert jobs_made(here.channel) == {f"sample-{run}": 1 for run in range(1, 9)}


async def test_runs_raised_faster_than_anyone_looks(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    for run in range(2, 9):
        await user.edit("sample", run=run)
    await user.runs("sample-8")
    await user.phase("sample", "Running", run=8)

    async def one_job() -> bool:
        return [job["metadata"]["name"] for job in await user.list("jobs")] == ["sample-8"]

    await user.until("one Job", one_job)
    assert max(jobs_made(here.channel).values()) == 1


async def test_switches_flipped_faster_than_anyone_looks(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    for _ in range(5):
        await user.edit("sample", suspend=True)
        await user.edit("sample", suspend=False)
    await settled(here.channel)
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    job = await user.job("sample-1")
    assert not job["spec"].get("suspend")
    assert "finetune.dev/suspended-by-spec" not in job["metadata"]["annotations"]
    await goes_on(user)


async def test_what_a_queue_suspends_stays_suspended(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    await user.merge("jobs", "sample-1", {"spec": {"suspend": True}})
    await user.phase("sample", "Queued")
    await settled(here.channel, 2)
    assert (await user.job("sample-1"))["spec"]["suspend"] is True


async def test_a_deletion_that_nobody_saw_leaves_no_ghost(world: Worlds) -> None:
    """The watch is cut, the FineTune is deleted, and the version to go on from is too old: 410."""
    here = await world()
    user = here.user
    await start(user)
    blind = asyncio.Event()
    relisted = asyncio.Event()

    async def hide(call: Call, forward: Forward) -> web.StreamResponse:
        if not call.watch or "finetunes" not in call.path or relisted.is_set():
            return await forward()
        await blind.wait()
        relisted.set()
        expired = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
        return web.Response(text=json.dumps(expired) + "\n")

    here.channel.intercept = hide
    assert here.channel.cut_watches() == 2
    await user.delete("finetunes", "sample")
    await user.gone("finetunes", "sample")
    await asyncio.sleep(1)
    blind.set()
    await user.until("relist", lambda: _is_set(relisted))
    await asyncio.sleep(2)
    made = len(here.channel.writes())
    await nothing_left(user)
    await settled(here.channel, 3)
    assert len(here.channel.writes()) == made
    await nothing_left(user)


async def _is_set(event: asyncio.Event) -> bool:
    return event.is_set()
