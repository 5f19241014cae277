"""`spec.run` raised: the last run goes to the history, and the next one starts clean."""

from __future__ import annotations

from typing import Any

from finetune_operator.controller.model import Create, Delete, Patch
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    ANOTHER_UID,
    COMPLETE,
    RUNNING,
    ended_pod,
    failed,
    finetune,
    job,
    observe,
    planned,
    status_after,
)

SECOND = finetune(run=2)
ARTIFACT = '{"name":"a.safetensors","uri":"pvc://c/a","digest":"sha256:0","sizeBytes":5}'
SAID = '{"state":"Succeeded","reason":"Done","message":"done","step":9,"totalSteps":9,"loss":0.5,"artifacts":[%s]}'
SUCCEEDED = status_after(observe(job=job(status=COMPLETE), pods=(ended_pod(0, SAID % ARTIFACT),)))
UNDER_WAY = status_after(observe(job=job(status=RUNNING)))


def test_a_finished_run_is_recorded_whole_and_the_next_one_starts_clean() -> None:
    decision = plan(observe(SECOND, SUCCEEDED, previous_job=job(status=COMPLETE)))
    assert [type(action) for action in decision.actions] == [Create, Create]
    status = decision.status
    assert status is not None
    assert (status["run"], status["phase"]) == (2, "Pending")
    assert not {"startTime", "completionTime", "attempts", "artifacts", "progress", "job"} & set(status)
    (record,) = status["history"]
    assert record == {
        "run": 1,
        "phase": "Succeeded",
        "reason": "TrainingSucceeded",
        "message": "done",
        "loss": "0.5000",
        **{
            field: SUCCEEDED[field]
            for field in ("startTime", "completionTime", "attempts", "job", "parameters", "artifacts")
        },
    }


def test_a_running_run_is_stopped_and_recorded_as_superseded() -> None:
    decision = plan(observe(SECOND, UNDER_WAY, previous_job=job(status=RUNNING)))
    assert decision.actions[0] == Delete("sample-1", job()["metadata"]["uid"])
    assert decision.status is not None
    record = decision.status["history"][0]
    assert (record["phase"], record["reason"]) == ("Cancelled", "Superseded")


def test_a_run_that_ended_before_anyone_looked_is_recorded_as_it_ended() -> None:
    decision = plan(observe(SECOND, UNDER_WAY, previous_job=job(status=failed(message="it broke"))))
    assert not any(isinstance(action, Delete) for action in decision.actions)
    assert decision.status is not None
    record = decision.status["history"][0]
    assert (record["phase"], record["message"]) == ("Failed", "it broke")


def test_the_history_holds_the_last_five_the_newest_first() -> None:
    status: dict[str, Any] = SUCCEEDED
    for run in range(2, 10):
        status = planned(observe(finetune(run=run), previous_job=None), status).status or status
    assert [record["run"] for record in status["history"]] == [8, 7, 6, 5, 4]


def test_a_stranger_s_job_of_the_last_run_is_left_alone() -> None:
    stranger = job(finetune(uid=ANOTHER_UID), status=RUNNING)
    decision = plan(observe(SECOND, UNDER_WAY, previous_job=stranger))
    assert not any(isinstance(action, Delete) for action in decision.actions)


def test_a_job_that_is_being_deleted_is_not_deleted_again() -> None:
    leaving = job(status=RUNNING, deletionTimestamp="2026-03-01T11:00:00Z")
    decision = plan(observe(SECOND, UNDER_WAY, previous_job=leaving))
    assert not any(isinstance(action, Delete) for action in decision.actions)


def test_the_ttl_of_an_earlier_run_s_job_is_left_to_kubernetes() -> None:
    previous = job(status=COMPLETE)
    decision = plan(observe(finetune(run=2, ttlSecondsAfterFinished=60), SUCCEEDED, previous_job=previous))
    patch = decision.actions[0]
    assert isinstance(patch, Patch)
    assert patch.operations == ({"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": 60},)
    previous["spec"]["ttlSecondsAfterFinished"] = 60
    again = plan(observe(finetune(run=2, ttlSecondsAfterFinished=60), SUCCEEDED, previous_job=previous))
    assert not any(isinstance(action, Patch) for action in again.actions)


def test_the_ttl_never_takes_a_job_whose_end_is_not_on_record_yet() -> None:
    decision = plan(observe(finetune(run=2, ttlSecondsAfterFinished=0), UNDER_WAY, previous_job=job(status=COMPLETE)))
    assert not any(isinstance(action, Patch) for action in decision.actions)
