"""Exactly one Job (and claim) for a run: created once, adopted by uid, never a stranger's, never applied again."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.controller.model import Change, Create, Delete, Patch, Refusal, read_finetune
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    ANOTHER_UID,
    NOW,
    RUNNING,
    at,
    body,
    changed,
    claim,
    conditions,
    finetune,
    job,
    observe,
    planned,
    pod,
    status_after,
)

Object = dict[str, Any]

STRANGER = changed(job(), "metadata.ownerReferences", ...)
NAMESAKE = finetune(uid=ANOTHER_UID)


def test_the_job_and_its_claim_belong_to_the_finetune() -> None:
    made = [action.body for action in plan(observe()).actions if isinstance(action, Create)]
    assert [child["kind"] for child in made] == ["PersistentVolumeClaim", "Job"]
    for child in made:
        assert child["metadata"]["name"] == "sample-1"
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (finetune().uid, True)


def test_a_claim_that_the_user_brings_is_not_created() -> None:
    owner = read_finetune(changed(body(), "spec.backend.job.storage", {"claimName": "mine"}))
    (create,) = plan(observe(owner)).actions
    assert isinstance(create, Create)
    assert create.body["kind"] == "Job"


def test_our_own_job_is_never_created_or_applied_again() -> None:
    queued = job()
    queued["spec"]["template"]["spec"]["nodeSelector"] = {"cloud": "spot"}  # Kueue has written into it
    assert plan(observe(job=queued)).actions == ()


@pytest.mark.parametrize("written", [{"questionColumn": 5}, {"tomorrow": [[1]]}, {"imageColumns": [[[]]]}])
def test_parameters_that_somebody_else_has_recorded_are_resolved_anew(written: Object) -> None:
    """The API server takes anything there."""
    status = {**status_after(observe(job=job(status=RUNNING))), "parameters": written}
    assert config_made(status) == config_made({})


def test_parameters_that_were_recorded_are_those_of_the_next_job() -> None:
    status = status_after(observe(job=job(status=RUNNING)))
    status["parameters"] = {**status["parameters"], "seed": 43}
    assert config_made(status)["recipe"]["imageToText"]["seed"] == 43


def config_made(status: Object) -> Object:
    """The trainer's configuration in the Job that is created."""
    (made,) = [
        action.body
        for action in plan(observe(status=status)).actions
        if isinstance(action, Create) and action.body["kind"] == "Job"
    ]
    config: Object = json.loads(made["spec"]["template"]["metadata"]["annotations"]["finetune.dev/config"])
    return config


def test_a_stranger_s_job_is_not_touched() -> None:
    decision = plan(observe(job=STRANGER))
    assert decision.actions == ()
    assert decision.requeue == 30
    assert decision.status is not None
    assert conditions(decision.status)["Stalled"] == ("True", "NameConflict")
    assert "Job sample-1 exists and belongs to somebody else" in decision.status["message"]


def test_nor_a_stranger_s_claim() -> None:
    decision = plan(observe(foreign_claim=changed(claim(finetune()), "metadata.ownerReferences", ...)))
    assert decision.actions == ()
    assert decision.status is not None
    assert conditions(decision.status)["Stalled"] == ("True", "NameConflict")
    assert "PersistentVolumeClaim sample-1" in decision.status["message"]


@pytest.mark.parametrize("spec", [{"cancel": True}, {"suspend": True}, {"ttlSecondsAfterFinished": 0}, {"run": 1}])
def test_a_stranger_s_job_is_never_touched_whatever_the_switches_say(spec: dict) -> None:
    for status in ({}, status_after(observe(job=job(status=RUNNING))), status_after(observe(finetune(cancel=True)))):
        assert plan(observe(finetune(**spec), status, job=STRANGER)).actions == ()


