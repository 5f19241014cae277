"""What pods say of a run's attempts: how the last one ended, and whether the trainer runs. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.api.objects import Object
from finetune_operator.api.progress import dated, loss_text, summary
from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import MAX_ARTIFACTS
from finetune_operator.api.trainer_config import ExitCode, TerminationMessage, read_termination_message
from finetune_operator.backends.job.disruption import disruption_of, is_ignored
from finetune_operator.backends.job.manifest import CONTAINER

LAST_LINES = 600
"""Characters of a container's last output that go into a message."""

_REASON_BY_EXIT = {
    ExitCode.BAD_CONFIG: Reason.INVALID_CONFIG,
    ExitCode.BAD_DATA: Reason.DATA_VALIDATION_FAILED,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
}
_MEANING = {
    ExitCode.BAD_CONFIG: "the configuration cannot work",
    ExitCode.BAD_DATA: "the dataset cannot be trained on",
    ExitCode.OUT_OF_MEMORY: "out of memory after every fallback",
    ExitCode.RETRY: "interrupted, with a checkpoint to go on from",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `reason` None: another attempt might do better."""

    reason: str | None
    message: str
    progress: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None
    base_model_revision: str | None = None
    artifacts: tuple[dict[str, Any], ...] | None = None


def ending_of(pods: Sequence[Object], *, succeeded: bool) -> Ending | None:
    """The ending of the newest pod in phase Succeeded (or Failed)."""
    phase = "Succeeded" if succeeded else "Failed"
    ended = [pod for pod in pods if pod.get("status", {}).get("phase") == phase]
    newest = max(ended, key=_created, default=None)
    return None if newest is None else _ending(newest)


def last_ending(pods: Sequence[Object]) -> Ending | None:
    """How the newest failed attempt ended."""
    return ending_of(pods, succeeded=False)


def trainer_ending(pod: Object) -> Ending | None:
    """How the trainer has ended in a pod that another container may hold; None where it has not."""
    return None if _terminated(pod, "state") is None else _ending(pod)


def finished_at(pod: Object) -> str | None:
    """When the trainer ended, as the kubelet says."""
    return (_terminated(pod, "state") or {}).get("finishedAt")


def trainer_runs(pod: Object) -> bool:
    """Whether the trainer's container is running, whatever its neighbours do."""
    return bool((_trainer(pod).get("state") or {}).get("running"))


def held_by(pod: Object) -> list[str]:
    """The other containers that are still running: the pod ends when they do."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return [
        str(each.get("name"))
        for each in statuses
        if each.get("name") != CONTAINER and (each.get("state") or {}).get("running")
    ]


def newest_alive(pods: Sequence[Object]) -> Object | None:
    """The newest pod that has not ended."""
    alive = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]
    return max(alive, key=_created, default=None)


def lost_to_disruptions(pods: Sequence[Object]) -> int:
    """How many of these pods were disrupted, which the Job does not count."""
    return sum(map(is_ignored, pods))


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp", ""))


def _ending(pod: Object) -> Ending:
    state, disruption = _terminated(pod), disruption_of(pod)
    if state is None:
        return Ending(None, disruption or "the pod ended before its container did: no reason given")
    spoken = read_termination_message(str(state.get("message") or ""))
    reason, message = _reason(state, spoken), _describe(pod, state, spoken)
    if disruption is not None and state.get("exitCode") and (is_ignored(pod) or not _is_final(state)):
        # What the container says is the signal that this very disruption has sent.
        reason, message = None, f"{disruption.rstrip('. ')}; {message}"
    return Ending(reason, message, **_results(spoken, state))


def _trainer(pod: Object) -> Mapping[str, Any]:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            return container  # type: ignore[no-any-return]
    return {}


def _terminated(pod: Object, *states: str) -> Mapping[str, Any] | None:
    for state in states or ("state", "lastState"):
        if terminated := (_trainer(pod).get(state) or {}).get("terminated"):
            return terminated  # type: ignore[no-any-return]
    return None


def _is_final(state: Mapping[str, Any]) -> bool:
    return int(state.get("exitCode") or 0) in _REASON_BY_EXIT


def _reason(state: Mapping[str, Any], spoken: TerminationMessage | None) -> str | None:
    code = int(state.get("exitCode") or 0)
    if code == 0:
        return None
    if state.get("reason") == "OOMKilled":
        return Reason.OUT_OF_MEMORY
    if spoken is not None and spoken.state == "Failed" and spoken.reason in set(Reason) and code in _REASON_BY_EXIT:
        return spoken.reason
    return _REASON_BY_EXIT.get(ExitCode(code)) if code in set(ExitCode) else None


def _describe(pod: Object, state: Mapping[str, Any], spoken: TerminationMessage | None) -> str:
    code = int(state.get("exitCode") or 0)
    if spoken is not None and code == 0:
        return spoken.message
    said = spoken.message if spoken is not None else str(state.get("message") or "").strip()[-LAST_LINES:]
    if code == 0:
        return said
    meaning = exit_meaning(code, str(state.get("reason") or ""), _memory_limit(pod))
    return f"{meaning}: {said}" if said else f"{meaning}; see the pod's log: {pod['metadata'].get('name', '')}"


def exit_meaning(code: int, reason: str, memory_limit: str | None) -> str:
    """`exit code 137 (killed: out of memory at 8Gi)` and the like."""
    if reason == "OOMKilled":
        at = f" at the limit of {memory_limit}" if memory_limit else ""
        return f"exit code {code} (the kernel killed it: out of memory{at}; raise backend.job.resources.limits.memory)"
    if code in set(ExitCode):
        return f"exit code {code} ({_MEANING.get(ExitCode(code), 'done')})"
    if code > 128:
        try:
            return f"exit code {code} ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"exit code {code}"


def _memory_limit(pod: Object) -> str | None:
    for container in pod.get("spec", {}).get("containers") or ():
        if container.get("name") == CONTAINER:
            limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
            return None if limit is None else str(limit)
    return None


def _results(spoken: TerminationMessage | None, state: Mapping[str, Any]) -> dict[str, Any]:
    if spoken is None:
        return {}
    percentage = 100 if spoken.state == "Succeeded" else None
    if percentage is None and spoken.total_steps:
        percentage = min(100, 100 * spoken.step // spoken.total_steps)
    progress: dict[str, Any] = {
        "summary": summary(percentage, spoken.step, spoken.total_steps or None),
        "percentage": percentage,
        "step": spoken.step,
        "totalSteps": spoken.total_steps or None,
        "loss": None if spoken.loss is None else loss_text(spoken.loss),
        "lastUpdateTime": state.get("finishedAt"),
    }
    if spoken.state == "Succeeded":
        progress["estimatedRemainingSeconds"] = 0
    return {
        "progress": {key: value for key, value in progress.items() if value is not None},
        "checkpoint": _checkpoint(spoken, state.get("finishedAt")),
        "base_model_revision": spoken.base_model_revision,
        "artifacts": tuple(artifact.wire() for artifact in spoken.artifacts[:MAX_ARTIFACTS]) or None,
    }


def _checkpoint(spoken: TerminationMessage, finished: str | None) -> dict[str, Any] | None:
    if spoken.checkpoint is None:
        return None
    try:
        return dated(spoken.checkpoint, datetime.fromisoformat(str(finished))).wire()
    except ValueError:
        return {"step": spoken.checkpoint.step, "uri": spoken.checkpoint.uri}
