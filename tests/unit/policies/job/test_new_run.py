"""`spec.run` raised: every other run ends and goes to the history, and the wanted one starts clean."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.names import FINALIZER
from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.model import (
    Call,
    CallResult,
    Create,
    Decision,
    Delete,
    Finalize,
    Observation,
    Patch,
    UpstreamView,
)
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    COMPLETE,
    NOW,
    RUNNING,
    at,
    ended_pod,
    failed,
    finetune,
    job,
    observe,
    planned,
    pod,
    status_after,
    suspended,
)
from tests.unit.upstream_world import CAPABILITIES, TRANSIENT

SECOND, THIRD = finetune(run=2), finetune(run=3)
ARTIFACT = '{"name":"a.safetensors","uri":"pvc://c/a","digest":"sha256:0","sizeBytes":5}'
SAID = '{"state":"Succeeded","reason":"Done","message":"done","step":9,"totalSteps":9,"loss":0.5,"artifacts":[%s]}'
SUCCEEDED = status_after(observe(job=job(status=COMPLETE), pods=(ended_pod(0, SAID % ARTIFACT),)))
UNDER_WAY = status_after(observe(job=job(status=RUNNING)))


def test_a_finished_run_is_recorded_whole_and_the_next_one_starts_clean() -> None:
    decision = plan(observe(SECOND, SUCCEEDED, other_jobs=(job(status=COMPLETE),)))
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
    decision = plan(observe(SECOND, UNDER_WAY, other_jobs=(job(status=RUNNING),)))
    assert decision.actions[0] == Delete("sample-1", job()["metadata"]["uid"])
    assert decision.status is not None
    record = decision.status["history"][0]
    assert (record["phase"], record["reason"]) == ("Cancelled", "Superseded")


def test_a_run_that_ended_before_anyone_looked_is_recorded_as_it_ended() -> None:
    decision = plan(observe(SECOND, UNDER_WAY, other_jobs=(job(status=failed(message="it broke")),)))
    assert not any(isinstance(action, Delete) for action in decision.actions)
    assert decision.status is not None
    record = decision.status["history"][0]
    assert (record["phase"], record["message"]) == ("Failed", "it broke")


def test_the_history_holds_the_last_five_the_newest_first() -> None:
    status: dict[str, Any] = SUCCEEDED
    for run in range(2, 10):
        status = planned(observe(finetune(run=run)), status).status or status
    assert [record["run"] for record in status["history"]] == [8, 7, 6, 5, 4]


def test_a_job_that_is_being_deleted_is_not_deleted_again() -> None:
    leaving = job(status=RUNNING, deletionTimestamp="2026-03-01T11:00:00Z")
    decision = plan(observe(SECOND, UNDER_WAY, other_jobs=(leaving,)))
    assert not any(isinstance(action, Delete) for action in decision.actions)


def test_the_ttl_of_an_earlier_run_s_job_is_left_to_kubernetes() -> None:
    previous = job(status=COMPLETE)
    decision = plan(observe(finetune(run=2, ttlSecondsAfterFinished=60), SUCCEEDED, other_jobs=(previous,)))
    patch = decision.actions[0]
    assert isinstance(patch, Patch)
    assert patch.operations == ({"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": 60},)
    previous["spec"]["ttlSecondsAfterFinished"] = 60
    again = plan(observe(finetune(run=2, ttlSecondsAfterFinished=60), SUCCEEDED, other_jobs=(previous,)))
    assert not any(isinstance(action, Patch) for action in again.actions)


def test_the_ttl_never_takes_a_job_whose_end_is_not_on_record_yet() -> None:
    decision = plan(observe(finetune(run=2, ttlSecondsAfterFinished=0), UNDER_WAY, other_jobs=(job(status=COMPLETE),)))
    assert not any(isinstance(action, Patch) for action in decision.actions)


# Jobs that the status does not speak of: it may never have been written


def job_of(owner: Any, **more: Any) -> dict[str, Any]:
    return job(owner, **{"status": RUNNING, **more})


def decisions(observation: Observation) -> tuple[Decision, Decision]:
    """The first one, and the one on the status that it leaves."""
    first = plan(observation)
    return first, planned(observation, dict(first.status or observation.status))


def deletes(*made: Decision) -> list[str]:
    return [action.name for decision in made for action in decision.actions if isinstance(action, Delete)]


PENDING_SECOND = status_after(observe(SECOND, job=job(SECOND, age=3)))
RUNNING_SECOND = status_after(observe(SECOND, job=job_of(SECOND)))
ENDED_SECOND = status_after(observe(SECOND, job=job(SECOND, status=COMPLETE)))
CANCELLED_SECOND = status_after(observe(finetune(run=2, cancel=True)))

UNINVITED: list[tuple[str, Observation]] = [
    ("no status was ever written", observe(SECOND)),
    ("the status speaks of it", observe(SECOND, UNDER_WAY)),
    ("the status has ended it", observe(SECOND, status_after(observe(finetune(cancel=True))))),
    ("its status is written, and it comes late", observe(SECOND, PENDING_SECOND)),
    ("the next run's Job is there, without a status", observe(SECOND, job=job(SECOND, age=1))),
    ("the next run's Job is about to end", observe(SECOND, job=job(SECOND, status={"conditions": []}))),
    ("the next run is at work", observe(SECOND, RUNNING_SECOND, job=job_of(SECOND))),
    ("the next run has ended", observe(SECOND, ENDED_SECOND, job=job(SECOND, status=COMPLETE))),
    ("the next run is cancelled", observe(finetune(run=2, cancel=True), CANCELLED_SECOND)),
    ("cancelled as it is raised", observe(finetune(run=2, cancel=True))),
    ("cancelled as it is raised, with a status", observe(finetune(run=2, cancel=True), UNDER_WAY)),
    ("suspended as it is raised", observe(finetune(run=2, suspend=True))),
    ("suspended and cancelled", observe(finetune(run=2, suspend=True, cancel=True), UNDER_WAY)),
    ("raised twice", observe(THIRD)),
    ("raised twice, with a status", observe(THIRD, UNDER_WAY)),
    ("a status of another run", observe(THIRD, PENDING_SECOND)),
]


@pytest.mark.parametrize("observation", [case[1] for case in UNINVITED], ids=[case[0] for case in UNINVITED])
@pytest.mark.parametrize("held", [False, True], ids=["at work", "suspended"])
def test_an_unfinished_job_of_another_run_is_ended_whatever_the_status_says(
    observation: Observation, held: bool
) -> None:
    stray = suspended(job(), by_us=False) if held else job(status=RUNNING)
    made = decisions(replace(observation, other_jobs=(stray,)))
    assert deletes(*made) == ["sample-1"] or deletes(made[0]) == deletes(made[1]) == ["sample-1"]
    assert not any(isinstance(action, Create) for decision in made for action in decision.actions)


def test_a_run_without_a_status_is_recorded_before_its_job_is_ended() -> None:
    """Killed between the two, the operator could tell nothing of it any more."""
    first, second = decisions(observe(SECOND, other_jobs=(job(status=RUNNING),)))
    assert first.actions == ()
    assert first.requeue == 0
    assert first.status is not None
    assert (first.status["run"], first.status["phase"]) == (2, "Pending")
    assert first.status["message"] == "Run 2 starts when run 1 has ended: its Job sample-1 is being removed."
    (record,) = first.status["history"]
    assert record == {
        "run": 1,
        "phase": "Cancelled",
        "reason": "Superseded",
        "message": "Stopped at 2026-03-01T12:00:00Z: spec.run was raised to 2.",
        "startTime": RUNNING["startTime"],
        "attempts": 1,
        "job": {"name": "sample-1", "uid": job()["metadata"]["uid"]},
        "parameters": UNDER_WAY["parameters"],
    }
    assert deletes(second) == ["sample-1"]
    assert second.status is None


def test_the_status_of_the_wanted_run_stands_while_an_earlier_one_is_recorded() -> None:
    for status, own in ((RUNNING_SECOND, job_of(SECOND)), (ENDED_SECOND, job(SECOND, status=COMPLETE))):
        first, second = decisions(observe(SECOND, status, job=own, other_jobs=(job(status=RUNNING),)))
        assert first.status is not None
        assert {**first.status, "history": None} == {**status, "history": None}
        assert [record["run"] for record in first.status["history"]] == [1]
        assert deletes(second) == ["sample-1"]


def test_every_run_that_came_to_a_job_is_recorded_the_newest_first() -> None:
    """Run 2 was raised to 3 before it had a status; the status still speaks of run 1."""
    observation = observe(THIRD, UNDER_WAY, other_jobs=(job_of(SECOND), job(status=RUNNING, deletionTimestamp=at(-1))))
    first, second = decisions(observation)
    assert first.actions == ()
    assert second.status is not None
    assert [record["run"] for record in second.status["history"]] == [2, 1]
    assert deletes(second) == ["sample-2"]
    assert planned(observation, second.status).status is None


def owned(made: dict[str, Any], holder: dict[str, Any]) -> dict[str, Any]:
    """A pod of that Job."""
    reference = {"controller": True, "uid": holder["metadata"]["uid"]}
    return {**made, "metadata": {**made["metadata"], "ownerReferences": [reference]}}


def test_a_run_that_ended_before_any_status_is_recorded_with_its_result() -> None:
    done = job(status=COMPLETE)
    pods = (owned(ended_pod(0, SAID % ARTIFACT), done), ended_pod(3, "of another Job"))
    decision = plan(observe(SECOND, other_jobs=(done,), pods=pods))
    assert [type(action) for action in decision.actions] == [Create, Create]
    assert decision.status is not None
    assert (decision.status["run"], decision.status["phase"]) == (2, "Pending")
    (record,) = decision.status["history"]
    expected = ("startTime", "completionTime", "attempts", "job", "parameters", "artifacts")
    assert record == {
        "run": 1,
        "phase": "Succeeded",
        "reason": "TrainingSucceeded",
        "message": "done",
        "loss": "0.5000",
        **{field: SUCCEEDED[field] for field in expected},
    }


def test_so_is_one_of_which_the_status_knew_only_the_beginning() -> None:
    done = job(status=COMPLETE)
    pods = (owned(ended_pod(0, SAID % ARTIFACT), done),)
    status = plan(observe(SECOND, UNDER_WAY, other_jobs=(done,), pods=pods)).status
    assert status is not None
    assert status["history"][0]["artifacts"] == SUCCEEDED["artifacts"]
    assert status["history"][0]["completionTime"] == SUCCEEDED["completionTime"]


@pytest.mark.parametrize(
    ("end", "phase"),
    [
        (job(status=COMPLETE), "Succeeded"),
        (job(status=failed(message="it broke")), "Failed"),
        (job(status=COMPLETE, deletionTimestamp=at(-1)), "Succeeded"),
        (job(status=failed(), deletionTimestamp=at(-1)), "Cancelled"),
        (job(status=RUNNING), "Cancelled"),
    ],
    ids=["succeeded", "failed", "succeeded all the same", "stopped, and therefore failed", "still to be stopped"],
)
def test_a_record_tells_how_the_run_has_really_ended(end: dict[str, Any], phase: str) -> None:
    """It may end between the record and its deletion."""
    recorded = dict(plan(observe(SECOND, other_jobs=(job(status=RUNNING),))).status or {})
    decision = plan(observe(SECOND, recorded, other_jobs=(end,)))
    (record,) = (decision.status or recorded)["history"]
    assert record["phase"] == phase
    assert planned(observe(SECOND, other_jobs=(end,)), decision.status or recorded).status is None


def test_what_has_fallen_off_the_history_is_not_recorded_again() -> None:
    status: dict[str, Any] = SUCCEEDED
    for run in range(2, 10):
        status = planned(observe(finetune(run=run)), status).status or status
    old = tuple(job(finetune(run=run), status=COMPLETE) for run in range(8, 0, -1))
    owner = finetune(run=9)
    assert planned(observe(owner, job=job(owner, age=1), other_jobs=old), status).status is None


def test_a_finished_job_of_another_run_is_left() -> None:
    for end in (COMPLETE, failed()):
        for status in ({}, UNDER_WAY, PENDING_SECOND, ENDED_SECOND):
            assert deletes(*decisions(observe(SECOND, status, other_jobs=(job(status=end),)))) == []


def test_its_ttl_is_set_once_its_end_is_on_record() -> None:
    owner = finetune(run=2, ttlSecondsAfterFinished=60)
    first, second = decisions(observe(owner, other_jobs=(job(status=COMPLETE),)))
    assert not any(isinstance(action, Patch) for action in first.actions)
    assert [type(action) for action in second.actions][:1] == [Patch]


def test_a_run_that_has_been_lowered_leaves_no_two_either() -> None:
    """The API server refuses that; whoever gets around it has one Job all the same."""
    made = decisions(observe(SECOND, other_jobs=(job_of(THIRD),)))
    assert deletes(*made) == ["sample-3"]


def test_nothing_is_ended_or_recorded_once_the_finetune_is_being_deleted() -> None:
    for status in ({}, UNDER_WAY):
        decision = plan(observe(replace(SECOND, deleting=True), status, other_jobs=(job(status=RUNNING),)))
        assert (decision.actions, decision.status) == ((), None)


class TestAtAProvider:
    """The next run is one at a provider; a Job of an earlier one must end all the same."""

    NEXT = finetune(run=2, backend="oxen", recipe="imageToText")
    CANCELLED = status_after(
        observe(finetune(run=2, backend="oxen", recipe="imageToText", cancel=True), capabilities=CAPABILITIES)
    )

    @pytest.mark.parametrize("status", [{}, UNDER_WAY, CANCELLED], ids=["no status", "under way", "over"])
    @pytest.mark.parametrize("finalizers", [(), (FINALIZER,)], ids=["", "with our finalizer"])
    def test_the_job_is_ended_and_its_run_recorded(self, status: dict[str, Any], finalizers: tuple[str, ...]) -> None:
        owner = replace(self.NEXT, finalizers=finalizers)
        first, second = decisions(observe(owner, status, other_jobs=(job(status=RUNNING),), capabilities=CAPABILITIES))
        assert deletes(first, second)[0] == "sample-1"
        last = second.status or first.status
        assert last is not None
        assert [record["run"] for record in last["history"]] == [1]
        assert last["run"] == 2

    def test_nothing_begins_at_the_provider_before_it_is_gone(self) -> None:
        stray = job(status=RUNNING, deletionTimestamp=at(-1))
        status = status_after(observe(self.NEXT, other_jobs=(stray,), capabilities=CAPABILITIES))
        decision = plan(observe(self.NEXT, status, other_jobs=(stray,), capabilities=CAPABILITIES))
        assert (decision.actions, decision.status) == ((), None)
        assert status["message"] == "Run 2 starts when run 1 has ended: its Job sample-1 is being removed."
        held = plan(observe(self.NEXT, status, pods=(pod("Running"),), capabilities=CAPABILITIES))
        assert held.actions == ()
        assert plan(observe(self.NEXT, status, pods=(), capabilities=CAPABILITIES)).actions == (Finalize(present=True),)

    @pytest.mark.parametrize(
        ("cancelled", "tried", "others"),
        [(-1.0, False, [Call]), (-400.0, True, [Finalize])],
        ids=["still waiting", "given up"],
    )
    def test_it_is_ended_too_while_another_run_is_being_stopped_at_a_provider(
        self, cancelled: float, tried: bool, others: list[type]
    ) -> None:
        """Run 1 was a Job, run 2 is at a provider, and run 3 is wanted, as a Job."""
        assert self.NEXT.spec is not None
        data = {"attempt": "1/2026-03-01T11:00:00+00:00", "starting": "1/2026-03-01T11:00:01+00:00"}
        data["backend"] = json.dumps(self.NEXT.spec.backend.wire())
        upstream = {"provider": "oxen", "id": "r", "marker": "m", "cancelTime": at(cancelled), "data": data}
        status = {"run": 2, "backend": "oxen", "upstream": upstream, "history": [{"run": 1}]}
        owner = replace(THIRD, finalizers=(FINALIZER,))
        refused = CallResult(step=Step.CANCEL, time=NOW, failure=TRANSIENT, failures=1)
        decision = plan(
            observe(
                owner,
                status,
                other_jobs=(job(status=RUNNING),),
                capabilities=CAPABILITIES,
                upstream=UpstreamView(results={Step.CANCEL: refused} if tried else {}),
            )
        )
        assert deletes(decision) == ["sample-1"]
        assert [type(action) for action in decision.actions if not isinstance(action, Delete)] == others
