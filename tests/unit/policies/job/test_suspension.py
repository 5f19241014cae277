"""`spec.suspend`: held back before the start, stopped at its next checkpoint after it, and let go on again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_operator.controller.model import Admission, Change, Delete, Patch, read_finetune
from finetune_operator.controller.plan import plan
from finetune_operator.controller.trim import trim_job
from tests.unit.observations import (
    COMPLETE,
    NOW,
    RUNNING,
    body,
    changed,
    conditions,
    finetune,
    job,
    observe,
    suspended,
)

HELD = finetune(suspend=True)
POINTER = "/metadata/annotations/finetune.dev~1suspended-by-spec"


def operations(decision) -> list[dict]:
    """Of the one patch of the Job."""
    (patch,) = decision.actions
    assert isinstance(patch, Patch)
    assert (patch.name, patch.uid) == ("sample-1", job()["metadata"]["uid"])
    return list(patch.operations)


def test_nothing_is_created_before_the_start() -> None:
    decision = plan(observe(HELD))
    assert decision.actions == ()
    assert decision.status is not None
    assert decision.status["phase"] == "Suspended"


def test_a_running_job_is_suspended_and_marked_as_ours_in_one_write() -> None:
    assert operations(plan(observe(HELD, job=job(status=RUNNING)))) == [
        {"op": "add", "path": POINTER, "value": "true"},
        {"op": "add", "path": "/spec/suspend", "value": True},
    ]


def test_a_job_whose_annotations_somebody_has_stripped_too() -> None:
    stripped = job(status=RUNNING)
    del stripped["metadata"]["annotations"]
    assert operations(plan(observe(HELD, job=stripped)))[0] == {
        "op": "add",
        "path": "/metadata/annotations",
        "value": {},
    }


def test_annotations_of_others_which_the_cache_does_not_keep_stay() -> None:
    annotated = job(status=RUNNING, annotations={"theirs": "1"})
    trim_job(annotated)
    assert operations(plan(observe(HELD, job=annotated)))[0] == {"op": "add", "path": POINTER, "value": "true"}


def test_what_we_suspended_we_let_go_on() -> None:
    assert operations(plan(observe(job=suspended(job(), by_us=True)))) == [
        {"op": "remove", "path": POINTER},
        {"op": "add", "path": "/spec/suspend", "value": False},
    ]


def test_what_a_queue_has_suspended_stays_the_queue_s() -> None:
    assert plan(observe(job=suspended(job(), by_us=False))).actions == ()


def test_a_queued_job_is_let_go_by_its_queue() -> None:
    manifest = body()
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
    owner = read_finetune(manifest)
    decision = plan(observe(owner, job=suspended(job(owner), by_us=True)))
    assert operations(decision) == [{"op": "remove", "path": POINTER}]


WORKLOAD = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "metadata": {"name": "job-sample-1-abcde", "uid": "workload"},
    "spec": {},
}
INACTIVE = {**WORKLOAD, "spec": {"active": False}}


def admission(decision) -> bool:
    """Whether the Workload is to be active."""
    (action,) = decision.actions
    assert isinstance(action, Admission)
    assert (action.api_version, action.name, action.uid) == (
        "kueue.x-k8s.io/v1beta2",
        "job-sample-1-abcde",
        "workload",
    )
    return action.active


def marked(value: str, *, held: bool) -> dict:
    made = suspended(job(status={} if held else RUNNING), by_us=True)
    made["metadata"]["annotations"]["finetune.dev/suspended-by-spec"] = value
    made["spec"]["suspend"] = held
    return made


class TestUnderKueue:
    """A Job that Kueue has admitted is started again by it; only its Workload can be held."""

    def test_the_job_is_marked_first_and_left_to_kueue(self) -> None:
        decision = plan(observe(HELD, job=job(status=RUNNING), workload=WORKLOAD, kueue=True))
        assert operations(decision) == [{"op": "add", "path": POINTER, "value": "workload-deactivated"}]

    def test_then_its_workload_is_deactivated(self) -> None:
        held = marked("workload-deactivated", held=False)
        assert admission(plan(observe(HELD, job=held, workload=WORKLOAD, kueue=True))) is False

    def test_a_job_that_stays_unsuspended_with_its_workload_inactive_is_suspended(self) -> None:
        """Kueue may be down; an inactive Workload is not admitted, so that nobody fights."""
        held = marked("workload-deactivated", held=False)
        assert operations(plan(observe(HELD, job=held, workload=INACTIVE, kueue=True)))[1] == {
            "op": "add",
            "path": "/spec/suspend",
            "value": True,
        }

    def test_then_there_is_nothing_to_do(self) -> None:
        held = marked("workload-deactivated", held=True)
        decision = plan(observe(HELD, job=held, workload=INACTIVE, kueue=True))
        assert decision.actions == ()
        assert decision.status is not None
        assert (decision.status["phase"], decision.status["reason"]) == ("Suspended", "SuspendedBySpec")

    def test_what_was_deactivated_is_activated_before_the_mark_goes(self) -> None:
        held = marked("workload-deactivated", held=True)
        assert admission(plan(observe(job=held, workload=INACTIVE, kueue=True))) is True
        unmark = [{"op": "remove", "path": POINTER}]
        assert operations(plan(observe(job=held, workload=WORKLOAD, kueue=True))) == unmark

    def test_what_the_administrator_has_deactivated_stays_so(self) -> None:
        queued = suspended(job(), by_us=False)
        first = operations(plan(observe(HELD, job=queued, workload=INACTIVE, kueue=True)))
        assert first[0] == {"op": "add", "path": POINTER, "value": "true"}
        held = marked("true", held=True)
        assert operations(plan(observe(job=held, workload=INACTIVE, kueue=True))) == [{"op": "remove", "path": POINTER}]

    def test_a_queue_without_kueue_holds_nothing(self) -> None:
        """Somebody has uninstalled it while the run was suspended."""
        manifest = body()
        manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpu"}
        owner = read_finetune(manifest)
        resumed = operations(plan(observe(owner, job=suspended(job(owner), by_us=True), kueue=False)))
        assert resumed[-1] == {"op": "add", "path": "/spec/suspend", "value": False}


class TestUnsuspendedBySomebodyElse:
    AGAIN = marked("true", held=False)

    def test_it_is_suspended_again(self) -> None:
        assert operations(plan(observe(HELD, job=self.AGAIN)))[-1] == {
            "op": "add",
            "path": "/spec/suspend",
            "value": True,
        }

    def test_who_does_so_again_and_again_is_told_of_and_not_fought_with_all_the_time(self) -> None:
        (patch,) = plan(observe(HELD, job=self.AGAIN)).actions
        assert isinstance(patch, Patch)
        for times, wait in ((1, 1), (2, 2), (5, 16), (60, 300)):
            last = {"suspend": Change(patch.uid, patch.operations, NOW, times)}
            decision = plan(observe(HELD, job=self.AGAIN, changes=last))
            assert (decision.actions, decision.requeue) == ((), wait)
            assert decision.status is not None
            assert decision.status["phase"] == "Running"
            assert conditions(decision.status)["Accepted"] == ("True", "Overridden")
            assert "Somebody undoes what the operator sets as the Job's suspend" in str(decision.status["conditions"])
            assert decision.announcement is not None
            later = NOW + timedelta(seconds=wait)
            assert plan(observe(HELD, job=self.AGAIN, changes=last, now=later)).actions == (patch,)


@pytest.mark.parametrize("status", [RUNNING, {}])
def test_a_spec_that_is_not_valid_any_more_is_suspended_and_cancelled_all_the_same(status: dict) -> None:
    for switch, kind in (("suspend", Patch), ("cancel", Delete)):
        broken = read_finetune(changed(changed(body(), f"spec.{switch}", True), "spec.recipe.imageToText.tomorrow", 1))
        assert broken.spec is None
        (action,) = plan(observe(broken, job=job(status=status))).actions
        assert isinstance(action, kind)


def test_once_is_enough() -> None:
    assert plan(observe(HELD, job=suspended(job(), by_us=True))).actions == ()


def test_a_finished_job_is_left_alone() -> None:
    assert plan(observe(HELD, job=job(status=COMPLETE))).actions == ()
