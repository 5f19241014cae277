"""From a pod's spec and the state of its processes to its status, as a kubelet writes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

MAX_TERMINATION_MESSAGE = 4096  # bytes; the kubelet's limit for one container
BACKOFF_BASE, BACKOFF_CAP, BACKOFF_RESET = 10.0, 300.0, 600.0  # seconds; the kubelet's restart back-off


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Terminated:
    exit_code: int
    reason: str
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    container_id: str = ""


State = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as it stands: its current state, the one before, and how often it was restarted."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    restarts: int = 0
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as it stands. `final`: nothing will ever run again. `reason`: why the node itself ended it, if it did."""

    containers: tuple[ContainerView, ...]
    init: tuple[ContainerView, ...] = ()
    sandbox_ready: bool = True
    final: bool = False
    reason: str = ""
    message: str = ""
    conditions: tuple[Mapping[str, str], ...] = field(default_factory=tuple)  # further ones, such as DisruptionTarget


def termination(
    exit_code: int,
    *,
    oom_killed: bool,
    message: str,
    started_at: datetime,
    finished_at: datetime,
    container_id: str,
) -> Terminated:
    """The terminated state of a process; `exit_code` is the runtime's (128 + n for a death by signal n)."""
    reason = "OOMKilled" if oom_killed else "Completed" if exit_code == 0 else "Error"
    return Terminated(exit_code, reason, message, started_at, finished_at, container_id)


def wants_restart(policy: str, state: Terminated, *, init: bool) -> bool:
    """Whether the pod's restart policy starts a container again; for init containers Always means OnFailure."""
    failed = state.exit_code != 0
    if policy == "Never":
        return False
    if init or policy == "OnFailure":
        return failed
    return True


def restart_delay(failures: int, base: float = BACKOFF_BASE, cap: float = BACKOFF_CAP) -> float:
    """Seconds between the end of a container and its next start: at once the first time, then base, 2 base, … cap."""
    return 0.0 if failures <= 1 else min(base * 2.0 ** (failures - 2), cap)


def initialized(init: Sequence[ContainerView]) -> bool:
    """Whether every init container has ended well."""
    return all(isinstance(view.state, Terminated) and view.state.exit_code == 0 for view in init)


def phase(policy: str, view: PodView) -> str:
    """The pod's phase (kubelet: getPhase)."""
    if view.final:
        return _final_phase(view)
    if not initialized(view.init):
        failed = any(isinstance(c.state, Terminated) and c.state.exit_code != 0 for c in view.init)
        return "Failed" if failed and policy == "Never" else "Pending"
    states = [c.state for c in view.containers]
    if any(isinstance(c.state, Waiting) and c.last is None for c in view.containers):
        return "Pending"
    if any(isinstance(state, Running) for state in states):
        return "Running"
    ended = [state for state in states if isinstance(state, Terminated)]
    if policy == "Always" or len(ended) < len(states):
        return "Running"
    if all(state.exit_code == 0 for state in ended):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _final_phase(view: PodView) -> str:
    well = all(isinstance(c.state, Terminated) and c.state.exit_code == 0 for c in (*view.init, *view.containers))
    return "Succeeded" if well and not view.reason else "Failed"


def finished(policy: str, view: PodView) -> bool:
    """Whether a pod has come to its end by itself."""
    return phase(policy, view) in ("Succeeded", "Failed")


def lost(state: State, message: str, at: datetime) -> State:
    """A container that has no process any more and never reported an end counts as failed (kubelet: TerminatePod)."""
    if isinstance(state, Terminated):
        return state
    started = state.started_at if isinstance(state, Running) else None
    return Terminated(137, "ContainerStatusUnknown", message, started, at if started else None)


NOT_LOCATED = "The container could not be located when the pod was terminated"


def finalize(view: PodView, at: datetime) -> PodView:
    """The view of a pod of which nothing will run again: every container of an initialized pod is terminated."""
    containers = view.containers
    if initialized(view.init):
        containers = tuple(replace(c, state=lost(c.state, NOT_LOCATED, at)) for c in containers)
    return replace(view, containers=containers, final=True, sandbox_ready=False)


