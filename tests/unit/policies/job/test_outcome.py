"""What the Job says of the run goes into the status."""

from __future__ import annotations

import json

import orjson
import pytest

from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    ANOTHER_UID,
    COMPLETE,
    RETRYING,
    RUNNING,
    STARTED,
    at,
    condition,
    ended_pod,
    failed,
    finetune,
    job,
    observe,
    planned,
    status_after,
)


def test_the_parameters_are_those_that_the_job_carries() -> None:
    """An operator with other defaults has been rolled out since: the run's record does not change with it."""
    carrying = job(status=RUNNING)
    annotations = carrying["spec"]["template"]["metadata"]["annotations"]
    config = json.loads(annotations["finetune.dev/config"])
    config["recipe"]["imageToText"]["loraRank"] = 77
    annotations["finetune.dev/config"] = json.dumps(config)
    status = plan(observe(job=carrying)).status
    assert status is not None
    assert status["parameters"]["loraRank"] == 77


DEEP = ['{"recipe": {"imageToText": {"x": %s}}}' % ("[" * levels + "]" * levels) for levels in (300, 2000)]


@pytest.mark.parametrize(
    "config",
    ["", "[]", "null", '{"recipe": 3}', '{"recipe": {"a": 1}}', "{", *DEEP],
    ids=lambda config: config[:40],
)
def test_a_config_that_somebody_has_broken_is_no_reason_to_fail(config: str) -> None:
    carrying = job(status=RUNNING)
    carrying["spec"]["template"]["metadata"]["annotations"]["finetune.dev/config"] = config
    status = plan(observe(job=carrying)).status
    assert status is not None
    assert status["phase"] == "Running"
    assert orjson.dumps(status)


def test_another_finetune_s_job_says_nothing() -> None:
    status = plan(observe(job=job(finetune(uid=ANOTHER_UID), status=COMPLETE))).status
    assert status is not None
    assert status["phase"] != "Succeeded"
    assert "job" not in status


def test_results_of_a_failed_attempt_are_kept_for_the_next() -> None:
    said = '{"state":"Preempted","reason":"Signal","step":4,"totalSteps":8,"checkpoint":{"step":4,"uri":"pvc://c/4"}}'
    retrying = observe(job=job(status={**RUNNING, "failed": 1}), pods=(ended_pod(75, said),))
    status = plan(retrying).status
    assert status is not None
    assert status["checkpoint"] == {"step": 4, "uri": "pvc://c/4", "time": at(-6)}
    done = planned(observe(job=job(status=COMPLETE)), status).status
    assert done is not None
    assert done["checkpoint"]["step"] == 4


@pytest.mark.parametrize(
    "between",
    [
        {"active": 0, "ready": 0, "uncountedTerminatedPods": {"succeeded": ["pod-uid"]}},
        {"active": 0, "ready": 0, "uncountedTerminatedPods": {"failed": ["pod-uid"]}, "failed": 1},
        {"active": 0, "conditions": [condition("SuccessCriteriaMet")]},
        {"active": 1, "terminating": 1, "conditions": [condition("FailureTarget", "DeadlineExceeded")]},
    ],
)
def test_a_job_that_is_still_counting_its_pods_is_waited_for(between: dict) -> None:
    """Between the pod's end and the Job's the Job looks as if it were pending."""
    running = status_after(observe(job=job(status=RUNNING)))
    decision = plan(observe(None, running, job=job(status={"startTime": STARTED, **between})))
    assert decision.status is None
    assert decision.actions == ()
    assert decision.requeue == 30
    assert plan(observe(finetune(cancel=True), running, job=job(status=between))).actions != ()


def test_the_time_to_live_runs_from_the_very_write_that_ends_the_run() -> None:
    """No event follows the operator's own write: who does not ask to be woken sleeps until the next sweep."""
    assert plan(observe(finetune(ttlSecondsAfterFinished=60), job=job(status=COMPLETE))).requeue == 60


