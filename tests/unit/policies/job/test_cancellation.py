"""`spec.cancel`: the run ends, the record stays."""

from __future__ import annotations

import pytest

from finetune_operator.controller.model import Delete
from finetune_operator.controller.plan import plan
from tests.unit.observations import ANOTHER_UID, COMPLETE, RUNNING, conditions, finetune, job, observe, suspended

CANCELLED = finetune(cancel=True)


@pytest.mark.parametrize("held", [job(), job(status=RUNNING), suspended(job(), by_us=True)])
def test_the_job_is_deleted_and_the_run_is_over(held: dict) -> None:
    decision = plan(observe(CANCELLED, job=held))
    assert decision.actions == (Delete("sample-1", held["metadata"]["uid"]),)
    assert decision.status is not None
    assert decision.status["phase"] == "Cancelled"
    assert decision.status["completionTime"] == "2026-03-01T12:00:00Z"
    assert conditions(decision.status)["Failed"] == ("True", "Cancelled")
    assert "Reconciling" not in conditions(decision.status)
    assert decision.requeue is None


def test_nothing_is_created_for_a_run_that_is_cancelled_before_its_start() -> None:
    decision = plan(observe(CANCELLED))
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["phase"] == "Cancelled"


def test_a_run_that_has_succeeded_before_stays_succeeded() -> None:
    decision = plan(observe(CANCELLED, job=job(status=COMPLETE)))
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["phase"] == "Succeeded"


@pytest.mark.parametrize(
    "held", [job(status=RUNNING, deletionTimestamp="2026-03-01T11:00:00Z"), job(finetune(uid=ANOTHER_UID))]
)
def test_a_job_that_goes_already_or_is_not_ours_is_not_deleted(held: dict) -> None:
    decision = plan(observe(CANCELLED, job=held))
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["phase"] == "Cancelled"
