"""Observations for tests of the policies: one good run, and short words for what can happen to it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.backends.job.manifest import Identity, JobDefaults, build_claim, build_job
from finetune_operator.controller.model import Decision, FineTune, Observation, read_finetune
from finetune_operator.controller.plan import plan
from finetune_operator.controller.times import stamp
from tests.api.finetunes import changed, fine_tune

Object = dict[str, Any]

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"
ANOTHER_UID = "99999999-8888-7777-6666-555555555555"


def at(seconds: float) -> str:
    """The stamp of so many seconds after NOW."""
    return stamp(NOW + timedelta(seconds=seconds))


def body(name: str = "sample", *, uid: str = UID, generation: int = 1, **spec: Any) -> Object:
    """A FineTune as the API server would hand it out; `spec` replaces members."""
    manifest = fine_tune(name, **spec)
    manifest["metadata"] |= {"uid": uid, "generation": generation, "resourceVersion": "100"}
    return manifest


def finetune(**spec: Any) -> FineTune:
    return read_finetune(body(**spec))


def identity(owner: FineTune) -> Identity:
    return Identity(
        namespace=owner.namespace,
        name=owner.name,
        uid=owner.uid,
        run=owner.run,
        labels=owner.labels,
        owner=owner.owner_reference(),
    )


def job(owner: FineTune | None = None, *, status: Object | None = None, age: float = 60, **metadata: Any) -> Object:
    """The Job of a FineTune's run as the API server would hand it out."""
    owner = owner or finetune()
    assert owner.spec is not None
    made = build_job(identity(owner), owner.spec, resolve_parameters(owner.spec), JobDefaults())
    made["metadata"] |= {
        "uid": f"job-{owner.run}-{owner.uid[:8]}",
        "resourceVersion": "200",
        "creationTimestamp": at(-age),
        **metadata,
    }
    return {**made, "status": status or {}}


def claim(owner: FineTune) -> Object:
    assert owner.spec is not None
    assert owner.spec.backend.job is not None
    made = build_claim(identity(owner), owner.spec.backend.job)
    assert made is not None
    return made


STARTED = at(-50)
RUNNING: Object = {"active": 1, "ready": 1, "startTime": STARTED}
RETRYING: Object = {"active": 1, "ready": 0, "failed": 1, "startTime": STARTED}


def condition(kind: str, reason: str = "", message: str = "", time: str | None = None) -> Object:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": time or at(-5),
    }


COMPLETE: Object = {
    "succeeded": 1,
    "startTime": STARTED,
    "completionTime": at(-5),
    "conditions": [condition("SuccessCriteriaMet"), condition("Complete", "CompletionsReached")],
}


def failed(reason: str = "BackoffLimitExceeded", message: str = "", count: int = 1) -> Object:
    return {"failed": count, "startTime": STARTED, "conditions": [condition("Failed", reason, message)]}


def suspended(holder: Object, *, by_us: bool) -> Object:
    """The Job, suspended by the operator or by somebody else."""
    result = copy.deepcopy(holder)
    result["spec"]["suspend"] = True
    if by_us:
        result["metadata"]["annotations"]["finetune.dev/suspended-by-spec"] = "true"
    return result


def pod(phase: str, *, age: float = 40, name: str = "sample-1-abcde", **status: Any) -> Object:
    return {
        "metadata": {"name": name, "creationTimestamp": at(-age)},
        "spec": {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "8Gi"}}}]},
        "status": {"phase": phase, **status},
    }


def ended_pod(code: int, message: str = "", *, reason: str = "Error", age: float = 40) -> Object:
    """A pod whose trainer has terminated."""
    terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at(-6)}
    return pod(
        "Succeeded" if code == 0 else "Failed",
        age=age,
        containerStatuses=[{"name": "trainer", "image": "trainer:1", "state": {"terminated": terminated}}],
    )


def waiting_pod(reason: str, message: str = "") -> Object:
    """A pod whose trainer waits for something."""
    state = {"waiting": {"reason": reason, "message": message}}
    return pod("Pending", containerStatuses=[{"name": "trainer", "image": "trainer:1", "state": state}])


def observe(owner: FineTune | None = None, status: Object | None = None, **what: Any) -> Observation:
    """What is known of a FineTune; without a word, it has just been created."""
    return Observation(**{"now": NOW, "finetune": owner or finetune(), "status": status or {}, **what})


def status_after(*observations: Observation) -> Object:
    """The status after these have been planned one after the other, each with the status that the last one left."""
    status: Object = {}
    for observation in observations:
        status = planned(observation, status).status or status
    return status


def planned(observation: Observation, status: Object) -> Decision:
    """Plans an observation with another status."""
    fields = {name: getattr(observation, name) for name in observation.__dataclass_fields__}
    return plan(Observation(**{**fields, "status": status}))


def conditions(status: Object) -> dict[str, tuple[str, str]]:
    """Each condition as (status, reason)."""
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


__all__ = [name for name in dir() if not name.startswith("_")]
__all__ += ["changed"]