class TestProgress:
    RUN = observe(job=job(status=RUNNING))

    def test_the_first_report_is_shown_at_once(self) -> None:
        report = {"percentage": 3, "lastUpdateTime": at(-1)}
        status = plan(observe(job=job(status=RUNNING), report=report)).status
        assert status is not None
        assert status["progress"] == report

    @pytest.mark.parametrize(("age", "shown", "requeue"), [(4, False, 6), (9, False, 1), (10, True, None)])
    def test_then_one_per_interval(self, age: int, shown: bool, requeue: float | None) -> None:
        status = {**status_after(self.RUN), "progress": {"percentage": 3, "lastUpdateTime": at(-age)}}
        report = {"percentage": 4, "lastUpdateTime": at(0)}
        decision = plan(observe(None, status, job=job(status=RUNNING), report=report))
        assert (decision.status is not None) is shown
        assert decision.requeue == requeue

    def test_a_report_that_is_shown_already_changes_nothing(self) -> None:
        report = {"percentage": 3, "lastUpdateTime": at(-100)}
        status = {**status_after(self.RUN), "progress": report}
        assert plan(observe(None, status, job=job(status=RUNNING), report=report)).status is None

    def test_the_last_word_is_the_termination_message_s(self) -> None:
        report = {"percentage": 90, "step": 9, "epoch": 0.9, "lastUpdateTime": at(-20)}
        status = status_after(observe(job=job(status=RUNNING), report=report))
        said = '{"state":"Succeeded","reason":"Done","step":10,"totalSteps":10,"loss":0.25}'
        end = observe(job=job(status=COMPLETE), pods=(ended_pod(0, said),), report=report)
        final = planned(end, status).status
        assert final is not None
        assert final["progress"] == {
            "summary": "100% 10/10",
            "percentage": 100,
            "step": 10,
            "totalSteps": 10,
            "epoch": 0.9,
            "loss": "0.2500",
            "estimatedRemainingSeconds": 0,
            "lastUpdateTime": at(-6),
        }

    def test_the_checkpoint_and_the_base_model_come_with_the_report(self) -> None:
        facts = {"checkpoint": {"step": 4, "uri": "pvc://a/b", "time": at(-30)}, "baseModelRevision": "abc"}
        report = {"percentage": 3, "lastUpdateTime": at(-1)}
        status = status_after(observe(job=job(status=RUNNING), report=report, facts=facts))
        assert {name: status[name] for name in facts} == facts
        for state in ({"active": 0, "startTime": STARTED}, RETRYING, failed()):  # queued again, preempted, over
            after = planned(observe(job=job(status=state)), status).status or status
            assert after["checkpoint"] == facts["checkpoint"]

    @pytest.mark.parametrize(("checkpoint", "kept"), [('{"step":4,"uri":"pvc://a/b"}', True), ("null", False)])
    def test_checkpoints_that_went_with_the_result_are_not_named(self, checkpoint: str, kept: bool) -> None:
        facts = {"checkpoint": {"step": 4, "uri": "s3://bucket/.finetune-checkpoints/a-1-u/step-4", "time": at(-30)}}
        status = {**status_after(self.RUN), **facts}
        said = f'{{"state":"Succeeded","reason":"Done","step":10,"totalSteps":10,"checkpoint":{checkpoint}}}'
        end = observe(job=job(status=COMPLETE), pods=(ended_pod(0, said),), facts=facts)
        final = planned(end, status).status
        assert final is not None
        assert ("checkpoint" in final) is kept

    @pytest.mark.parametrize(
        ("step", "written", "shown"), [(8, -10, 8), (4, -10, 4), (2, -10, 2), (2, -60, 4)], ids=str
    )
    def test_the_newest_checkpoint_is_shown(self, step: int, written: float, shown: int) -> None:
        """An attempt that had to begin anew has an earlier step; an ended pod's words are older than a report."""
        known = {"step": 4, "uri": "pvc://a/b", "time": at(-30)}
        status = {**status_after(self.RUN), "checkpoint": known}
        facts = {"checkpoint": {"step": step, "uri": "pvc://a/b", "time": at(written)}}
        report = {"percentage": 3, "lastUpdateTime": at(-1)}
        found = planned(observe(job=job(status=RUNNING), report=report, facts=facts), status).status or status
        assert found["checkpoint"]["step"] == shown
        assert (found["checkpoint"] == known) is (shown == 4)

    def test_a_failed_run_keeps_what_was_reported(self) -> None:
        status = status_after(observe(job=job(status=RUNNING), report={"percentage": 50, "lastUpdateTime": at(-1)}))
        final = planned(observe(job=job(status=failed())), status).status
        assert final is not None
        assert final["progress"]["percentage"] == 50
