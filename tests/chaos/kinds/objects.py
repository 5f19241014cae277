"""Faults in the objects that the operator works with."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from finetune_operator.api.names import MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, RUN_LABEL, UID_LABEL
from tests.chaos.experiment import SOON, Kind, Turn
from tests.chaos.kinds.api_server import BACKED_OFF, HOLD, RECHECK
from tests.faults.user import Refused

Object = dict[str, Any]

OURS = (NAME_LABEL, RUN_LABEL, UID_LABEL)
_AUTHORITY = "finetune-operator-progress"
_DEADLINE = 4000


async def _change(turn: Turn, change: Object) -> None:
    """Of the Job of the run that is under way."""
    job = await turn.stage.user.merge("jobs", f"{turn.held}-1", change)
    turn.version = int(job["metadata"]["resourceVersion"])


def _newer(turn: Turn) -> Object | None:
    """That Job, once it has been changed since; else None."""
    job = turn.stage.job(turn.held)
    return job if job is not None and int(job["metadata"]["resourceVersion"]) > turn.version else None


@asynccontextmanager
async def _config_drift(turn: Turn) -> AsyncIterator[None]:
    system = turn.stage.system
    kept = (await system.find("secrets", _AUTHORITY) or {})["data"]
    spoilt = base64.b64encode(b"spoilt").decode()
    await system.merge("secrets", _AUTHORITY, {"data": {"ca.crt": spoilt}})
    yield
    await _change(turn, {"spec": {"activeDeadlineSeconds": _DEADLINE}})
    await system.merge("secrets", _AUTHORITY, {"data": kept})


def _without_deadline(turn: Turn) -> bool:
    job = _newer(turn)
    return job is not None and "activeDeadlineSeconds" not in job["spec"]


CONFIG_DRIFT = Kind(
    name="ConfigDrift",
    what="the running Job's activeDeadlineSeconds is set to what the FineTune does not say; meanwhile the Secret with "
    "the authority of the progress endpoint is spoilt (the ConfigMap with the settings is read at the start alone, and "
    "the chart starts the operator again where it has changed)",
    inject=_config_drift,
    recovered=_without_deadline,
    hold=0.0,
)


@asynccontextmanager
async def _crd_mutation(turn: Turn) -> AsyncIterator[None]:
    stage = turn.stage
    try:
        await stage.user.edit(turn.held, recipe={"imageToText": {"loraRank": 4}})
    except Refused as refused:
        if refused.status != 422:
            raise
    await stage.user.edit(turn.held, activeDeadlineSeconds=_DEADLINE)
    yield
    job = stage.job(turn.held) or {"spec": {}, "metadata": {"resourceVersion": "0"}}
    assert job["spec"].get("activeDeadlineSeconds") == _DEADLINE, "the Job has not followed"
    turn.version = int(job["metadata"]["resourceVersion"])
    await stage.user.edit(turn.held, activeDeadlineSeconds=None)


CRD_MUTATION = Kind(
    name="CRDMutation",
    what=f"a running FineTune's activeDeadlineSeconds is changed, and put back after {HOLD:.0f} s: the Job follows "
    "(what cannot change within a run, the API server refuses)",
    inject=_crd_mutation,
    recovered=_without_deadline,
)


@asynccontextmanager
async def _finalizer_block(turn: Turn) -> AsyncIterator[None]:
    stage, job = turn.stage, f"{turn.held}-1"
    held = (await stage.user.job(job))["metadata"].get("finalizers") or []
    await stage.user.merge("jobs", job, {"metadata": {"finalizers": [*held, "chaos.example.com/block"]}})
    await stage.user.edit(turn.held, run=2)
    yield
    status = (stage.view.get("finetunes", turn.held) or {}).get("status", {})
    assert f"its Job {job} is being removed" in status.get("message", ""), status
    left = (await stage.user.job(job))["metadata"]["finalizers"]
    without = [name for name in left if name != "chaos.example.com/block"]
    await stage.user.merge("jobs", job, {"metadata": {"finalizers": without}})


FINALIZER_BLOCK = Kind(
    name="FinalizerBlock",
    what=f"another run is wanted, but a finalizer keeps the Job of the last one for {HOLD:.0f} s: the status says so, "
    "and the next one begins when it has gone",
    inject=_finalizer_block,
    recovered=lambda turn: turn.stage.job(turn.held, 2) is not None,
)


@asynccontextmanager
async def _label_stomping(turn: Turn) -> AsyncIterator[None]:
    yield
    labels = {MANAGED_BY_LABEL: "somebody-else", **dict.fromkeys(OURS)}
    await _change(turn, {"metadata": {"labels": labels}})


def _labelled(turn: Turn) -> bool:
    labels = (_newer(turn) or {"metadata": {}})["metadata"].get("labels") or {}
    return labels.get(MANAGED_BY_LABEL) == MANAGED_BY and all(label in labels for label in OURS)


LABEL_STOMPING = Kind(
    name="LabelStomping",
    what="all labels by which the operator finds its Job are removed or changed while the run goes on",
    inject=_label_stomping,
    recovered=_labelled,
    hold=0.0,
)


@asynccontextmanager
async def _ownerref_orphan(turn: Turn) -> AsyncIterator[None]:
    yield
    await _change(turn, {"metadata": {"ownerReferences": None}})


def _owned(turn: Turn) -> bool:
    finetune = turn.stage.view.get("finetunes", turn.held) or {"metadata": {"uid": ""}}
    owners = (_newer(turn) or {"metadata": {}})["metadata"].get("ownerReferences") or []
    return any(each.get("controller") and each["uid"] == finetune["metadata"]["uid"] for each in owners)


OWNERREF_ORPHAN = Kind(
    name="OwnerRefOrphan",
    what="the ownerReferences of the Job are removed while the run goes on: it is adopted again",
    inject=_ownerref_orphan,
    recovered=_owned,
    hold=0.0,
)


@asynccontextmanager
async def _resource_deletion(turn: Turn) -> AsyncIterator[None]:
    yield
    job = await turn.stage.user.job(f"{turn.held}-1")
    turn.version = int(job["metadata"]["resourceVersion"])
    turn.uid = job["metadata"]["uid"]
    await turn.stage.user.delete("jobs", f"{turn.held}-1")


def _made_again(turn: Turn) -> bool:
    job = _newer(turn)
    return job is not None and job["metadata"]["uid"] != turn.uid


RESOURCE_DELETION = Kind(
    name="ResourceDeletion",
    what="the Job is deleted while the run goes on: when its pod has ended it is made again under its name, to resume",
    inject=_resource_deletion,
    bound=SOON + 2.0,
    why="the next look at that pod, of whose end no event tells (2 s)",
    recovered=_made_again,
    hold=0.0,
)


@asynccontextmanager
async def _secret_deletion(turn: Turn) -> AsyncIterator[None]:
    stage, secret = turn.stage, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reader"}}
    if not await stage.user.find("secrets", "reader"):
        await stage.user.create(secret, "secrets")
    await stage.user.delete("secrets", "reader")
    dataset = {"uri": "s3://bucket/train.parquet", "secretRef": {"name": "reader"}}
    await stage.apply(turn.wanted, dataset=dataset)
    yield
    status = (stage.view.get("finetunes", turn.wanted) or {}).get("status", {})
    assert status.get("reason") == "SecretNotFound", status
    await stage.user.create(secret, "secrets")


SECRET_DELETION = Kind(
    name="SecretDeletion",
    what=f"the Secret that a new FineTune names is gone for {HOLD:.0f} s: the status says so, and the run begins when "
    "it is back (the operator's own Secret is made anew at its next start)",
    inject=_secret_deletion,
    bound=BACKED_OFF,
    why=RECHECK,
)


@asynccontextmanager
async def _namespace_deletion(turn: Turn) -> AsyncIterator[None]:
    user = turn.stage.user
    await user.call("DELETE", f"/api/v1/namespaces/{user.namespace}")
    await user.until("namespace gone", lambda: _gone(turn))
    yield
    await user.begin()
    await turn.stage.apply(turn.held)
    await turn.stage.apply(turn.wanted)


async def _gone(turn: Turn) -> bool:
    try:
        await turn.stage.user.call("GET", f"/api/v1/namespaces/{turn.stage.user.namespace}")
    except Refused as refused:
        return refused.status == 404
    return False


NAMESPACE_DELETION = Kind(
    name="NamespaceDeletion",
    what="the namespace with the FineTunes is deleted; its owner makes it again, with the same FineTunes (the operator "
    "does not: it is not its own)",
    inject=_namespace_deletion,
    recovered=lambda turn: turn.stage.job(turn.held) is not None and turn.stage.job(turn.wanted) is not None,
    applied_meanwhile=False,
    trials=3,
)


@asynccontextmanager
async def _pdb_block(turn: Turn) -> AsyncIterator[None]:
    stage = turn.stage
    selector = {"matchLabels": {"batch.kubernetes.io/job-name": f"{turn.held}-1"}}
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "none"}}
    await stage.user.create({**budget, "spec": {"maxUnavailable": 0, "selector": selector}}, "poddisruptionbudgets")
    assert not await _evicted(turn), "the pod could be evicted"
    yield
    await stage.user.delete("poddisruptionbudgets", "none")
    await stage.user.until("eviction", lambda: _evicted(turn), 10)


async def _evicted(turn: Turn) -> bool:
    name = (await turn.stage.user.pod(f"{turn.held}-1"))["metadata"]["name"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    try:
        await turn.stage.user.create(body, f"pods/{name}/eviction")
    except Refused as refused:
        if refused.status != 429:
            raise
        return False
    return True


PDB_BLOCK = Kind(
    name="PDBBlock",
    what=f"a PodDisruptionBudget forbids to evict the run's pod for {HOLD:.0f} s; then it is evicted, and another goes "
    "on (the operator's own pod is not here; its drain is DeploymentScaleZero)",
    inject=_pdb_block,
)
