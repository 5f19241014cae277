"""Stopping within bounds: the bound is for trying, whatever became of the operator in the meantime."""

from __future__ import annotations

import json

import pytest

from finetune_operator.backends.errors import Failure
from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.upstream.stop import LATE_ATTEMPTS
from tests.api.finetunes import fine_tune
from tests.unit.policies.upstream.test_life import ALL, TRUSTED, condition, look, run_on, running, until
from tests.unit.upstream_world import (
    AMBIGUOUS,
    BLOCKED,
    RULES,
    TRANSIENT,
    UNREADABLE,
    URL,
    World,
    waiting,
)

BOUND = RULES.cancel_bound
LONG = BOUND + 3600
STOPS = (Step.CANCEL, Step.DELETE)


def down(world: World, seconds: float) -> None:
    """The operator dies, and the next one comes so many seconds later."""
    world.crash(world.operators[0])
    world.later(seconds)


def deleted_while_down(provider: str) -> World:
    """A run that goes on, whose FineTune was deleted long before an operator comes back."""
    world = running(provider)
    world.crash(world.operators[0])
    world.delete()
    world.later(LONG)
    return world


def try_in_vain(world: World, seconds: float, failure: Failure = AMBIGUOUS) -> int:
    """Let each call fail for so long, or until the FineTune is gone; how many there were to stop the run."""
    tries, end = 0, world.now.timestamp() + seconds
    while world.body is not None and world.now.timestamp() < end:
        tries += look(world) in STOPS
        world.finish(world.operators[0], failure)
        world.later(1.0)
    return tries


def going_on(world: World) -> list[str]:
    return [remote.id for remote in world.remotes.values() if remote.state == "running"]


@pytest.mark.parametrize("provider", ALL)
def test_what_was_deleted_while_no_operator_ran_is_stopped_however_late(provider: str) -> None:
    world = deleted_while_down(provider)
    run_on(world, 20)
    assert world.body is None
    assert going_on(world) == []
    assert world.warnings == []


def test_the_bound_counts_from_the_first_attempt() -> None:
    world = deleted_while_down("oxen")
    assert try_in_vain(world, BOUND - 10) > 3
    assert world.body is not None
    try_in_vain(world, 200)
    assert world.body is None


def test_what_is_left_is_named_with_provider_id_and_address() -> None:
    world = deleted_while_down("oxen")
    [left] = going_on(world)
    try_in_vain(world, BOUND + 200)
    assert world.body is None
    assert world.warnings == ["CancelFailed"]
    [said] = world.last_words
    for named in ("Oxen", left, URL, AMBIGUOUS.message):
        assert named in said


def test_a_restart_after_the_bound_tries_once_more_before_it_lets_go() -> None:
    world = deleted_while_down("oxen")
    try_in_vain(world, BOUND - 10)
    down(world, LONG)
    assert try_in_vain(world, 200) == 1
    assert world.body is None
    assert world.warnings == ["CancelFailed"]


def test_a_restart_after_the_bound_may_be_the_one_that_stops_it() -> None:
    world = deleted_while_down("oxen")
    try_in_vain(world, BOUND - 10)
    down(world, LONG)
    run_on(world, 20)
    assert world.body is None
    assert (going_on(world), world.warnings) == ([], [])


def test_operators_that_end_before_the_answer_end_the_waiting_all_the_same() -> None:
    world, attempts = deleted_while_down("oxen"), 0
    for _ in range(20):
        for _ in range(5):
            attempts += world.operators[0].call is None and look(world) in STOPS
            world.later(2)
        if world.body is None:
            break
        down(world, 60)
    assert world.body is None
    assert attempts >= LATE_ATTEMPTS
    assert world.warnings == ["CancelFailed"]


def test_operators_that_die_at_once_and_stay_away_for_long_are_no_attempts_of_the_next() -> None:
    world = deleted_while_down("oxen")
    for _ in range(LATE_ATTEMPTS):
        look(world)
        down(world, LONG)
    run_on(world, 20)
    assert world.body is None
    assert (going_on(world), world.warnings) == ([], [])


@pytest.mark.parametrize("provider", TRUSTED)
def test_a_call_in_flight_at_the_end_of_the_bound_is_waited_for(provider: str) -> None:
    world = running(provider)
    world.delete()
    assert look(world) in STOPS
    world.later(BOUND + 20)
    look(world)
    assert world.body is not None
    world.finish(world.operators[0])
    look(world)
    assert world.body is None
    assert (going_on(world), world.warnings) == ([], [])


