"""`spec.suspend`: held back before the start, stopped at its next checkpoint after it, and let go on again."""

from __future__ import annotations

from finetune_operator.controller.model import Patch, read_finetune
from finetune_operator.controller.plan import plan
from finetune_operator.controller.trim import trim_job
from tests.unit.observations import COMPLETE, RUNNING, body, finetune, job, observe, suspended

HELD = finetune(suspend=True)
POINTER = "/metadata/annotations/finetune.dev~1suspended-by-spec"


def operations(decision) -> list[dict]:
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


def test_once_is_enough() -> None:
    assert plan(observe(HELD, job=suspended(job(), by_us=True))).actions == ()


def test_a_finished_job_is_left_alone() -> None:
    assert plan(observe(HELD, job=job(status=COMPLETE))).actions == ()
