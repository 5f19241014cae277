"""Runs take turns: none starts while another one is at work. Two pods must never write one output."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.controller.model import Create
from finetune_operator.controller.ownership import may_have_left_pods
from finetune_operator.controller.plan import plan
from tests.unit.observations import COMPLETE, RUNNING, at, conditions, failed, finetune, job, observe, pod, status_after

SECOND = finetune(run=2)
LEAVING = job(status=RUNNING, deletionTimestamp=at(-1))
UNDER_WAY = status_after(observe(job=job(status=RUNNING)))
SUCCEEDED = status_after(observe(job=job(status=COMPLETE)))
FAILED = status_after(observe(job=job(status=failed())))
CANCELLED = status_after(observe(finetune(cancel=True)))


def of_run(run: int, made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "metadata": {**made["metadata"], "labels": {"finetune.dev/run": str(run)}}}


@pytest.mark.parametrize("status", [{}, UNDER_WAY, CANCELLED], ids=["no status", "under way", "cancelled"])
@pytest.mark.parametrize("earlier", [LEAVING, job(status=RUNNING)], ids=["being deleted", "not yet"])
def test_no_job_is_created_while_one_of_another_run_is_there(status: dict[str, Any], earlier: dict[str, Any]) -> None:
    status = status_after(observe(SECOND, status, other_jobs=(earlier,)))
    decision = plan(observe(SECOND, status, other_jobs=(earlier,)))
    assert not any(isinstance(action, Create) for action in decision.actions)
    assert decision.requeue == 30
    told = "Run 2 starts when run 1 has ended: its Job sample-1 is being removed."
    assert (status["phase"], status["message"]) == ("Pending", told)
    assert conditions(status)["Reconciling"] == ("True", "Progressing")


def test_its_pod_is_named_where_it_is_known() -> None:
    pods = (of_run(1, pod("Failed", name="sample-1-first")), of_run(1, pod("Running", name="sample-1-xyz")))
    for jobs, requeue in (((LEAVING,), 30), ((), 2)):
        decision = plan(observe(SECOND, UNDER_WAY, other_jobs=jobs, pods=pods))
        assert decision.actions == ()
        assert decision.requeue == requeue
        assert decision.status is not None
        told = "Run 2 starts when run 1 has ended: its pod sample-1-xyz has its grace period to save a checkpoint."
        assert decision.status["message"] == told


@pytest.mark.parametrize(
    ("deleted", "conditions_of_it"),
    [(at(-31), []), (at(60), [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}])],
    ids=["overdue", "its node is lost"],
)
def test_a_pod_that_does_not_end_is_named_with_the_way_out(deleted: str, conditions_of_it: list[Any]) -> None:
    """It is waited for as long as it may write; but not without a word."""
    lost = of_run(1, pod("Running", name="sample-1-xyz", conditions=conditions_of_it))
    lost["metadata"]["deletionTimestamp"] = deleted
    decision = plan(observe(SECOND, UNDER_WAY, pods=(lost,)))
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["reason"] == "NodeLost"
    assert "sample-1-xyz" in decision.status["message"]
    assert "node.kubernetes.io/out-of-service" in decision.status["message"]
    assert decision.announcement is not None


def test_then_it_is_created() -> None:
    waited = status_after(observe(SECOND, UNDER_WAY, other_jobs=(LEAVING,)))
    ended = (of_run(1, pod("Failed")), of_run(1, pod("Succeeded")))
    decision = plan(observe(SECOND, waited, pods=ended))
    assert [type(action) for action in decision.actions] == [Create, Create]
    assert decision.status is not None
    assert decision.status["message"] == "Waiting for the Job."


def test_a_job_that_is_there_goes_on() -> None:
    """Its creation was on its way when the run was raised, or its view was old: what has begun is not interrupted."""
    own = job(SECOND, status=RUNNING)
    status = plan(observe(SECOND, status_after(observe(SECOND, job=own)), job=own, other_jobs=(LEAVING,))).status
    assert status is None or status["phase"] == "Running"


HISTORY = {"run": 2, "phase": "Pending"}


@pytest.mark.parametrize(
    ("run", "status", "jobs", "looked"),
    [
        (1, {}, (), False),
        (1, UNDER_WAY, (), False),
        (2, {}, (), True),
        (2, UNDER_WAY, (), True),
        (2, CANCELLED, (), True),
        (2, SUCCEEDED, (), False),
        (2, FAILED, (), False),
        (2, SUCCEEDED, (job(status=COMPLETE),), False),
        (3, SUCCEEDED, (job(SECOND, status=COMPLETE), job(status=COMPLETE)), True),
        (2, {**HISTORY, "history": [{"run": 1, "phase": "Succeeded"}]}, (), False),
        (2, {**HISTORY, "history": [{"run": 1, "phase": "Cancelled"}]}, (), True),
        (1, {}, (job(SECOND, status=RUNNING),), True),
    ],
)
def test_pods_are_looked_for_where_there_may_be_any(
    run: int, status: dict[str, Any], jobs: Any, *, looked: bool
) -> None:
    assert may_have_left_pods(finetune(run=run), status, jobs) is looked
