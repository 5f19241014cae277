"""What pods and Events say of a run: how its last attempt ended, and what it waits for. Pure."""

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
from finetune_operator.backends.job.manifest import CONTAINER

LONGEST_WORD, LONGEST_SENTENCE = 128, 4096
"""Of what others say: the status would be refused if it were longer than its schema allows."""
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
_IMAGE_TROUBLE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG_TROUBLE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended. `reason` None: another attempt might do better."""

    reason: str | None
    message: str
    progress: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None
    base_model_revision: str | None = None
    artifacts: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """What a run that does not compute yet waits for."""

    reason: str
    message: str
    troubled: bool


def ending_of(pods: Sequence[Object], *, succeeded: bool) -> Ending | None:
    """The ending of the newest pod in phase Succeeded (or Failed)."""
    phase = "Succeeded" if succeeded else "Failed"
    ended = [pod for pod in pods if pod.get("status", {}).get("phase") == phase]
    newest = max(ended, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)
    return None if newest is None else _ending(newest)


def last_ending(pods: Sequence[Object]) -> Ending | None:
    """How the newest failed attempt ended."""
    return ending_of(pods, succeeded=False)


def _ending(pod: Object) -> Ending:
    state = _terminated(pod)
    if state is None:
        status = pod.get("status", {})
        said = " ".join(str(status.get(part)) for part in ("reason", "message") if status.get(part))
        return Ending(None, f"the pod ended before its container did: {said or 'no reason given'}")
    spoken = read_termination_message(str(state.get("message") or ""))
    message = _describe(pod, state, spoken)
    return Ending(_reason(state, spoken), message, **_results(spoken, state))


def _terminated(pod: Object) -> Mapping[str, Any] | None:
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            for state in ("state", "lastState"):
                if terminated := (container.get(state) or {}).get("terminated"):
                    return terminated  # type: ignore[no-any-return]
    return None


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


def waiting(pods: Sequence[Object] | None, events: Sequence[Object] | None, volume_grace: float = 0.0) -> Wait:
    """What it waits for. Without pods to look at: that it has just been created.

    `volume_grace`: for so many seconds from a pod's arrival at its node, volumes that fail are not worth a word.
    """
    if pods is None:
        return Wait(Reason.PENDING, "Waiting for the pod to start.", troubled=False)
    alive = [pod for pod in pods if pod.get("status", {}).get("phase") in ("Pending", "Running")]
    if not alive:
        return _no_pod(events or ())
    newest = max(alive, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    return _pod_waits(newest, events or (), volume_grace)


def _newest(events: Sequence[Object]) -> Object | None:
    return max(events, key=_said_at, default=None)


def _said_at(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _no_pod(events: Sequence[Object]) -> Wait:
    newest = _newest(events)
    if newest is None:
        return Wait(Reason.PENDING, "Waiting for the Job's pod to be created.", troubled=False)
    message = str(newest.get("message") or "")[:LONGEST_SENTENCE]
    quota = "exceeded quota" in message
    reason = Reason.QUOTA_EXCEEDED if quota else str(newest.get("reason") or Reason.PENDING)[:LONGEST_WORD]
    return Wait(reason, f"The pod could not be created: {message}", troubled=True)


def _pod_waits(pod: Object, events: Sequence[Object], volume_grace: float) -> Wait:
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message") or "no node fits")
            return Wait(Reason.UNSCHEDULABLE, f"No node for the pod: {message}", troubled=True)
    for container in status.get("containerStatuses") or ():
        state = (container.get("state") or {}).get("waiting") or {}
        reason, message = str(state.get("reason") or ""), str(state.get("message") or "")
        if reason in _IMAGE_TROUBLE:
            return Wait(Reason.IMAGE_PULL_FAILED, f"{container.get('image')}: {reason}: {message}", troubled=True)
        if reason in _CONFIG_TROUBLE:
            return Wait(reason, f"The container cannot start: {message}", troubled=True)
    warning = _newest(events)
    if warning is not None and _lasts(warning, pod, volume_grace):
        return Wait(Reason.VOLUME_NOT_READY, f"{warning.get('reason')}: {warning.get('message')}", troubled=True)
    return Wait(Reason.PENDING, "The pod is being set up (volumes, image).", troubled=False)


def _lasts(warning: Object, pod: Object, grace: float) -> bool:
    """A first failure often heals within seconds, and its Event stays: what counts is that another one comes."""
    arrived = pod.get("status", {}).get("startTime") or pod["metadata"].get("creationTimestamp")
    try:
        lasted = datetime.fromisoformat(_said_at(warning)) - datetime.fromisoformat(str(arrived))
    except (ValueError, TypeError):
        return True
    return lasted.total_seconds() >= grace