@pytest.mark.parametrize("child", [{"job": job(NAMESAKE)}, {"foreign_claim": claim(NAMESAKE)}], ids=["job", "claim"])
def test_a_predecessor_s_child_is_waited_for(child: dict) -> None:
    decision = plan(observe(**child))
    assert decision.actions == ()
    assert decision.requeue == 1
    assert decision.status is not None
    assert conditions(decision.status)["Reconciling"] == ("True", "WaitingForGarbageCollection")
    assert "Stalled" not in conditions(decision.status)


def test_a_job_that_is_being_deleted_is_created_again_once_it_is_gone() -> None:
    leaving = job(status=RUNNING, deletionTimestamp=at(-1))
    assert plan(observe(job=leaving)).actions == ()


def test_a_pod_that_outlives_its_job_is_waited_for() -> None:
    """Two pods must never write one output."""
    status = status_after(observe(job=job(status=RUNNING)))
    decision = plan(observe(None, status, pods=(pod("Failed"), pod("Running", name="sample-1-xyz"))))
    assert decision.actions == ()
    assert decision.requeue == 2
    assert decision.status is not None
    assert "sample-1-xyz" in str(decision.status["conditions"])
    again = plan(observe(None, status, pods=(pod("Failed"), pod("Succeeded"))))
    assert [type(action) for action in again.actions] == [Create, Create]


