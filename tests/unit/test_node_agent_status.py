"""From a pod's spec and its processes to its status."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cluster.node_agent.status import (
    NOT_LOCATED,
    ContainerView,
    PodView,
    Running,
    State,
    Terminated,
    Waiting,
    finalize,
    parse_state,
    phase,
    pod_status,
    restart_delay,
    state_json,
    termination,
    wants_restart,
)

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
CREATING = Waiting("ContainerCreating")
RUNNING = Running(NOW)
WELL = Terminated(0, "Completed", started_at=NOW, finished_at=NOW)
BADLY = Terminated(1, "Error", started_at=NOW, finished_at=NOW)


def container(state: State, name: str = "main", last: Terminated | None = None, restarts: int = 0) -> ContainerView:
    return ContainerView(name, "image", state, last, restarts)


def view(*states: State, init: tuple[State, ...] = (), **further: Any) -> PodView:
    return PodView(
        containers=tuple(container(state, f"c{index}") for index, state in enumerate(states)),
        init=tuple(container(state, f"i{index}") for index, state in enumerate(init)),
        **further,
    )


def status_of(shown: PodView, policy: str = "Never", previous: dict[str, Any] | None = None) -> dict[str, Any]:
    pod = {"spec": {"restartPolicy": policy}}
    return pod_status(pod, shown, previous=previous or {}, address="10.0.0.9", now=NOW)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {c["type"]: (c["status"], c.get("reason")) for c in status["conditions"]}


@pytest.mark.parametrize(
    ("policy", "shown", "expected"),
    [
        ("Never", view(CREATING), "Pending"),
        ("Never", view(CREATING, RUNNING), "Pending"),
        ("Never", view(RUNNING), "Running"),
        ("Never", view(RUNNING, WELL), "Running"),
        ("Never", view(RUNNING, BADLY), "Running"),
        ("Never", view(WELL), "Succeeded"),
        ("Never", view(WELL, BADLY), "Failed"),
        ("OnFailure", view(WELL), "Succeeded"),
        ("OnFailure", view(BADLY), "Running"),
        ("Always", view(WELL), "Running"),
        ("Never", view(Waiting("PodInitializing"), init=(RUNNING,)), "Pending"),
        ("Never", view(Waiting("PodInitializing"), init=(BADLY,)), "Failed"),
        ("OnFailure", view(Waiting("PodInitializing"), init=(BADLY,)), "Pending"),
        ("Never", view(RUNNING, init=(WELL,)), "Running"),
        ("Never", view(WELL, final=True), "Succeeded"),
        ("Always", view(WELL, final=True), "Succeeded"),
        ("Always", view(BADLY, final=True), "Failed"),
        ("Never", view(WELL, final=True, reason="DeadlineExceeded"), "Failed"),
    ],
)
def test_phase(policy: str, shown: PodView, expected: str) -> None:
    assert phase(policy, shown) == expected


def test_container_in_back_off_keeps_the_pod_running() -> None:
    waiting = container(Waiting("CrashLoopBackOff"), last=BADLY, restarts=3)
    assert phase("Always", PodView(containers=(waiting,))) == "Running"


@pytest.mark.parametrize(
    ("policy", "ended", "init", "expected"),
    [
        ("Never", BADLY, False, False),
        ("OnFailure", BADLY, False, True),
        ("OnFailure", WELL, False, False),
        ("Always", WELL, False, True),
        ("Always", WELL, True, False),
        ("Always", BADLY, True, True),
        ("Never", BADLY, True, False),
    ],
)
def test_restart_policy(policy: str, ended: Terminated, init: bool, expected: bool) -> None:
    assert wants_restart(policy, ended, init=init) is expected


def test_restart_delay_doubles_from_the_second_failure_up_to_its_cap() -> None:
    assert [restart_delay(n) for n in (0, 1, 2, 3, 4, 7, 50)] == [0, 0, 10, 20, 40, 300, 300]


@pytest.mark.parametrize(
    ("code", "oom_killed", "reason"),
    [(0, False, "Completed"), (75, False, "Error"), (137, False, "Error"), (137, True, "OOMKilled")],
)
def test_reason_of_an_end(code: int, oom_killed: bool, reason: str) -> None:
    ended = termination(
        code, oom_killed=oom_killed, message="m", started_at=NOW, finished_at=NOW, container_id="process://1"
    )
    assert (ended.exit_code, ended.reason, ended.message) == (code, reason, "m")


def test_running_pod_is_ready_and_has_its_addresses() -> None:
    status = status_of(view(RUNNING))
    assert conditions(status)["Ready"] == ("True", None)
    assert conditions(status)["ContainersReady"] == ("True", None)
    assert (status["podIP"], status["hostIP"], status["startTime"]) == ("10.0.0.9", "10.0.0.9", "2026-11-21T12:00:00Z")
    (shown,) = status["containerStatuses"]
    assert (shown["ready"], shown["started"], shown["state"]) == (
        True,
        True,
        {"running": {"startedAt": status["startTime"]}},
    )


def test_pod_that_waits_for_volumes_has_no_address_yet() -> None:
    status = status_of(view(CREATING, sandbox_ready=False))
    assert "podIP" not in status
    assert conditions(status)["PodReadyToStartContainers"] == ("False", None)
    assert conditions(status)["Ready"] == ("False", "ContainersNotReady")


def test_completed_pod_says_so_in_its_conditions() -> None:
    found = conditions(status_of(finalize(view(WELL), NOW)))
    assert found["Initialized"] == ("True", "PodCompleted")
    assert found["Ready"] == found["ContainersReady"] == ("False", "PodCompleted")


def test_incomplete_init_container_is_named() -> None:
    status = status_of(view(Waiting("PodInitializing"), init=(WELL, RUNNING)))
    (found,) = [c for c in status["conditions"] if c["type"] == "Initialized"]
    assert found["message"] == "containers with incomplete status: [i1]"


def test_transition_time_moves_only_with_the_status() -> None:
    earlier = status_of(view(CREATING))
    later = pod_status(
        {"spec": {"restartPolicy": "Never"}},
        view(RUNNING),
        previous=earlier,
        address="10.0.0.9",
        now=NOW + timedelta(minutes=5),
    )
    times = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert times["PodScheduled"] == "2026-11-21T12:00:00Z"
    assert times["Ready"] == "2026-11-21T12:05:00Z"
    assert later["startTime"] == earlier["startTime"]


def test_reason_of_a_condition_is_removed_by_the_merge_patch() -> None:
    later = status_of(view(RUNNING), previous=status_of(view(CREATING)))
    (ready,) = [c for c in later["conditions"] if c["type"] == "Ready"]
    assert ready["reason"] is None
    assert ready["message"] is None


def test_finalize_declares_what_was_running_or_never_started_lost() -> None:
    shown = finalize(view(RUNNING, CREATING, WELL), NOW)
    states = [c.state for c in shown.containers]
    assert states[0] == Terminated(137, "ContainerStatusUnknown", NOT_LOCATED, NOW, NOW)
    assert states[1] == Terminated(137, "ContainerStatusUnknown", NOT_LOCATED)
    assert states[2] == WELL
    assert phase("Never", shown) == "Failed"


def test_finalize_leaves_main_containers_waiting_when_init_failed() -> None:
    shown = finalize(view(Waiting("PodInitializing"), init=(BADLY,)), NOW)
    assert shown.containers[0].state == Waiting("PodInitializing")
    assert phase("Never", shown) == "Failed"


@pytest.mark.parametrize(
    "state",
    [
        Waiting("ErrImagePull", "no such image"),
        RUNNING,
        replace(WELL, message="done", container_id="process://1"),
        BADLY,
    ],
)
def test_state_survives_the_wire(state: State) -> None:
    assert parse_state(state_json(state)) == state


def test_empty_state_is_none() -> None:
    assert parse_state({}) is None
