"""A finished run stays finished, whatever happens to its children; they go when their time is up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_operator.controller.model import Delete, Observation
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    ANOTHER_UID,
    COMPLETE,
    NOW,
    RUNNING,
    failed,
    finetune,
    job,
    observe,
    status_after,
)

SUCCEEDED = status_after(observe(job=job(status=COMPLETE)))
FAILED = status_after(observe(job=job(status=failed())))
CANCELLED = status_after(observe(finetune(cancel=True)))
EXPIRING = finetune(ttlSecondsAfterFinished=60)
THE_DELETE = Delete("sample-1", job()["metadata"]["uid"])


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, CANCELLED], ids=["succeeded", "failed", "cancelled"])
@pytest.mark.parametrize(
    "spec", [{}, {"suspend": True}, {"cancel": True}, {"activeDeadlineSeconds": 5}], ids=lambda spec: ",".join(spec)
)
def test_a_finished_run_is_never_trained_again(end: dict, spec: dict) -> None:
    """The Job is gone, by hand or by its time to live."""
    decision = plan(observe(finetune(**spec), end))
    assert decision.actions == ()
    assert decision.status is None


def test_only_the_observed_generation_follows_a_change_of_the_switches() -> None:
    decision = plan(observe(finetune(generation=2, cancel=True), SUCCEEDED))
    assert decision.status == {**SUCCEEDED, "observedGeneration": 2}


@pytest.mark.parametrize(
    ("after", "actions", "requeue"), [(0, (), 55), (54, (), 1), (55, (THE_DELETE,), None), (1e6, (THE_DELETE,), None)]
)
def test_the_job_goes_when_its_time_is_up(after: float, actions: tuple[Delete, ...], requeue: float | None) -> None:
    observation = observe(EXPIRING, SUCCEEDED, job=job(status=COMPLETE), now=NOW + timedelta(seconds=after))
    decision = plan(observation)
    assert decision.actions == actions
    assert decision.requeue == requeue


def test_without_a_ttl_the_job_stays() -> None:
    assert plan(observe(None, SUCCEEDED, job=job(status=COMPLETE), now=NOW + timedelta(days=900))).actions == ()


@pytest.mark.parametrize(
    "observation",
    [
        observe(EXPIRING, SUCCEEDED, job=job(finetune(uid=ANOTHER_UID), status=COMPLETE)),
        observe(EXPIRING, SUCCEEDED, job=job(status=COMPLETE, deletionTimestamp="2026-03-01T11:00:00Z")),
    ],
    ids=["a stranger's", "being deleted"],
)
def test_what_is_not_deleted(observation: Observation) -> None:
    assert plan(observation).actions == ()


def test_a_job_that_appears_after_the_cancel_is_stopped() -> None:
    """Its creation was on its way when the run was cancelled: the cache had not heard of it."""
    assert plan(observe(finetune(cancel=True), CANCELLED, job=job(status=RUNNING))).actions == (THE_DELETE,)


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED], ids=["succeeded", "failed"])
def test_a_job_that_is_at_work_after_the_end_is_stopped_once_it_has_been_read(end: dict) -> None:
    """Its creation came late, or a sidecar holds its pod: nobody would end it."""
    live = observe(None, end, job=job(status=RUNNING), job_is_live=True, now=NOW + timedelta(seconds=4))
    assert (plan(live).actions, plan(live).requeue) == ((), 1)
    late = observe(None, end, job=job(status=RUNNING), job_is_live=True, now=NOW + timedelta(seconds=5))
    assert plan(late).actions == (THE_DELETE,)
    done = observe(None, end, job=job(status=COMPLETE), job_is_live=True, now=NOW + timedelta(seconds=50))
    assert plan(done).actions == ()


def test_a_stale_view_of_the_job_does_not_cost_a_finished_run_its_job() -> None:
    assert plan(observe(None, SUCCEEDED, job=job(status=RUNNING))).actions == ()