def timestamp(at: datetime) -> str:
    """Kubernetes' Time: RFC 3339 in UTC, whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None) -> datetime | None:
    """A Kubernetes Time or MicroTime as an aware datetime."""
    return datetime.fromisoformat(text) if text else None


def pod_status(
    pod: Mapping[str, Any], view: PodView, *, previous: Mapping[str, Any], address: str, now: datetime
) -> dict[str, Any]:
    """The status of a pod, for a strategic merge patch: it holds the conditions that the node owns and no others.

    `previous` is the status written before: it keeps the start time and the transition times of unchanged conditions.
    """
    policy = pod["spec"].get("restartPolicy", "Always")
    current = phase(policy, view)
    status: dict[str, Any] = {
        "phase": current,
        "conditions": _with_transition_times(_conditions(view, current), previous.get("conditions") or (), now),
        "hostIP": address,
        "hostIPs": [{"ip": address}],
        "startTime": previous.get("startTime") or timestamp(now),
        "containerStatuses": [_container_status(c, current) for c in view.containers],
    }
    if view.init:
        status["initContainerStatuses"] = [_container_status(c, current, init=True) for c in view.init]
    if view.sandbox_ready or view.final:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    if view.reason:
        status |= {"reason": view.reason, "message": view.message}
    return status


def _condition(kind: str, true: bool, reason: str = "", message: str = "") -> dict[str, str]:
    condition = {"type": kind, "status": "True" if true else "False"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _conditions(view: PodView, current: str) -> list[dict[str, str]]:
    unready = [c.name for c in view.containers if not isinstance(c.state, Running)]
    incomplete = [c.name for c in view.init if not (isinstance(c.state, Terminated) and c.state.exit_code == 0)]
    if current == "Succeeded":
        ready = _condition("Ready", False, "PodCompleted")
        initial = _condition("Initialized", True, "PodCompleted")
    elif current == "Failed":
        ready = _condition("Ready", False, "PodFailed")
        initial = _initialized_condition(incomplete)
    else:
        ready = _ready_condition("Ready", unready)
        initial = _initialized_condition(incomplete)
    containers_ready = {**ready, "type": "ContainersReady"}
    sandbox = _condition("PodReadyToStartContainers", view.sandbox_ready and current not in ("Succeeded", "Failed"))
    scheduled = _condition("PodScheduled", True)
    return [sandbox, initial, ready, containers_ready, scheduled, *(dict(extra) for extra in view.conditions)]


def _initialized_condition(incomplete: list[str]) -> dict[str, str]:
    if not incomplete:
        return _condition("Initialized", True)
    names = " ".join(incomplete)
    return _condition("Initialized", False, "ContainersNotInitialized", f"containers with incomplete status: [{names}]")


def _ready_condition(kind: str, unready: list[str]) -> dict[str, str]:
    if not unready:
        return _condition(kind, True)
    return _condition(kind, False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")


def _with_transition_times(
    conditions: list[dict[str, str]], previous: Sequence[Mapping[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    before = {condition["type"]: condition for condition in previous}
    result: list[dict[str, Any]] = []
    for condition in conditions:
        old = before.get(condition["type"])
        unchanged = old is not None and old.get("status") == condition["status"]
        time = old.get("lastTransitionTime") if old is not None and unchanged else None
        # Null removes what an earlier write left there: this is a merge patch.
        cleared = {
            key: None for key in ("reason", "message") if old is not None and old.get(key) and key not in condition
        }
        result.append({**condition, **cleared, "lastTransitionTime": time or timestamp(now)})
    return result


def _container_status(view: ContainerView, current: str, *, init: bool = False) -> dict[str, Any]:
    running = isinstance(view.state, Running)
    done = isinstance(view.state, Terminated) and view.state.exit_code == 0
    status: dict[str, Any] = {
        "name": view.name,
        "image": view.image,
        "imageID": "",
        "restartCount": view.restarts,
        "ready": done if init else running and current == "Running",
        "started": running,
        "state": state_json(view.state),
        "lastState": state_json(view.last) if view.last else {},
    }
    if view.container_id:
        status["containerID"] = view.container_id
    return status


def state_json(state: State) -> dict[str, Any]:
    """The wire form of a container's state. Like the kubelet, it leaves `signal` out: the exit code is 128 + n."""
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            body: dict[str, Any] = {"exitCode": state.exit_code, "reason": state.reason}
            if state.message:
                body["message"] = state.message
            if state.started_at:
                body["startedAt"] = timestamp(state.started_at)
            if state.finished_at:
                body["finishedAt"] = timestamp(state.finished_at)
            if state.container_id:
                body["containerID"] = state.container_id
            return {"terminated": body}


def parse_state(wire: Mapping[str, Any]) -> State | None:
    """The reverse of `state_json`; None for an empty state."""
    if terminated := wire.get("terminated"):
        return Terminated(
            int(terminated.get("exitCode", 0)),
            str(terminated.get("reason", "")),
            str(terminated.get("message", "")),
            parse_timestamp(terminated.get("startedAt")),
            parse_timestamp(terminated.get("finishedAt")),
            str(terminated.get("containerID", "")),
        )
    if running := wire.get("running"):
        return Running(parse_timestamp(running.get("startedAt")) or datetime.now(UTC))
    if waiting := wire.get("waiting"):
        return Waiting(str(waiting.get("reason", "")), str(waiting.get("message", "")))
    return None
