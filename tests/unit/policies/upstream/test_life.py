"""Runs at providers, decision by decision, in the simulated world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.api.names import ADOPT_ANNOTATION, CREATE_AGAIN_ANNOTATION, FINALIZER
from finetune_operator.backends.errors import Failure
from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.model import Transfer
from finetune_operator.controller.plan import plan
from tests.api.finetunes import fine_tune
from tests.unit.upstream_world import (
    AMBIGUOUS,
    BLOCKED,
    GONE,
    NO_WEIGHTS,
    PERMANENT,
    RULES,
    TRANSIENT,
    Operator,
    World,
    waiting,
)

TRUSTED = ("oxen", "scenario", "octoai")
ALL = (*TRUSTED, "bfl")


def look(world: World, who: Operator | None = None) -> Step | None:
    """A fresh look, carried out; the call that is then in flight."""
    operator = who or world.operators[0]
    world.watch(operator)
    world.reconcile(operator)
    return operator.call.step if operator.call else None


def until(world: World, step: Step, who: Operator | None = None, most: int = 60) -> None:
    """Let everything work until this call is in flight."""
    operator = who or world.operators[0]
    for _ in range(most):
        if look(world, operator) is step:
            return
        world.finish(operator)
        world.later(0.01)
    raise AssertionError(f"no {step}: {world.status}")


def run_on(world: World, seconds: float, who: Operator | None = None) -> None:
    """Let everything work for a while."""
    operator, left = who or world.operators[0], seconds
    while left > 0 and world.body is not None:
        world.watch(operator)
        decision = world.reconcile(operator)
        answered = operator.call is not None
        world.finish(operator)
        wanted = decision.requeue if decision is not None else None
        pause = 0.05 if answered else max(0.05, min(left, 10.0 if wanted is None else wanted))
        world.later(pause)
        left -= pause


def condition(world: World, kind: str) -> tuple[str, str]:
    """(status, reason) of a condition; ("", "") where it is not there."""
    for each in world.status.get("conditions") or ():
        if each["type"] == kind:
            return each["status"], each["reason"]
    return "", ""


def running(provider: str, **spec: Any) -> World:
    """A world whose run is running, and has been seen to."""
    world = World(provider, **spec)
    run_on(world, 100)
    assert world.status["phase"] == "Running", world.status
    return world


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        (Transfer(), "Preparing the run."),
        (Transfer(received=12_300_000, rate=2000), "Preparing the run. 12.3 MB received at 2.0 kB/s."),
        (
            Transfer(before=3),
            "Preparing the run. Waiting for a place behind 3 other transfers.",
        ),
    ],
)
def test_a_status_says_how_far_a_transfer_is_and_is_brought_up_to_date(transfer: Transfer, message: str) -> None:
    world = World("bfl")
    until(world, Step.PREPARE)
    look(world)
    observation = world.observe(world.operators[0])
    assert observation is not None
    decision = plan(replace(observation, upstream=replace(observation.upstream, transfer=transfer)))
    status = observation.status if decision.status is None else decision.status
    assert status["message"] == message
    assert decision.requeue is not None
    assert decision.requeue <= 30


@pytest.mark.parametrize("provider", ALL)
def test_the_order_of_a_life(provider: str) -> None:
    world = World(provider)
    steps: list[Step] = []
    operator = world.operators[0]
    look(world)
    assert world.body is not None
    assert world.body["metadata"]["finalizers"] == [FINALIZER]
    assert world.status == {}, "the finalizer comes before everything else"
    for _ in range(40):
        step = look(world)
        if step is not None and (not steps or steps[-1] is not step):
            steps.append(step)
        if step is Step.CREATE:
            assert world.status["upstream"]["data"]["attempt"].startswith("1/"), "the intent comes before the create"
        world.finish(operator)
        world.later(0.5)
    expected = {
        "oxen": [Step.PREPARE, Step.CREATE, Step.POLL, Step.START, Step.POLL],
        "scenario": [Step.PREPARE, Step.CREATE, Step.POLL, Step.EQUIP, Step.START, Step.POLL],
        "bfl": [Step.PREPARE, Step.CREATE, Step.POLL],
        "octoai": [Step.PREPARE, Step.CREATE, Step.POLL],
    }
    assert steps == expected[provider]
    assert len(world.billed) == 1


@pytest.mark.parametrize("provider", ALL)
def test_whoever_has_seen_an_older_version_makes_no_attempt(provider: str) -> None:
    world = World(provider)
    until(world, Step.PREPARE)
    world.finish(world.operators[0])
    world.watch(world.operators[0])
    world.change(ttlSecondsAfterFinished=1)
    world.reconcile(world.operators[0])
    assert world.operators[0].claimed is None
    world.reconcile(world.operators[0])
    assert world.operators[0].call is None


@pytest.mark.parametrize("provider", ALL)
def test_the_last_word_before_the_bill_is_the_users(provider: str) -> None:
    """The call has waited for a slot; meanwhile the user has suspended the run."""
    world = World(provider)
    until(world, Step.START if provider in ("oxen", "scenario") else Step.CREATE)
    world.change(suspend=True)
    world.send(world.operators[0])
    assert world.billed == []
    run_on(world, 100)
    assert world.billed == []
    assert world.status["phase"] == "Suspended"
    world.change(suspend=False)
    run_on(world, 700)
    assert world.status["phase"] == "Running"
    assert len(world.billed) == 1


@pytest.mark.parametrize("provider", ALL)
def test_after_a_crash_during_the_create_it_is_looked_for_first(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.send(world.operators[0])
    world.crash(world.operators[0])
    assert look(world) is Step.FIND
    run_on(world, 100)
    assert world.status["phase"] == "Running"
    assert len(world.billed) == 1
    assert len(world.remotes) == 1


@pytest.mark.parametrize("provider", TRUSTED)
def test_a_create_that_was_never_made_is_made(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.crash(world.operators[0])
    run_on(world, RULES.settling_window + 200)
    assert world.status["phase"] == "Running"
    assert len(world.billed) == 1
    assert world.status["upstream"]["data"]["attempt"].startswith("2/")


def test_where_the_create_is_billed_a_lost_one_gets_the_whole_settling_window() -> None:
    world = World("octoai")
    until(world, Step.CREATE)
    world.crash(world.operators[0])
    run_on(world, RULES.settling_window - 5)
    assert world.status["upstream"]["data"]["attempt"].startswith("1/")
    run_on(world, 40)
    assert world.status["upstream"]["data"]["attempt"].startswith("2/")


def lost_at_bfl() -> World:
    world = World("bfl")
    until(world, Step.CREATE)
    world.crash(world.operators[0])
    run_on(world, RULES.settling_window + 60)
    return world


def test_where_the_look_up_is_not_trusted_a_person_is_asked() -> None:
    world = lost_at_bfl()
    assert condition(world, "Stalled") == ("True", "CreateUnknown")
    assert world.status["phase"] == "Stalled"
    assert ADOPT_ANNOTATION in world.status["message"]
    assert CREATE_AGAIN_ANNOTATION in world.status["message"]
    assert world.status["upstream"]["marker"] in world.status["message"]
    assert world.billed == []
    assert "CreateUnknown" in world.warnings
    run_on(world, 5000)
    assert world.billed == []


def test_a_person_may_have_it_created_once_more_and_only_once() -> None:
    world = lost_at_bfl()
    world.annotate(CREATE_AGAIN_ANNOTATION, "1")
    until(world, Step.CREATE)
    world.crash(world.operators[0])
    run_on(world, RULES.settling_window + 60)
    assert condition(world, "Stalled") == ("True", "CreateUnknown")
    assert world.billed == []


def test_a_person_may_name_the_run() -> None:
    world = lost_at_bfl()
    world._create(until_find(world))
    known = next(iter(world.remotes))
    world.remotes[known].marker = "named-by-hand"
    world.billed.clear()
    world.annotate(ADOPT_ANNOTATION, known)
    run_on(world, 100)
    assert world.status["upstream"]["id"] == known
    assert world.status["phase"] == "Running"
    assert world.billed == []


def until_find(world: World) -> Any:
    """The run as the look-up sees it."""
    for _ in range(100):
        if look(world) is Step.FIND:
            call = world.operators[0].call
            assert call is not None
            return call.run
        world.later(60)
    raise AssertionError("never looked for")


def test_a_run_that_the_list_shows_late_is_taken_over() -> None:
    world = World("bfl", list_lag=900)
    until(world, Step.CREATE)
    world.send(world.operators[0])
    world.crash(world.operators[0])
    run_on(world, RULES.settling_window + 60)
    assert condition(world, "Stalled") == ("True", "CreateUnknown")
    run_on(world, 1500)
    assert condition(world, "Stalled") == ("", "")
    assert world.status["phase"] == "Running"
    assert len(world.billed) == 1


@pytest.mark.parametrize("provider", ALL)
def test_an_adoption_before_the_first_create_makes_none(provider: str) -> None:
    world = World(provider)
    donor = World(provider)
    run_on(donor, 700)
    world.remotes = donor.remotes
    known = next(iter(world.remotes))
    world.annotate(ADOPT_ANNOTATION, known)
    run_on(world, 700)
    assert world.status["upstream"]["id"] == known
    assert world.billed == []


@pytest.mark.parametrize("provider", ALL)
def test_a_refusal_is_final_and_in_the_providers_words(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.finish(world.operators[0], PERMANENT)
    look(world)
    assert world.status["phase"] == "Failed"
    assert world.status["reason"] == "UpstreamRejected"
    assert "no such model" in world.status["message"]
    look(world)
    assert world.body is not None
    assert world.body["metadata"]["finalizers"] == []
    run_on(world, 5000)
    assert world.billed == []


def test_a_closed_endpoint_says_so_and_what_to_do() -> None:
    world = World("bfl")
    until(world, Step.CREATE)
    world.finish(world.operators[0], GONE)
    look(world)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "ProviderRetired")
    for words in ("2025-10-31", "backend.job", "Bfl"):
        assert words in world.status["message"]


@pytest.mark.parametrize("provider", ALL)
def test_a_wrong_key_waits_for_a_better_one(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.finish(world.operators[0], BLOCKED)
    look(world)
    assert condition(world, "Stalled") == ("True", "UpstreamAuthFailed")
    assert "UpstreamAuthFailed" in world.warnings
    run_on(world, 100)
    assert world.status["phase"] == "Running"
    assert condition(world, "Stalled") == ("", "")
    assert len(world.billed) == 1


def test_a_wait_that_the_provider_names_is_kept() -> None:
    world = World("oxen")
    until(world, Step.CREATE)
    world.finish(world.operators[0], waiting(TRANSIENT, 120))
    run_on(world, 110)
    assert world.status["upstream"]["data"]["attempt"].startswith("1/")
    run_on(world, 20)
    assert world.status["upstream"]["data"]["attempt"].startswith("2/")


@pytest.mark.parametrize("failure", [AMBIGUOUS, TRANSIENT, PERMANENT, GONE, BLOCKED])
def test_a_refused_start_of_what_runs_already_is_no_failure(failure: Failure) -> None:
    world = World("oxen")
    until(world, Step.START)
    world.send(world.operators[0])
    world.finish(world.operators[0], failure)
    run_on(world, 100)
    assert world.status["phase"] == "Running"
    assert len(world.billed) == 1


def test_a_refused_start_of_what_does_not_run_is_one() -> None:
    world = World("oxen")
    until(world, Step.START)
    world.finish(world.operators[0], PERMANENT)
    run_on(world, 100)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamRejected")


@pytest.mark.parametrize("failure", [AMBIGUOUS, TRANSIENT, PERMANENT, BLOCKED])
def test_no_failed_poll_ends_a_run(failure: Failure) -> None:
    world = running("oxen")
    for _ in range(8):
        until_poll(world)
        world.finish(world.operators[0], failure)
    look(world)
    assert condition(world, "Running") == ("True", "UpstreamSaysSo")
    named = condition(world, "Stalled" if failure is BLOCKED else "Reconciling")
    assert named == ("True", failure.reason if failure is BLOCKED else "ProgressingWithRetry")
    run_on(world, 300)
    assert condition(world, "Stalled") == condition(world, "Reconciling") == ("", "")
    assert world.status["phase"] == "Running"


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
def test_a_word_that_nobody_knows_before_the_start_is_waited_out(provider: str) -> None:
    world = World(provider)
    until(world, Step.POLL)
    [remote] = world.remotes.values()
    remote.state = "odd"
    polls = 0
    for _ in range(200):
        polls += look(world) is Step.POLL
        world.finish(world.operators[0])
        world.later(1.0)
    assert world.billed == []
    assert 5 <= polls <= 8, "once in a poll interval"
    remote.state = "created"
    run_on(world, 100)
    assert world.status["phase"] == "Running"
    assert len(world.billed) == 1


def until_poll(world: World) -> None:
    for _ in range(200):
        if look(world) is Step.POLL:
            return
        world.later(1)
    raise AssertionError("never polled")


def test_a_run_that_vanishes_has_failed_when_that_is_sure() -> None:
    world = running("oxen")
    known = next(iter(world.remotes))
    kept = world.remotes.pop(known)
    for _ in range(2):
        until_poll(world)
        world.finish(world.operators[0])
    look(world)
    assert world.status["phase"] == "Running"
    world.remotes[known] = kept
    run_on(world, 200)
    assert world.status["phase"] == "Running"
    world.remotes.clear()
    run_on(world, 200)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamGone")


@pytest.mark.parametrize("provider", ALL)
def test_cancel_before_anything_is_at_the_provider(provider: str) -> None:
    world = World(provider, cancel=True)
    run_on(world, 10)
    assert (world.status["phase"], world.billed, world.remotes) == ("Cancelled", [], {})


@pytest.mark.parametrize("provider", TRUSTED)
def test_cancel_stops_the_run(provider: str) -> None:
    world = running(provider)
    world.change(cancel=True)
    run_on(world, 10)
    assert world.status["phase"] == "Cancelled"
    assert [remote.state for remote in world.remotes.values()] == ["cancelled"]
    assert world.body is not None
    assert world.body["metadata"]["finalizers"] == []


def test_cancel_says_where_the_provider_cannot() -> None:
    world = running("bfl")
    world.change(cancel=True)
    run_on(world, 10)
    assert world.status["phase"] == "Cancelled"
    assert "cannot stop a run" in world.status["message"]


@pytest.mark.parametrize("provider", TRUSTED)
def test_cancel_of_a_lost_create_finds_and_stops_it(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.send(world.operators[0])
    world.crash(world.operators[0])
    world.change(cancel=True)
    run_on(world, 200)
    assert world.status["phase"] == "Cancelled"
    assert all(remote.state != "running" for remote in world.remotes.values())


def test_a_cancel_that_fails_is_tried_on_and_said() -> None:
    world = running("octoai")
    world.change(cancel=True)
    for _ in range(300):
        if look(world) is Step.CANCEL:
            world.finish(world.operators[0], AMBIGUOUS)
        world.later(5)
    assert condition(world, "Stalled") == ("True", "CancelFailed")
    run_on(world, 200)
    assert world.status["phase"] == "Cancelled"


@pytest.mark.parametrize("provider", ALL)
def test_deletion_stops_the_run_and_lets_go(provider: str) -> None:
    world = running(provider)
    world.delete()
    run_on(world, 20)
    assert world.body is None
    assert all(remote.state != "running" for remote in world.remotes.values())


@pytest.mark.parametrize("provider", ALL)
def test_orphan_leaves_it(provider: str) -> None:
    world = running(provider, deletionPolicy="Orphan")
    world.delete()
    run_on(world, 20)
    assert world.body is None
    assert [remote.state for remote in world.remotes.values()] == ["running"]


def test_deletion_is_bounded_and_says_what_it_leaves() -> None:
    world = running("oxen")
    world.delete()
    for _ in range(100):
        if look(world) is Step.CANCEL:
            world.finish(world.operators[0], AMBIGUOUS)
        world.later(2)
    assert world.body is not None
    for _ in range(200):
        if look(world) is Step.CANCEL:
            world.finish(world.operators[0], AMBIGUOUS)
        world.later(2)
    assert world.body is None
    assert "CancelFailed" in world.warnings
    assert world.left_at == ["oxen"]
    assert "run-1" in world.last_words[-1]


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
def test_deletion_removes_a_shell_that_was_never_started(provider: str) -> None:
    world = World(provider)
    until(world, Step.START)
    world.crash(world.operators[0])
    world.change(suspend=True)
    run_on(world, 5)
    world.delete()
    run_on(world, 20)
    assert world.body is None
    assert world.billed == []


@pytest.mark.parametrize("provider", TRUSTED)
def test_a_raised_run_stops_the_old_one_first(provider: str) -> None:
    world = running(provider)
    old = world.status["upstream"]["id"]
    world.change(run=2)
    run_on(world, 200)
    assert world.remotes[old].state == "cancelled"
    assert world.status["run"] == 2
    assert world.status["upstream"]["id"] != old
    [record] = world.status["history"]
    assert (record["run"], record["upstream"]["id"], record["reason"]) == (1, old, "Superseded")
    assert len(world.billed) == 2
    assert len(set(world.billed)) == 2


def test_an_adoption_of_an_earlier_run_is_not_repeated() -> None:
    world = running("octoai")
    old = world.status["upstream"]["id"]
    world.annotate(ADOPT_ANNOTATION, old)
    world.change(run=2)
    run_on(world, 200)
    assert world.status["upstream"]["id"] != old


def test_a_raised_run_with_another_backend_stops_the_old_one_too() -> None:
    world = running("oxen")
    old = world.status["upstream"]["id"]
    job = fine_tune()["spec"]
    world.change(run=2, **job)
    run_on(world, 60)
    assert world.remotes[old].state == "cancelled"
    assert world.body is not None
    assert world.body["metadata"]["finalizers"] == []


def test_the_deadline_counts_from_the_start() -> None:
    world = running("oxen", activeDeadlineSeconds=1000)
    run_on(world, 800)
    assert world.status["phase"] == "Running"
    run_on(world, 300)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert [remote.state for remote in world.remotes.values()] == ["cancelled"]


@pytest.mark.parametrize("provider", ALL)
def test_suspending_a_run_that_has_started_is_said_to_have_no_effect(provider: str) -> None:
    world = running(provider)
    world.change(suspend=True)
    run_on(world, 100)
    assert (world.status["phase"], world.status["reason"]) == ("Running", "CannotSuspend")
    assert world.status["message"].count("spec.suspend has no effect") == 1
    assert world.warnings == ["CannotSuspend"]
    world.crash(world.operators[0])
    run_on(world, 100)
    assert world.status["message"].count("spec.suspend has no effect") == 1
    assert world.warnings == ["CannotSuspend"]
    world.change(suspend=False)
    run_on(world, 100)
    assert "spec.suspend" not in world.status["message"]


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
def test_the_deadline_ends_a_run_that_nothing_starts(provider: str) -> None:
    """A word that nobody knows, before the start: it has a start time as the user sees it, and no start there."""
    world = World(provider, activeDeadlineSeconds=500)
    until(world, Step.CREATE)
    world.finish(world.operators[0])
    next(iter(world.remotes.values())).state = "odd"
    run_on(world, 450)
    assert (world.status["phase"], "startedTime" in world.status["upstream"]) == ("Pending", False)
    assert world.status["reason"] == "UpstreamStateUnknown"
    assert world.status["startTime"]
    world.crash(world.operators[0])
    run_on(world, 200)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert (world.remotes, world.billed) == ({}, [])


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
def test_start_time_and_deadline_outlast_a_suspension_and_a_restart(provider: str) -> None:
    world = World(provider, activeDeadlineSeconds=1000)
    until(world, Step.CREATE)
    world.finish(world.operators[0])
    look(world)
    began = world.status["startTime"]
    world.change(suspend=True)
    run_on(world, 5000)
    world.crash(world.operators[0])
    run_on(world, 5000)
    assert world.status["phase"] == "Suspended"
    world.change(suspend=False)
    run_on(world, 600)
    assert (world.status["phase"], world.status["startTime"]) == ("Running", began)
    world.crash(world.operators[0])
    run_on(world, 100)
    assert (world.status["phase"], world.status["startTime"]) == ("Running", began)
    run_on(world, 500)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert world.status["startTime"] == began


def test_weights_come_home_before_it_is_complete() -> None:
    world = running("oxen", output={"uri": "s3://x/y"})
    next(iter(world.remotes.values())).state = "succeeded"
    for _ in range(100):
        if look(world) is Step.FETCH:
            break
        world.finish(world.operators[0])
        world.later(1)
    assert world.status["reason"] == "Uploading"
    world.finish(world.operators[0])
    look(world)
    assert world.status["phase"] == "Succeeded"
    assert world.status["artifacts"] == [{"name": "adapter", "uri": "s3://x/y"}]


def test_weights_that_cannot_be_stored_are_not_forgotten() -> None:
    world = running("oxen", output={"uri": "s3://x/y"})
    next(iter(world.remotes.values())).state = "succeeded"
    for _ in range(100):
        if look(world) is Step.FETCH:
            break
        world.finish(world.operators[0])
        world.later(1)
    world.finish(world.operators[0], PERMANENT)
    look(world)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "ArtifactUploadFailed")
    assert world.status["upstream"]["id"] in world.status["message"]


@pytest.mark.parametrize("step", [Step.EQUIP, Step.START])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_404_before_the_start_is_believed_only_at_the_third_time(step: Step, times: int) -> None:
    world, left = World("scenario"), times
    for _ in range(400):
        if look(world) is step and left:
            world.finish(world.operators[0], GONE)
            left -= 1
        world.finish(world.operators[0])
        world.later(1)
    assert left == 0
    if times < 3:
        assert (world.status["phase"], len(world.billed)) == ("Running", 1)
    else:
        assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamGone")
        assert world.billed == []


@pytest.mark.parametrize("provider", ALL)
def test_an_id_that_is_not_the_runs_is_put_right_by_its_marker(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.send(world.operators[0])
    right = next(iter(world.remotes))
    world.operators[0].call_answers = "17"
    world.finish(world.operators[0])
    run_on(world, 300)
    assert world.status["upstream"]["id"] == right
    assert (world.status["phase"], len(world.billed)) == ("Running", 1)


@pytest.mark.parametrize("provider", TRUSTED)
@pytest.mark.parametrize("times", [1, 2, 3, 9])
def test_a_stop_believes_no_single_404(provider: str, times: int) -> None:
    world, left = running(provider), times
    world.change(cancel=True)
    for _ in range(300):
        if look(world) is Step.CANCEL and left:
            world.finish(world.operators[0], GONE)
            left -= 1
        world.finish(world.operators[0])
        world.later(1)
    assert world.status["phase"] == "Cancelled"
    [state] = [remote.state for remote in world.remotes.values()]
    assert state == ("cancelled" if times < 3 else "running"), (
        "three in a row, and the look by its marker, are believed"
    )


def test_a_stop_finds_the_right_id() -> None:
    world = World("octoai")
    until(world, Step.CREATE)
    world.send(world.operators[0])
    [remote] = world.remotes.values()
    world.operators[0].call_answers = "17"
    world.finish(world.operators[0])
    world.change(cancel=True)
    for _ in range(300):
        if look(world) is Step.CANCEL and world.status["upstream"]["id"] == "17":
            world.finish(world.operators[0], GONE)
        world.finish(world.operators[0])
        world.later(1)
    assert (world.status["phase"], remote.state) == ("Cancelled", "cancelled")
    assert world.status["upstream"]["id"] == remote.id


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
@pytest.mark.parametrize("step", [Step.EQUIP, Step.START])
def test_what_was_made_for_a_run_that_failed_before_its_start_is_removed(provider: str, step: Step) -> None:
    if (provider, step) == ("oxen", Step.EQUIP):
        pytest.skip("Oxen has nothing to attach")
    world = World(provider)
    until(world, step)
    world.finish(world.operators[0], PERMANENT)
    run_on(world, 100)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamRejected")
    assert (world.remotes, world.billed) == ({}, [])
    assert world.body is not None
    assert world.body["metadata"]["finalizers"] == []


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
@pytest.mark.parametrize("failure", [BLOCKED, TRANSIENT])
def test_cancelled_while_its_start_is_refused_it_is_removed(provider: str, failure: Failure) -> None:
    world = World(provider)
    until(world, Step.START)
    world.finish(world.operators[0], failure)
    until(world, Step.POLL)
    world.finish(world.operators[0])
    world.change(cancel=True)
    run_on(world, 20)
    assert (world.status["phase"], world.remotes, world.billed) == ("Cancelled", {}, [])


def test_what_cannot_be_removed_is_named_and_let_go() -> None:
    world = World("scenario")
    until(world, Step.EQUIP)
    world.finish(world.operators[0], PERMANENT)
    for _ in range(400):
        if look(world) is Step.DELETE:
            world.finish(world.operators[0], BLOCKED)
        world.finish(world.operators[0])
        world.later(1)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamRejected")
    assert world.body is not None
    assert world.body["metadata"]["finalizers"] == []
    [said] = world.last_words
    assert "Scenario keeps run-1, which was never started" in said


def test_a_run_that_is_over_has_nothing_transient() -> None:
    world = running("scenario")
    [remote] = world.remotes.values()
    until_poll(world)
    world.finish(world.operators[0], TRANSIENT)
    until_poll(world)
    world.finish(world.operators[0], TRANSIENT)
    look(world)
    assert condition(world, "Reconciling")[0] == "True"
    world.status["progress"] = {"percentage": 40, "estimatedRemainingSeconds": 60}
    world.status["upstream"]["queuePosition"] = 3
    world.remotes.pop(remote.id)
    run_on(world, 1000)
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamGone")
    assert (condition(world, "Reconciling"), condition(world, "Stalled")) == (("", ""), ("", ""))
    assert world.status["progress"] == {"percentage": 40}
    assert "queuePosition" not in world.status["upstream"]


def test_what_an_older_operator_has_left_on_a_run_that_is_over_goes() -> None:
    world = running("oxen")
    next(iter(world.remotes.values())).state = "succeeded"
    run_on(world, 100)
    assert world.status["phase"] == "Succeeded"
    world.status["conditions"].append({**world.status["conditions"][0], "type": "Reconciling", "status": "True"})
    world.status["progress"] = {"percentage": 100, "estimatedRemainingSeconds": 60}
    run_on(world, 10)
    assert condition(world, "Reconciling") == ("", "")
    assert world.status["progress"] == {"percentage": 100}


@pytest.mark.parametrize("failure", [NO_WEIGHTS, GONE])
def test_a_download_without_weights_is_made_again_and_then_given_up(failure: Failure) -> None:
    world, downloads = running("oxen", output={"uri": "s3://x/y"}), 0
    next(iter(world.remotes.values())).state = "succeeded"
    for _ in range(400):
        if look(world) is Step.FETCH:
            downloads += 1
            assert world.status["reason"] == "Uploading"
            world.finish(world.operators[0], failure)
        world.finish(world.operators[0])
        world.later(1)
    assert downloads == 6
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "UpstreamWithoutArtifacts")
    assert world.status["upstream"]["id"] in world.status["message"]


@pytest.mark.parametrize("provider", ALL)
def test_a_restart_writes_nothing_that_has_not_changed(provider: str) -> None:
    world = running(provider)
    run_on(world, 60)
    assert world.body is not None
    before = world.body["metadata"]["resourceVersion"]
    for _ in range(5):
        world.crash(world.operators[0])
        run_on(world, 61)
    assert world.body["metadata"]["resourceVersion"] == before


def test_polls_keep_their_distance() -> None:
    world, polls = running("oxen"), 0
    for _ in range(6000):
        if look(world) is Step.POLL:
            polls += 1
            world.finish(world.operators[0])
        world.later(0.5)
    assert 85 <= polls <= 100, "one per 30 s, and up to a tenth later"
