"""Why Kueue lets a Job wait, in the words of the status."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.interpret import interpret
from finetune_operator.backends.job.workload import why_it_waits
from finetune_operator.backends.run_state import Stage


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


LACKING = condition("QuotaReserved", "False", "Pending", "couldn't assign flavors: 1 more nvidia.com/gpu needed")
PREEMPTED = condition("Preempted", "True", "InClusterQueue", "Preempted to accommodate a workload (UID: x)")
EVICTED = condition("Evicted", "True", "Preempted", "Preempted to accommodate")


@pytest.mark.parametrize(
    ("conditions", "reason", "says"),
    [
        ([], Reason.QUEUED_BY_KUEUE, ""),
        ([LACKING], Reason.QUEUED_BY_KUEUE, "couldn't assign flavors: 1 more nvidia.com/gpu needed."),
        ([EVICTED, PREEMPTED], Reason.PREEMPTED, "Preempted to accommodate a workload (UID: x)."),
        (
            [EVICTED, LACKING],
            Reason.PREEMPTED,
            "Preempted to accommodate. couldn't assign flavors: 1 more nvidia.com/gpu needed.",
        ),
        (
            [condition("Evicted", "True", "Deactivated", "The workload is deactivated")],
            Reason.QUEUED_BY_KUEUE,
            "The workload is deactivated.",
        ),
        ([condition("QuotaReserved", "True", "QuotaReserved", "reserved")], Reason.QUEUED_BY_KUEUE, ""),
        (["nonsense", {}], Reason.QUEUED_BY_KUEUE, ""),
    ],
)
def test_what_a_workload_says(conditions: list[Any], reason: str, says: str) -> None:
    assert why_it_waits({"status": {"conditions": conditions}}) == (reason, says)


def test_it_goes_into_the_runs_state() -> None:
    metadata = {"name": "x-1", "labels": {"kueue.x-k8s.io/queue-name": "gpu"}}
    job = {"metadata": metadata, "spec": {"suspend": True}, "status": {}}
    state = interpret(job, workload={"status": {"conditions": [LACKING]}})
    assert (state.stage, state.reason) == (Stage.QUEUED, Reason.QUEUED_BY_KUEUE)
    assert state.message.startswith("Waiting in queue gpu to be admitted. couldn't assign flavors")
    assert interpret(job).message == "Waiting in queue gpu to be admitted."


QUEUED = {"kueue.x-k8s.io/queue-name": "gpu"}


@pytest.mark.parametrize(
    ("labels", "workload", "kueue", "reason", "words"),
    [
        ({}, None, True, Reason.JOB_SUSPENDED, "Kueue has no Workload of it"),
        ({}, None, False, Reason.JOB_SUSPENDED, "Kueue is not in this cluster"),
        ({}, None, None, Reason.JOB_SUSPENDED, "spec.suspend is false. To let it go on: kubectl patch job x-1"),
        (QUEUED, None, False, Reason.JOB_SUSPENDED, "Kueue is not in this cluster"),
        (QUEUED, None, None, Reason.QUEUED_BY_KUEUE, "Waiting in queue gpu"),
        (QUEUED, None, True, Reason.QUEUED_BY_KUEUE, "Waiting in queue gpu"),
        ({}, {"status": {}}, True, Reason.QUEUED_BY_KUEUE, "Waiting in a queue"),
    ],
)
def test_who_holds_a_suspended_job(labels: Any, workload: Any, kueue: bool | None, reason: str, words: str) -> None:
    """Kueue may manage Jobs without a queue name too; it makes a Workload of each that it holds."""
    job = {"metadata": {"name": "x-1", "labels": labels}, "spec": {"suspend": True}, "status": {}}
    state = interpret(job, workload=workload, kueue=kueue)
    stage = Stage.SUSPENDED if reason == Reason.JOB_SUSPENDED else Stage.QUEUED
    assert (state.stage, state.reason) == (stage, reason)
    assert words in state.message