@pytest.mark.parametrize(
    ("wanted", "operation"),
    [
        (60, {"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 60}),
        (None, {"op": "remove", "path": "/spec/activeDeadlineSeconds"}),
    ],
)
def test_the_deadline_follows_the_spec(wanted: int | None, operation: dict) -> None:
    running = job(finetune(activeDeadlineSeconds=3600), status=RUNNING)
    owner = finetune() if wanted is None else finetune(activeDeadlineSeconds=wanted)
    (patch,) = plan(observe(owner, job=running)).actions
    assert isinstance(patch, Patch)
    assert patch.operations == (operation,)


def test_labels_that_somebody_has_taken_off_are_put_back_beside_theirs() -> None:
    """Those of others need not be known: the cache drops them."""
    stripped = job(status=RUNNING, labels={"team": "ocr", "finetune.dev/run": "7"})
    (patch,) = plan(observe(job=stripped)).actions
    assert isinstance(patch, Patch)
    assert {each["op"] for each in patch.operations} == {"add"}
    added = {each["path"].removeprefix("/metadata/labels/"): each["value"] for each in patch.operations}
    assert added == {key.replace("/", "~1"): value for key, value in job()["metadata"]["labels"].items()}


def test_labels_that_somebody_has_taken_off_are_put_back_where_there_are_none() -> None:
    stripped = job(status=RUNNING)
    del stripped["metadata"]["labels"]
    (patch,) = plan(observe(job=stripped)).actions
    assert isinstance(patch, Patch)
    (operation,) = patch.operations
    assert (operation["path"], operation["value"]) == ("/metadata/labels", job()["metadata"]["labels"])


class TestOverridden:
    """A mutating policy puts back what the operator sets, on every write; or another controller does, afterwards."""

    RUN = job(status=RUNNING, labels={"team": "ocr"})
    BOUND = changed(job(status=RUNNING), "spec.activeDeadlineSeconds", 3600)

    def last(self, held: Object, **fields: Any) -> dict[str, Change]:
        (patch,) = plan(observe(job=held)).actions
        assert isinstance(patch, Patch)
        return {patch.about: Change(patch.uid, patch.operations, NOW, **fields)}

    @pytest.mark.parametrize("held", [RUN, BOUND], ids=["labels", "deadline"])
    def test_it_is_told_once_and_tried_again_from_time_to_time(self, held: Object) -> None:
        seen = observe(job=held, changes=self.last(held, kept=False))
        decision = plan(seen)
        assert decision.actions == ()
        assert decision.requeue == 30
        assert decision.status is not None
        assert decision.status["phase"] == "Running"
        assert conditions(decision.status)["Accepted"] == ("True", "Overridden")
        assert decision.announcement is not None
        assert decision.announcement.reason == "Overridden"
        assert decision.announcement.message.startswith("A policy of the cluster undoes what the operator sets")
        again = planned(seen, decision.status)
        assert (again.status, again.announcement) == (None, None)

    def test_what_is_refused_is_told_in_the_api_servers_words(self) -> None:
        told = plan(observe(job=self.BOUND, changes=self.last(self.BOUND, kept=False, refusal="must be 3600")))
        assert told.announcement is not None
        assert told.announcement.message == (
            "The API server refuses the change of the Job's activeDeadlineSeconds: must be 3600"
        )

    def test_what_is_about_another_job_or_another_value_is_no_reason_to_wait(self) -> None:
        other = self.last(self.BOUND, kept=False)
        (about,) = other
        for change in (other[about]._replace(uid="another"), other[about]._replace(operations=())):
            assert len(plan(observe(job=self.BOUND, changes={about: change})).actions) == 1

    def test_a_job_that_the_watch_does_not_show_is_looked_at_by_the_clock(self) -> None:
        assert plan(observe(job=self.RUN, changes=self.last(self.RUN, times=9))).requeue == 30


class TestClaimThatIsGone:
    WAITING = observe(
        job=job(status={"active": 1, "ready": 0}),
        pods=(pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": "not found"}]),),
        claim_gone=True,
    )

    def test_another_one_is_made_and_said_to_be_empty(self) -> None:
        status = {"run": 1, "checkpoint": {"step": 4}}
        decision = planned(self.WAITING, status)
        (create,) = decision.actions
        assert isinstance(create, Create)
        assert create.body == claim(finetune())
        assert decision.status is not None
        assert decision.status["reason"] == "VolumeNotReady"
        assert "The claim sample-1 was deleted" in decision.status["message"]
        assert "checkpoint" not in decision.status
        assert decision.announcement is not None

    def test_the_users_own_claim_is_not_made(self) -> None:
        owner = read_finetune(changed(body(), "spec.backend.job.storage", {"claimName": "mine"}))
        seen = observe(owner, job=job(owner, status={"active": 1}), claim_gone=True)
        assert plan(seen).actions == ()


class TestRefused:
    QUOTA = Refusal(403, 'jobs "sample-1" is forbidden: exceeded quota: gpus', NOW, generation=1)

    def test_a_quota_is_named_and_tried_again_later(self) -> None:
        decision = plan(observe(refusal=self.QUOTA))
        assert decision.actions == ()
        assert decision.requeue == 30
        assert decision.status is not None
        assert decision.status["reason"] == "QuotaExceeded"
        assert "exceeded quota: gpus" in decision.status["message"]
        assert decision.announcement is not None

    def test_then_it_is_tried_again(self) -> None:
        decision = plan(observe(refusal=self.QUOTA, now=NOW + timedelta(seconds=30)))
        assert [type(action) for action in decision.actions] == [Create, Create]

    def test_a_quota_has_room_again_without_a_word_and_is_asked_as_often_as_ever(self) -> None:
        assert plan(observe(refusal=self.QUOTA._replace(times=20))).requeue == 30

    def test_another_spec_is_tried_at_once(self) -> None:
        decision = plan(observe(finetune(generation=2, run=2), refusal=self.QUOTA))
        assert [type(action) for action in decision.actions] == [Create, Create]


def test_the_parameters_that_the_status_has_are_those_of_the_next_job() -> None:
    """A Job that was deleted by hand comes back the same, whatever the defaults of the operator are by now."""
    status = status_after(observe(job=job(status=RUNNING)))
    status["parameters"] = {**status["parameters"], "loraRank": 77}
    made = plan(observe(None, status, pods=())).actions[-1]
    assert isinstance(made, Create)
    config = json.loads(made.body["spec"]["template"]["metadata"]["annotations"]["finetune.dev/config"])
    assert config["recipe"]["imageToText"]["loraRank"] == 77


def test_nothing_here_deletes() -> None:
    for held in (None, job(), STRANGER, job(NAMESAKE)):
        assert not any(isinstance(action, Delete) for action in plan(observe(job=held)).actions)
