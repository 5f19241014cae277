"""The life of a run, decision by decision: what the operator does first, next and last."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.api.names import QUEUE_LABEL
from finetune_operator.controller.model import Create, Delete, Observation, Patch
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    COMPLETE,
    NOW,
    RETRYING,
    RUNNING,
    conditions,
    ended_pod,
    failed,
    finetune,
    job,
    observe,
    planned,
    status_after,
    suspended,
)


def kinds(observation: Observation) -> list[str]:
    """What is to be done, in words."""
    words = {Create: "create {body[kind]}", Delete: "delete {name}", Patch: "patch {name}"}
    return [
        words[type(action)].format(**{field: getattr(action, field) for field in action.__dataclass_fields__})
        for action in plan(observation).actions
    ]


def test_a_new_finetune_gets_its_claim_and_job_before_any_status() -> None:
    assert kinds(observe()) == ["create PersistentVolumeClaim", "create Job"]
    assert plan(observe()).status is None


def test_a_young_job_is_not_worth_a_status_yet() -> None:
    decision = plan(observe(job=job(age=1)))
    assert decision.status is None
    assert decision.requeue == 1


def test_a_job_that_does_not_start_is() -> None:
    status = plan(observe(job=job(age=3))).status
    assert status is not None
    assert status["phase"] == "Pending"
    assert status["job"]["name"] == "sample-1"


PHASES: list[tuple[str, Observation, str, str, dict[str, tuple[str, str]]]] = [
    (
        "running",
        observe(job=job(status=RUNNING)),
        "Running",
        "PodsRunning",
        {"Accepted": ("True", "Valid"), "Running": ("True", "PodsRunning"), "Complete": ("False", "InProgress")},
    ),
    (
        "succeeded",
        observe(job=job(status=COMPLETE)),
        "Succeeded",
        "TrainingSucceeded",
        {"Complete": ("True", "TrainingSucceeded"), "Failed": ("False", "NotFailed"), "Running": ("False", "Finished")},
    ),
    (
        "failed",
        observe(job=job(status=failed()), pods=(ended_pod(1, "boom"),)),
        "Failed",
        "BackoffLimitExceeded",
        {"Failed": ("True", "BackoffLimitExceeded"), "Complete": ("False", "Finished")},
    ),
    (
        "bad data",
        observe(job=job(status=failed("PodFailurePolicy")), pods=(ended_pod(3, "no column q"),)),
        "Failed",
        "DataValidationFailed",
        {"Failed": ("True", "DataValidationFailed")},
    ),
    (
        "retrying",
        observe(job=job(status=RETRYING), pods=(ended_pod(75, "evicted"),)),
        "Pending",
        "Pending",
        {"Reconciling": ("True", "Progressing"), "Running": ("False", "Pending")},
    ),
    (
        "queued",
        observe(job=suspended(job(labels={**job()["metadata"]["labels"], QUEUE_LABEL: "gpu"}), by_us=False)),
        "Queued",
        "QueuedByKueue",
        {"Suspended": ("True", "QueuedByKueue")},
    ),
    (
        "suspended by somebody else",
        observe(job=suspended(job(), by_us=False)),
        "Suspended",
        "JobSuspended",
        {"Suspended": ("True", "JobSuspended"), "Running": ("False", "JobSuspended")},
    ),
    (
        "suspended while running",
        observe(finetune(suspend=True), job=suspended(job(), by_us=True)),
        "Suspended",
        "SuspendedBySpec",
        {"Suspended": ("True", "SuspendedBySpec"), "Running": ("False", "SuspendedBySpec")},
    ),
    (
        "suspended before the start",
        observe(finetune(suspend=True)),
        "Suspended",
        "SuspendedBySpec",
        {"Suspended": ("True", "SuspendedBySpec")},
    ),
    (
        "cancelled",
        observe(finetune(cancel=True), job=job(status=RUNNING)),
        "Cancelled",
        "Cancelled",
        {"Failed": ("True", "Cancelled")},
    ),
]


@pytest.mark.parametrize(
    ("observation", "phase", "reason", "expected"), [case[1:] for case in PHASES], ids=[case[0] for case in PHASES]
)
def test_phases(observation: Observation, phase: str, reason: str, expected: dict[str, Any]) -> None:
    status = plan(observation).status
    assert status is not None
    assert (status["phase"], status["reason"]) == (phase, reason)
    assert expected.items() <= conditions(status).items()


@pytest.mark.parametrize("observation", [case[1] for case in PHASES], ids=[case[0] for case in PHASES])
def test_a_plan_on_its_own_result_changes_nothing(observation: Observation) -> None:
    status = plan(observation).status
    assert status is not None
    assert planned(observation, status).status is None


@pytest.mark.parametrize("observation", [case[1] for case in PHASES], ids=[case[0] for case in PHASES])
def test_no_policy_changes_what_was_observed(observation: Observation) -> None:
    before = repr(observation)
    plan(observation)
    assert repr(observation) == before


@pytest.mark.parametrize(("end", "terminal"), [(COMPLETE, "Complete"), (failed(), "Failed")])
def test_every_ending_has_a_completion_time_from_the_job(end: dict[str, Any], terminal: str) -> None:
    status = plan(observe(job=job(status=end))).status
    assert status is not None
    assert conditions(status)[terminal][0] == "True"
    assert status["completionTime"] == "2026-03-01T11:59:55Z"


def test_the_whole_life_of_a_run_is_two_status_writes() -> None:
    life = [observe(), observe(job=job(age=1)), observe(job=job(status=RUNNING)), observe(job=job(status=COMPLETE))]
    status: dict[str, Any] = {}
    writes = 0
    for observation in life:
        decision = planned(observation, status)
        writes += decision.status is not None
        status = decision.status or status
    assert writes == 2
    assert status["phase"] == "Succeeded"


def test_last_transition_times_move_only_with_the_status_of_a_condition() -> None:
    first = status_after(observe(job=job(status=RUNNING)))
    later = observe(job=job(status={**RUNNING, "failed": 1}), now=NOW + timedelta(minutes=5))
    second = planned(later, first).status
    assert second is not None
    assert second["message"] != first["message"]
    times = [{each["type"]: each["lastTransitionTime"] for each in status["conditions"]} for status in (first, second)]
    assert times[0] == times[1]


def test_trouble_is_announced_once() -> None:
    unschedulable = observe(job=job(status=failed()), pods=(ended_pod(1, "boom"),))
    decision = plan(unschedulable)
    assert decision.announcement is not None
    assert decision.announcement.reason == "BackoffLimitExceeded"
    assert "boom" in decision.announcement.message
    assert decision.status is not None
    assert planned(unschedulable, decision.status).announcement is None


def test_the_normal_course_is_not_announced() -> None:
    for observation in (observe(), observe(job=job(status=RUNNING)), observe(job=job(status=COMPLETE))):
        assert plan(observation).announcement is None
