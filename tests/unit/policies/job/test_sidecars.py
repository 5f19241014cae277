"""A pod that another container holds after its trainer has ended is ended: its devices are for the next attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.controller.model import Delete, Observation
from finetune_operator.controller.plan import plan
from tests.unit.observations import NOW, at, conditions, job, observe, pod, status_after

Object = dict[str, Any]
THE_DELETE = Delete("sample-1", job()["metadata"]["uid"])


def held(code: int, *, later: float = 0, status: Object | None = None, **more: Any) -> Observation:
    """Its trainer ended 6 s before NOW."""
    ended = {"exitCode": code, "reason": "Error", "message": "", "finishedAt": at(-6)}
    containers = [
        {"name": "trainer", "state": {"terminated": ended}},
        {"name": "istio-proxy", "ready": True, "state": {"running": {"startedAt": at(-30)}}},
    ]
    made = job(status={"active": 1, "ready": 0, "startTime": at(-50)})
    pods = (pod("Running", containerStatuses=containers),)
    return observe(None, status, job=made, pods=pods, now=NOW + timedelta(seconds=later), **more)


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed")])
def test_what_the_trainers_end_decides_is_written_and_then_its_job_is_deleted(code: int, phase: str) -> None:
    decision = plan(held(code))
    assert decision.actions == ()
    assert decision.requeue == 10
    assert decision.status is not None
    assert decision.status["phase"] == phase
    assert decision.status["completionTime"] == at(-6)
    assert plan(held(code, later=3, status=decision.status, job_is_live=True)).requeue == 1
    assert plan(held(code, later=4, status=decision.status, job_is_live=True)).actions == (THE_DELETE,)


def test_another_attempt_is_made_by_another_job() -> None:
    soon = plan(held(1))
    assert (soon.actions, soon.requeue) == ((), 4)
    assert soon.status is not None
    assert conditions(soon.status)["Running"] == ("False", "SidecarRunning")
    assert soon.announcement is not None
    assert plan(held(1, later=4)).actions == (THE_DELETE,)


def test_no_more_attempts_than_backoff_limit_says() -> None:
    tried = {**status_after(held(1)), "attempts": 4}
    decision = plan(held(1, later=4, status=tried))
    assert decision.actions == ()
    assert decision.status is not None
    assert (decision.status["phase"], decision.status["reason"]) == ("Failed", "BackoffLimitExceeded")
    assert decision.status["message"].startswith("Failed after 4 attempts: Container istio-proxy runs on")
    disrupted = {**tried, "disruptions": 1}
    assert plan(held(1, later=4, status=disrupted)).actions == (THE_DELETE,)