@pytest.mark.parametrize("provider", ["octoai", "bfl"])
def test_a_billed_create_in_flight_at_the_end_of_the_bound_is_waited_for(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.send(world.operators[0])
    world.delete()
    look(world)
    world.later(BOUND + 20)
    look(world)
    assert world.body is not None
    run_on(world, 20)
    assert world.body is None
    assert going_on(world) == []


@pytest.mark.parametrize("provider", TRUSTED)
def test_a_lost_create_is_looked_for_and_stopped_however_late(provider: str) -> None:
    world = World(provider)
    until(world, Step.CREATE)
    world.send(world.operators[0])
    world.crash(world.operators[0])
    world.delete()
    world.later(LONG)
    run_on(world, 60)
    assert world.body is None
    assert (going_on(world), world.warnings) == ([], [])


def test_what_cannot_be_found_is_named_by_its_marker() -> None:
    world = World("octoai")
    until(world, Step.CREATE)
    marker = world.status["upstream"]["marker"]
    world.send(world.operators[0])
    world.crash(world.operators[0])
    world.delete()
    world.later(LONG)
    for _ in range(600):
        if world.body is None:
            break
        look(world)
        world.finish(world.operators[0], TRANSIENT)
        world.later(1)
    assert world.body is None
    [said] = world.last_words
    assert marker in said
    assert "Octoai" in said


def test_a_missing_secret_is_an_attempt() -> None:
    world = deleted_while_down("oxen")
    try_in_vain(world, BOUND - 10, BLOCKED)
    down(world, LONG)
    assert try_in_vain(world, 200, BLOCKED) == 1
    assert world.body is None


def test_credentials_that_could_not_be_read_are_none_and_yet_it_ends() -> None:
    world = deleted_while_down("oxen")
    try_in_vain(world, BOUND - 10)
    down(world, LONG)
    assert try_in_vain(world, 1000, UNREADABLE) == LATE_ATTEMPTS
    assert world.body is None
    assert world.warnings == ["CancelFailed"]


def test_a_wait_that_the_provider_names_does_not_outlast_the_bound() -> None:
    world = running("oxen")
    world.delete()
    try_in_vain(world, BOUND + 10, waiting(TRANSIENT, 86_400))
    assert world.body is None


def test_a_deletion_in_time_costs_one_status_write() -> None:
    world = running("oxen")
    world.delete()
    written = 0
    while world.body is not None:
        before = world.status
        look(world)
        written += world.body is not None and world.status != before
        world.finish(world.operators[0])
        world.later(1)
    assert written == 1


def raised_while_down(provider: str) -> World:
    """A stop of the old run that had begun when the operator died, long before the next one comes."""
    world = running(provider)
    world.change(run=2)
    assert look(world) in STOPS
    down(world, LONG)
    return world


@pytest.mark.parametrize("provider", TRUSTED)
def test_a_superseded_run_is_stopped_however_late(provider: str) -> None:
    world = raised_while_down(provider)
    old = world.status["upstream"]["id"]
    run_on(world, 60)
    assert world.remotes[old].state == "cancelled"
    assert world.status["run"] == 2
    assert world.warnings == []


def test_a_superseded_run_that_goes_on_is_named_too() -> None:
    world = raised_while_down("oxen")
    old = world.status["upstream"]["id"]
    assert look(world) in STOPS
    world.finish(world.operators[0], AMBIGUOUS)
    run_on(world, 60)
    assert world.status["run"] == 2
    [said] = world.last_words
    for named in ("Run 1", "Oxen", old, URL, AMBIGUOUS.message):
        assert named in said


def test_a_cancel_that_was_taken_back_leaves_a_later_stop_the_whole_bound() -> None:
    world = running("oxen")
    world.change(cancel=True)
    look(world)
    world.finish(world.operators[0], AMBIGUOUS)
    world.change(cancel=False)
    run_on(world, LONG)
    old = world.status["upstream"]["id"]
    world.remotes[old].state = "running"
    world.change(run=2)
    run_on(world, 60)
    assert world.remotes[old].state == "cancelled"
    assert world.warnings == []


@pytest.mark.parametrize("member", [{"fourth": {}}, {"oxen": {}}])
def test_a_run_of_another_version_is_not_let_go_in_silence(member: object) -> None:
    """Whose provider this version does not know, or whose backend it cannot read: rolled back, or edited by hand."""
    world = running("oxen")
    assert world.body is not None
    upstream = world.body["status"]["upstream"]
    upstream["data"]["backend"] = json.dumps(member)
    upstream["provider"] = next(iter(member)) if isinstance(member, dict) else ""
    world.change(run=2, **fine_tune()["spec"])
    world.delete()
    run_on(world, 60)
    assert world.body is None
    [said] = world.last_words
    assert upstream["id"] in said
    assert condition(world, "Stalled") == ("", "")
