"""`status.upstream`, read and written: what earlier versions have recorded, and what nobody should have."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.backends.provider_run import Outcome, PollResult, Step
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.record import Attempt, Doubt, Record, RunPhase
from tests.unit.observations import NOW
from tests.unit.upstream_world import AMBIGUOUS, BILLED_STEPS, Remote, World

RECORDED = json.loads((Path(__file__).parent / "recorded" / "upstream.json").read_text())
"""What the operator recorded before there was a Record: every shape that the World's providers and failures gave."""
ATTEMPT = "1/2026-03-01T12:01:00.010000+00:00"
PROVIDERS = ("oxen", "scenario", "bfl", "octoai")


def read(**upstream: Any) -> Record:
    return Record.read({"upstream": upstream})


def canonical(value: Any) -> str:
    """As the API server stores it: by name."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: f"{one['provider']}-{one['phase']}-{one['scenario']}")
def test_what_an_earlier_version_has_recorded_is_read_and_written_as_it_was(recorded: dict[str, Any]) -> None:
    record = Record.read({"upstream": recorded["upstream"]})
    assert canonical(record.wire()) == canonical(recorded["upstream"])
    assert record.phase.name == recorded["phase"]
    assert record.doubt is None


def test_every_phase_of_every_provider_is_among_them() -> None:
    found = {(one["provider"], one["phase"]) for one in RECORDED}
    shared = {"PREPARING", "CREATING", "CREATED", "STARTED"}
    wanted = {(provider, phase) for provider in PROVIDERS for phase in shared}
    wanted |= {(provider, "STARTING") for provider in ("oxen", "scenario")}
    wanted |= {(provider, "STOPPED") for provider in PROVIDERS if provider != "bfl"}
    assert wanted <= found


@pytest.mark.parametrize(
    "upstream",
    [
        {"provider": "oxen", "jobId": "j", "resource": "ox/receipts", "queuePosition": 0, "url": "", "id": "run-1"},
        {"provider": "oxen", "data": {"late": "2", "unseen": "3", "loras": "a,b", "again": "1", "attempt": ATTEMPT}},
        {"provider": "oxen", "id": "run-1", "aFieldOfTomorrow": {"a": [1]}, "data": {"ofTomorrow": "x"}},
    ],
)
def test_fields_of_providers_and_of_other_versions_are_kept(upstream: dict[str, Any]) -> None:
    assert canonical(read(**upstream).wire()) == canonical(upstream)


def test_nothing_is_nothing() -> None:
    assert Record.read({}) == Record() == read(data={})
    assert Record().wire() == {}
    assert Record().phase is RunPhase.NOTHING


def test_a_record_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        Record().id = "run-1"  # type: ignore[misc]


# What contradicts itself


@pytest.mark.parametrize(
    "fields",
    [
        {"started": "2026-03-01T12:00:00Z"},
        {"starting": Attempt(ATTEMPT)},
        {"attempt": Attempt("yesterday")},
        {"id": "run-1", "starting": Attempt("1/yesterday")},
        {"id": "run-1", "doubt": Doubt.START_WITHOUT_ID},
    ],
)
def test_a_record_that_contradicts_itself_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"status\.upstream|nothing contradicts"):
        Record(**fields)
    with pytest.raises(ValueError, match=r"status\.upstream|nothing contradicts"):
        replace(Record(), **fields)


def test_a_run_without_an_id_is_not_started() -> None:
    with pytest.raises(ValueError, match="a start and no id"):
        Record().started_at("2026-03-01T12:00:00Z")


WRONG = [
    ({"startedTime": "2026-03-01T12:00:00Z"}, Doubt.START_WITHOUT_ID),
    ({"startedTime": "2026-03-01T12:00:00Z", "data": {"attempt": ATTEMPT}}, Doubt.START_WITHOUT_ID),
    ({"data": {"attempt": ATTEMPT, "starting": ATTEMPT}}, Doubt.START_WITHOUT_ID),
    ({"data": {"attempt": "1"}}, Doubt.UNREADABLE_ATTEMPT),
    ({"data": {"attempt": "1/2026-03-01T12:01:00"}}, Doubt.UNREADABLE_ATTEMPT),  # of which zone?
    ({"data": {"attempt": "once/2026-03-01T12:01:00+00:00"}}, Doubt.UNREADABLE_ATTEMPT),
]
UNREADABLE_START = {"id": "run-1", "data": {"attempt": ATTEMPT, "starting": "1/yesterday"}}


@pytest.mark.parametrize(("upstream", "doubt"), [*WRONG, (UNREADABLE_START, Doubt.UNREADABLE_START)])
def test_what_is_recorded_wrongly_is_read_as_in_doubt_and_written_as_it_was(
    upstream: dict[str, Any], doubt: Doubt
) -> None:
    record = read(**upstream)
    assert (record.phase, record.doubt) == (RunPhase.IN_DOUBT, doubt)
    assert record.begun
    assert canonical(record.wire()) == canonical(upstream)


def spoiled(provider: str, upstream: dict[str, Any]) -> World:
    """A run that was about to be created, whose record has been spoiled since by hand."""
    world = World(provider)
    while "marker" not in (world.status.get("upstream") or {}):
        turn(world)
    assert world.body is not None
    recorded = world.body["status"]["upstream"]
    world.crash(world.operators[0])
    world.body["status"]["upstream"] = {
        **recorded,
        **upstream,
        "data": {**recorded["data"], **upstream.get("data", {})},
    }
    return world


def turn(world: World) -> None:
    who = world.operators[0]
    world.watch(who)
    decision = world.reconcile(who)
    world.finish(who)
    world.later(max(0.01, (decision.requeue or 0.0) if decision is not None else 0.0))


def condition(world: World, name: str) -> dict[str, str]:
    return next((one for one in world.status["conditions"] if one["type"] == name), {})


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("upstream", "doubt"), WRONG)
def test_no_billed_call_is_made_on_a_record_in_doubt(provider: str, upstream: dict[str, Any], doubt: Doubt) -> None:
    world = spoiled(provider, upstream)
    for _ in range(80):
        turn(world)
    assert (world.remotes, world.billed) == ({}, [])
    assert condition(world, "Stalled")["reason"] == "CreateUnknown"
    assert "finetune.dev/adopt" in condition(world, "Stalled")["message"]
    assert Record.read(world.status).doubt is doubt


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("upstream", "doubt"), WRONG)
def test_a_person_clears_the_doubt_up(provider: str, upstream: dict[str, Any], doubt: Doubt) -> None:
    world = spoiled(provider, upstream)
    for _ in range(10):
        turn(world)
    world.annotate("finetune.dev/create-again", "1")
    world.settle()
    assert len(world.billed) == 1
    assert world.status["phase"] == "Succeeded"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("upstream", "doubt"), WRONG)
def test_a_run_that_is_found_is_taken_over(provider: str, upstream: dict[str, Any], doubt: Doubt) -> None:
    world = spoiled(provider, upstream)
    marker = world.status["upstream"]["marker"]
    world.remotes["run-1"] = Remote("run-1", marker, NOW, "running")
    world.settle()
    assert (list(world.remotes), world.billed) == (["run-1"], [])
    assert (world.status["upstream"]["id"], world.status["phase"]) == ("run-1", "Succeeded")


@pytest.mark.parametrize("provider", ["oxen", "scenario"])
def test_a_start_that_cannot_be_read_is_not_made_again(provider: str) -> None:
    world = spoiled(provider, UNREADABLE_START)
    world.remotes["run-1"] = Remote("run-1", world.status["upstream"]["marker"], NOW)
    for _ in range(40):
        turn(world)
    assert (world.remotes["run-1"].state, world.billed) == ("created", [])
    assert condition(world, "Stalled")["message"].startswith("status.upstream.data.starting is not a number and a time")
    world.remotes["run-1"].state = "running"  # somebody starts it there
    world.settle()
    assert (world.billed, world.status["phase"]) == ([], "Succeeded")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("upstream", "doubt"), WRONG)
def test_a_run_in_doubt_is_looked_for_before_it_is_let_go(
    provider: str, upstream: dict[str, Any], doubt: Doubt
) -> None:
    world = spoiled(provider, upstream)
    world.delete()
    for _ in range(20):
        turn(world)
    assert world.body is None
    assert world.billed == []
    assert "it may be billed" in world.last_words[0]


def test_an_intent_whose_time_cannot_be_read_does_not_keep_the_run_from_being_looked_for() -> None:
    world = spoiled("oxen", {"intentTime": "yesterday", "data": {"attempt": ATTEMPT}})
    world.settle()
    assert (len(world.billed), world.status["phase"]) == (1, "Succeeded")


# How it is changed


def test_the_way_of_a_run_in_words() -> None:
    record = Record().identified("oxen", "ft-1", lambda: {"oxen": {}})
    assert record.phase is RunPhase.PREPARING
    record = record.with_outcome(Step.PREPARE, Outcome(resource="ox/receipts")).to_be_created(NOW)
    assert (record.phase, record.prepared, record.intent_time) == (RunPhase.CREATING, True, "2026-03-01T12:00:00Z")
    record = record.with_outcome(Step.CREATE, Outcome(id="run-1", data={"loras": "a"}))
    assert record.phase is RunPhase.CREATED
    record = record.to_be_started(NOW).to_be_started(NOW + timedelta(seconds=1))
    assert record.phase is RunPhase.STARTING
    assert record.starting == Attempt("2/2026-03-01T12:00:01.000000+00:00")
    record = record.started_at("2026-03-01T12:00:01Z")
    assert record.phase is RunPhase.STARTED
    state = RunState(stage=Stage.RUNNING, reason="Running", message="")
    record = record.with_outcome(Step.POLL, PollResult(state=state, queue_position=0)).stop_begun(NOW)
    assert record.stop_begun(NOW + timedelta(seconds=9)).stop_begun_late() == record.stop_begun_late()
    assert record.stop_begun_late().stop_taken_back() == replace(record, cancel_time=None)
    record = record.with_outcome(Step.CANCEL, Outcome())
    assert (record.phase, record.reached, record.live) == (RunPhase.STOPPED, RunPhase.STARTED, False)
    assert record.wire()["data"] == {
        "attempt": "1/2026-03-01T12:00:00.000000+00:00",
        "backend": '{"oxen":{}}',
        "loras": "a",
        "prepared": "true",
        "starting": "2/2026-03-01T12:00:01.000000+00:00",
        "stopped": "true",
    }


def test_what_a_provider_puts_into_data_does_not_pass_for_ours() -> None:
    record = Record().with_outcome(Step.CREATE, Outcome(id="run-1", data={"attempt": ATTEMPT, "stopped": "true"}))
    assert (record.attempt, record.stopped, record.wire()) == (None, False, {"id": "run-1"})


def test_an_id_is_never_replaced() -> None:
    record = Record().with_outcome(Step.CREATE, Outcome(id="run-1")).with_outcome(Step.FIND, Outcome(id="run-2"))
    assert record.id == "run-1"


def test_a_lost_create_is_in_flight_for_nobody_but_its_phase_says_so() -> None:
    world = World("octoai")
    while not world.remotes:
        who = world.operators[0]
        world.watch(who)
        world.reconcile(who)
        world.send(who)
        world.finish(who, failure=AMBIGUOUS if who.call is not None and who.call.step in BILLED_STEPS else None)
        world.later(1)
    assert Record.read(world.status).phase is RunPhase.CREATING
