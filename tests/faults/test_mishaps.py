"""What people do to a run: deleting, recreating, wiping, stripping, taking names. It converges to the truth."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from tests.bench.driver import now_stamp
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
    status.pop("runningTime", None)  # when it was first seen to compute
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


async def test_what_others_suspend_stays_suspended_and_is_not_called_kueues(world: Worlds) -> None:
    """There is no Kueue here."""
    here = await world()
    user = here.user
    await start(user)
    await user.merge("jobs", "sample-1", {"spec": {"suspend": True}})
    told = await user.phase("sample", "Suspended")
    assert told["status"]["reason"] == "JobSuspended"
    assert "Kueue is not in this cluster" in told["status"]["message"]
    await settled(here.channel, 2)
    assert (await user.job("sample-1"))["spec"]["suspend"] is True
    await user.merge("jobs", "sample-1", {"spec": {"suspend": False}})
    await user.runs("sample-1")
    again = await user.phase("sample", "Running")
    assert again["status"]["startTime"] == told["status"]["startTime"]
    await goes_on(user)


async def test_what_spec_suspend_holds_and_others_let_go_is_held_again(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    await user.edit("sample", suspend=True)
    await user.phase("sample", "Suspended")
    await user.stopped("sample-1")
    for _ in range(2):
        await user.merge("jobs", "sample-1", {"spec": {"suspend": False}})

        async def held() -> bool:
            return bool((await user.job("sample-1"))["spec"]["suspend"])

        await user.until("suspended again", held)
    await user.edit("sample", suspend=False)
    await user.runs("sample-1")
    await goes_on(user)


async def test_a_label_of_kueue_without_kueue_starts_nothing(world: Worlds) -> None:
    here = await world()
    user = here.user
    manifest = sample()
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    await user.create(manifest)
    refused = await condition(user, "Accepted", "KueueNotFound")
    assert "Kueue is not in this cluster" in refused["status"]["message"]
    await settled(here.channel, 2)
    assert await user.list("jobs") == []
    await user.merge("finetunes", "sample", {"metadata": {"labels": None}})
    await user.runs("sample-1")
    await condition(user, "Accepted", "Valid")
    await goes_on(user)


async def test_a_label_that_is_somebody_elses_is_no_reason_to_wait(world: Worlds) -> None:
    here = await world(require_kueue="false")
    manifest = sample()
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    await here.user.create(manifest)
    await here.user.runs("sample-1")
    await goes_on(here.user)


async def test_a_raised_run_is_checked_like_the_first(world: Worlds) -> None:
    """That the last run is over says nothing about this one's Secrets and claims."""
    here = await world()
    user = here.user
    await finish(user)
    named = {"secretRef": {"name": "reader"}, "uri": "hf://datasets/o/d"}
    await user.edit("sample", run=2, dataset=named)
    missing = await condition(user, "Accepted", "SecretNotFound")
    assert "Secret reader" in missing["status"]["message"]
    await settled(here.channel, 2)
    assert jobs_made(here.channel) == {"sample-1": 1}
    await user.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"}}, "secrets")
    await user.runs("sample-2")
    await condition(user, "Accepted", "Valid")


async def test_a_job_that_is_made_after_the_end_is_stopped(world: Worlds) -> None:
    """The network delivers a creation for the second time when the run has ended and its Job is gone."""
    here = await world()
    user = here.user
    kept: list[bytes] = []

    async def keep(call: Call, forward: Forward) -> web.StreamResponse:
        if str(call) == "POST jobs":
            kept.append(call.body)
        return await forward()

    here.channel.intercept = keep
    await finish(user)
    done = await user.phase("sample", "Succeeded")
    await user.delete("jobs", "sample-1")
    await user.gone("jobs", "sample-1")
    await user.call("POST", user.path("jobs"), kept[0])
    await user.gone("jobs", "sample-1")
    assert await user.find("finetunes", "sample") == done


async def test_a_storage_class_that_is_not_there(world: Worlds) -> None:
    """The volume controller says so in an Event of the claim; the scheduler only that a claim is not bound."""
    here = await world()
    user = here.user
    manifest = sample()
    manifest["spec"]["backend"]["job"]["storage"] = {"size": "1Gi", "storageClassName": "nowhere"}
    await user.create(manifest)
    await _unscheduled(user, "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")

    async def named() -> bool:
        found = await user.find("finetunes", "sample") or {}
        return "there is no StorageClass nowhere" in found.get("status", {}).get("message", "")

    await user.until("its name", named)
    await condition(user, "Running", "VolumeNotReady")


async def _unscheduled(user: User, message: str) -> None:
    """The scheduler finds no node for the pod."""
    pod = await user.pod("sample-1")
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    conditions = [{**unscheduled, "lastTransitionTime": now_stamp()}]
    await user.merge("pods", f"{pod['metadata']['name']}/status", {"status": {"conditions": conditions}})


