"""A run's start, deadline and attempts over suspensions, preemptions and Jobs that are created again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from finetune_operator.controller.model import Create, Patch, read_finetune
from finetune_operator.controller.plan import plan
from tests.unit.observations import (
    COMPLETE,
    NOW,
    RUNNING,
    STARTED,
    at,
    body,
    finetune,
    job,
    observe,
    planned,
    pod,
    status_after,
    suspended,
)

Object = dict[str, Any]
FIRST = observe(job=job(status=RUNNING))


def running(started: str = STARTED, **counts: int) -> Object:
    return {"active": 1, "ready": 1, "startTime": started, **counts}


def test_the_start_is_that_of_the_run_and_not_of_what_was_resumed() -> None:
    resumed = observe(job=job(status=running(at(-5))))
    again = observe(job=job(status=running(at(-2)), uid="another"), pods=())
    status = status_after(FIRST, observe(finetune(suspend=True), job=suspended(job(), by_us=True)), resumed, again)
    assert status["startTime"] == STARTED
    assert status["runningTime"] == at(0)
    done = planned(observe(job=job(status={**COMPLETE, "startTime": at(-2)}, uid="another")), status).status
    assert done is not None
    assert (done["startTime"], done["completionTime"]) == (STARTED, at(-5))


def test_a_job_whose_start_a_queue_has_cleared_keeps_the_runs() -> None:
    status = status_after(FIRST)
    held = suspended(job(status={}), by_us=False)
    after = planned(observe(job=held), status).status
    assert after is not None
    assert after["startTime"] == STARTED


class TestDeadline:
    OWNER = finetune(activeDeadlineSeconds=600)

    def patched(self, status: Object, held: Object, owner: Any = None) -> int | None:
        decision = plan(observe(owner or self.OWNER, status, job=held))
        if not decision.actions:
            return None
        (patch,) = decision.actions
        assert isinstance(patch, Patch)
        (operation,) = patch.operations
        return int(operation["value"])

    def test_a_resumed_job_gets_what_is_left(self) -> None:
        status = {"run": 1, "startTime": at(-500), "job": {"name": "sample-1", "uid": "x"}}
        assert self.patched(status, job(self.OWNER, status=running(at(-100)))) == 200
        assert self.patched({**status, "startTime": at(-5000)}, job(self.OWNER, status=running(at(-100)))) == 1

    def test_what_differs_by_moments_is_left_alone(self) -> None:
        status = {"run": 1, "startTime": at(-104)}
        assert self.patched(status, job(self.OWNER, status=running(at(-100)))) is None

    def test_the_first_start_has_all_of_it(self) -> None:
        assert self.patched({"run": 1, "startTime": STARTED}, job(self.OWNER, status=RUNNING)) is None
        assert self.patched({}, job(finetune(activeDeadlineSeconds=60), status=RUNNING)) == 600

    def test_what_is_suspended_gets_it_when_it_goes_on(self) -> None:
        held = suspended(job(self.OWNER, status={}), by_us=False)
        assert self.patched({"run": 1, "startTime": at(-500)}, held) is None

    def test_a_job_that_is_created_again_gets_what_is_left(self) -> None:
        status = status_after(observe(self.OWNER, job=job(self.OWNER, status=RUNNING)))
        made = plan(observe(self.OWNER, status, pods=(), now=NOW + timedelta(seconds=50))).actions[-1]
        assert isinstance(made, Create)
        assert made.body["spec"]["activeDeadlineSeconds"] == 500
        late = plan(observe(self.OWNER, status, pods=(), now=NOW + timedelta(hours=9))).actions[-1]
        assert isinstance(late, Create)
        assert late.body["spec"]["activeDeadlineSeconds"] == 1

    def test_another_run_begins_anew(self) -> None:
        second = finetune(activeDeadlineSeconds=600, run=2)
        status = {"run": 1, "startTime": at(-500)}
        assert self.patched(status, job(second, status=running(at(-100))), second) is None


LIFE: list[tuple[Object, bool, int]] = [
    # what the Job says, whether it is suspended, and the attempts of the run by then
    ({"active": 1}, False, 1),
    (running(), False, 1),
    ({"terminating": 1, "startTime": STARTED}, False, 1),
    ({"startTime": STARTED}, False, 1),  # gone, and not counted: it was disrupted
    ({"active": 1, "startTime": STARTED}, False, 2),
    (running(), False, 2),
    ({"terminating": 1, "startTime": STARTED}, False, 2),  # somebody has deleted it: it will count
    ({"failed": 1, "startTime": STARTED}, False, 2),
    ({"failed": 1, "active": 1, "startTime": STARTED}, False, 3),
    ({"failed": 1, "active": 1, "startTime": STARTED}, True, 3),
    ({"failed": 1, "terminating": 1}, True, 3),
    ({"failed": 1, "terminating": 1, "startTime": at(-1)}, False, 3),  # resumed before that pod has ended
    ({"failed": 1, "active": 1, "startTime": at(-1)}, False, 4),
    ({"failed": 1}, True, 4),
    ({"failed": 2}, True, 4),  # the one that was suspended is counted after all
    ({"failed": 2, "active": 1, "startTime": at(-1)}, False, 5),
]


def test_attempts_over_a_life() -> None:
    status: Object = {}
    for number, (says, held, attempts) in enumerate(LIFE):
        made = job(status=says)
        seen = observe(job=suspended(made, by_us=False) if held else made, pods=())
        status = planned(seen, status).status or status
        assert status.get("attempts") == attempts, number
        assert planned(seen, status).status is None, "looking again counts nothing"
    another = planned(observe(job=job(status={"active": 1}, uid="another"), pods=()), status).status
    assert another is not None
    assert another["attempts"] == 6


def test_disruptions_are_counted_once_each_and_outlast_their_pods() -> None:
    def lost(name: str, age: float, message: str, phase: str = "Failed") -> Object:
        target = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": message}
        return pod(phase, name=name, age=age, conditions=[target])

    waiting = job(status={"active": 1, "ready": 0, "startTime": STARTED})
    status = status_after(observe(job=job(status=running()), pods=(lost("a", 90, "drained a", "Running"),)))
    assert status["disruptions"] == 1
    both = observe(job=waiting, pods=(lost("a", 90, "drained a"), lost("b", 60, "drained b"), pod("Pending", age=5)))
    status = planned(both, status).status or {}
    assert status["disruptions"] == 2
    assert "2 lost to disruptions" in status["message"]
    gone = planned(observe(job=waiting, pods=(pod("Pending", age=5),)), status).status
    assert gone is not None
    assert gone["disruptions"] == 2
    assert gone["message"].endswith(
        "Disrupted 2 times so far, which backoffLimit does not count, the last time as the pod was ended by Kubernetes "
        "(EvictionByEvictionAPI): drained b."
    )


def test_a_status_of_an_older_version_goes_on_from_its_attempts() -> None:
    old = {name: value for name, value in status_after(FIRST).items() if name != "jobAttempts"}
    after = planned(observe(job=job(status={"failed": 1, "active": 1, "startTime": STARTED})), old).status
    assert after is not None
    assert after["attempts"] == 2


class TestWhenItFirstComputed:
    def test_a_raised_run_waits_since_then(self) -> None:
        done = status_after(observe(job=job(status=COMPLETE)))
        second = read_finetune(body(run=2))
        waiting = planned(observe(second, other_jobs=(job(status=COMPLETE),)), done).status
        assert waiting is not None
        assert (waiting["queuedTime"], waiting.get("runningTime")) == (at(0), None)

    def test_a_short_run_that_was_never_seen_to_compute_did_so(self) -> None:
        assert status_after(observe(job=job(status=COMPLETE)))["runningTime"] == STARTED

    def test_a_run_that_was_cancelled_before_did_not(self) -> None:
        pending = observe(job=job(status={"active": 1, "startTime": STARTED}))
        assert "runningTime" not in status_after(pending, observe(finetune(cancel=True), job=job()))

    def test_what_computed_before_an_upgrade_is_not_written_anew(self) -> None:
        old = {name: value for name, value in status_after(FIRST).items() if name != "runningTime"}
        assert planned(FIRST, old).status is None