async def test_the_run_s_own_claim_deleted_before_its_pod_had_a_node(world: Worlds) -> None:
    here = await world()
    user = here.user
    await user.create(sample())
    await user.pod("sample-1")
    await user.delete("persistentvolumeclaims", "sample-1")
    claim = await user.find("persistentvolumeclaims", "sample-1")
    if claim is not None:  # nobody takes its protection off here
        await user.merge("persistentvolumeclaims", "sample-1", {"metadata": {"finalizers": None}})
    await user.gone("persistentvolumeclaims", "sample-1", (claim or {}).get("metadata", {}).get("uid"))
    await _unscheduled(user, '0/1 nodes are available: persistentvolumeclaim "sample-1" not found.')
    await user.until("another claim", lambda: user.find("persistentvolumeclaims", "sample-1"))
    told = await condition(user, "Running", "VolumeNotReady")
    assert "The claim sample-1 was deleted" in told["status"]["message"]
    await user.runs("sample-1")
    await goes_on(user)


async def test_a_sidecar_that_runs_on_holds_neither_the_result_nor_the_devices(world: Worlds) -> None:
    here = await world()
    user = here.user
    await start(user)
    await user.ends("sample-1", message=DONE, beside="istio-proxy")
    done = await user.phase("sample", "Succeeded")
    assert "istio-proxy" in done["status"]["message"]
    assert done["status"]["artifacts"][0]["uri"] == "pvc://sample-1/out"
    await user.gone("jobs", "sample-1")
    assert await user.find("finetunes", "sample") == done


async def test_an_attempt_that_is_disrupted_is_counted_and_not_failed(world: Worlds) -> None:
    """The Job's podFailurePolicy leaves it out, whatever its containers say: `backoffLimit` is for the trainer."""
    here = await world()
    user = here.user
    manifest = sample()
    manifest["spec"]["backend"]["job"]["backoffLimit"] = 0
    await user.create(manifest)
    await user.runs("sample-1")
    await user.phase("sample", "Running")
    await user.evicted("sample-1", "The node was low on resource: ephemeral-storage.")

    async def counted() -> Object | None:
        found = await user.find("finetunes", "sample") or {}
        return found if found.get("status", {}).get("disruptions") == 1 else None

    told = await user.until("a disruption", counted)
    assert told["status"]["phase"] in ("Pending", "Running")
    await user.runs("sample-1")
    again = await user.phase("sample", "Running")
    assert again["status"]["attempts"] == 2
    assert "low on resource: ephemeral-storage" in again["status"]["message"]
    await goes_on(user)


MUTATIONS = {
    "a deadline": "JSONPatch{op: 'add', path: '/spec/activeDeadlineSeconds', value: 3600}",
    "a label": "JSONPatch{op: 'add', path: '/metadata/labels/finetune.dev~1run', value: 'seven'}",
    "the label that our watch selects by": (
        "JSONPatch{op: 'add', path: '/metadata/labels/app.kubernetes.io~1managed-by', value: 'platform'}"
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=list(MUTATIONS))
async def test_a_policy_that_puts_back_what_the_operator_sets(world: Worlds, mutation: str) -> None:
    """It is told, and the status is written: the run is seen to its end."""
    here = await world(recheck_interval=2)
    user = here.user
    group = "/apis/admissionregistration.k8s.io/v1"
    name = user.namespace
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["jobs"]}
    match = {"resourceRules": [rule], "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    mutations = [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{mutation}]"}}]
    spec = {"matchConstraints": match, "mutations": mutations, "reinvocationPolicy": "Never", "failurePolicy": "Fail"}
    policy = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy"}
    await user.call("POST", f"{group}/mutatingadmissionpolicies", {**policy, "metadata": {"name": name}, "spec": spec})
    binding = {**policy, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name}}
    await user.call("POST", f"{group}/mutatingadmissionpolicybindings", {**binding, "spec": {"policyName": name}})
    try:
        await _in_force(user)
        began = len(here.channel.calls)
        await user.create(sample())
        await user.runs("sample-1")
        told = await user.phase("sample", "Running")
        told = await condition(user, "Accepted", "Overridden")
        assert told["status"]["phase"] == "Running"
        await settled(here.channel, 4)
        patches = [call for call in here.channel.calls[began:] if str(call) == "PATCH jobs"]
        assert 1 <= len(patches) <= 4
        await user.ends("sample-1", message=DONE)
        await user.phase("sample", "Succeeded")
    finally:
        await user.call("DELETE", f"{group}/mutatingadmissionpolicybindings/{name}")
        await user.call("DELETE", f"{group}/mutatingadmissionpolicies/{name}")


async def _in_force(user: User) -> None:
    """The API server takes up policies in its own time."""
    container = {"name": "c", "image": "c"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    number = 0

    async def mutated() -> bool:
        nonlocal number
        number += 1
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"probe-{number}", "labels": {"probe": "1"}},
            "spec": {"suspend": True, "template": template},
        }
        made = await user.create(body, "jobs")
        await user.delete("jobs", made["metadata"]["name"])
        return "activeDeadlineSeconds" in made["spec"] or made["metadata"]["labels"] != {"probe": "1"}

    await user.until("the policy", mutated)


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
