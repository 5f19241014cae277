"""From a Job, and where they matter its pods and Events, to a RunState. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from finetune_operator.api.depth import too_deep
from finetune_operator.api.names import CONFIG_ANNOTATION, QUEUE_LABEL
from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.diagnose import (
    LONGEST_SENTENCE,
    LONGEST_WORD,
    Ending,
    Wait,
    ending_of,
    last_ending,
    waiting,
)
from finetune_operator.backends.job.workload import why_it_waits
from finetune_operator.backends.run_state import RunState, Stage

SUSPENDED_BY_SPEC_ANNOTATION = "finetune.dev/suspended-by-spec"
"""On a Job that we suspended: nobody else's suspension is ever lifted by us."""


def condition(job: Object, kind: str) -> Mapping[str, Any] | None:
    """The Job's condition of this type where it is True."""
    for candidate in job.get("status", {}).get("conditions") or ():
        if candidate["type"] == kind and candidate["status"] == "True":
            return candidate  # type: ignore[no-any-return]
    return None


def finished(job: Object) -> bool:
    """Complete or Failed: no pod of it runs or will run."""
    return condition(job, "Complete") is not None or condition(job, "Failed") is not None


def settling(job: Object) -> bool:
    """A pod has ended and the Job controller is still counting it: what the Job says now holds for a moment only."""
    if finished(job):
        return False
    uncounted = job.get("status", {}).get("uncountedTerminatedPods") or {}
    counting = bool(uncounted.get("succeeded") or uncounted.get("failed"))
    return counting or condition(job, "SuccessCriteriaMet") is not None or condition(job, "FailureTarget") is not None


def carried_parameters(job: Object) -> Object | None:
    """The resolved parameters as the Job carries them: what the run was started with, whoever upgrades us since."""
    annotations = job["spec"]["template"]["metadata"].get("annotations") or {}
    try:
        (parameters,) = orjson.loads(annotations[CONFIG_ANNOTATION])["recipe"].values()
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return parameters if isinstance(parameters, dict) and not too_deep(parameters) else None


def attempts(job: Object) -> int:
    """Pods that count so far: failed, succeeded and the one at work."""
    status = job.get("status", {})
    return sum(int(status.get(field) or 0) for field in ("failed", "succeeded", "active"))


def interpret(
    job: Object,
    pods: Sequence[Object] | None = None,
    events: Sequence[Object] | None = None,
    workload: Object | None = None,
    *,
    volume_grace: float = 0.0,
) -> RunState:
    """What the Job says of the run. Never reads a container's reason alone as failure: a Complete Job is complete.

    `volume_grace`: see `waiting`.
    """
    status = job.get("status", {})
    if condition(job, "Complete"):
        return _succeeded(job, pods)
    if failed := condition(job, "Failed"):
        return _failed(job, failed, pods)
    if job["spec"].get("suspend"):
        return _suspended(job, workload)
    if status.get("ready"):
        return _running(job, pods)
    return _pending(job, waiting(pods, events, volume_grace), pods)


def _succeeded(job: Object, pods: Sequence[Object] | None) -> RunState:
    status = job["status"]
    ending = ending_of(pods or (), succeeded=True)
    return RunState(
        stage=Stage.SUCCEEDED,
        reason=Reason.TRAINING_SUCCEEDED,
        message=(ending.message if ending and ending.message else "The training has finished."),
        start_time=status.get("startTime"),
        completion_time=status.get("completionTime"),
        attempts=attempts(job),
        **_results(ending),
    )


def _failed(job: Object, failed: Mapping[str, Any], pods: Sequence[Object] | None) -> RunState:
    ending = last_ending(pods or ())
    reason, message = _why(failed, ending, attempts(job))
    return RunState(
        stage=Stage.FAILED,
        reason=reason,
        message=message,
        troubled=True,
        start_time=job["status"].get("startTime"),
        completion_time=failed.get("lastTransitionTime"),
        attempts=attempts(job),
        **_results(ending),
    )


def _why(failed: Mapping[str, Any], ending: Ending | None, tries: int) -> tuple[str, str]:
    said = str(failed.get("message") or "")[:LONGEST_SENTENCE]
    if failed.get("reason") == "DeadlineExceeded":
        last = f" Last known: {ending.message}" if ending and ending.message else ""
        return Reason.DEADLINE_EXCEEDED, f"The run took longer than spec.activeDeadlineSeconds.{last}"
    if ending is None:
        reason = str(failed.get("reason") or Reason.BACKOFF_LIMIT_EXCEEDED)[:LONGEST_WORD]
        return reason, said or "The Job has failed; its pod is gone."
    if ending.reason is not None:
        return ending.reason, ending.message
    counted = f" after {tries} attempts" if tries > 1 else ""
    return Reason.BACKOFF_LIMIT_EXCEEDED, f"Failed{counted}: {ending.message}"


def _suspended(job: Object, workload: Object | None) -> RunState:
    metadata = job["metadata"]
    common: dict[str, Any] = {"attempts": attempts(job) or None, "start_time": job.get("status", {}).get("startTime")}
    if SUSPENDED_BY_SPEC_ANNOTATION in (metadata.get("annotations") or {}):
        return RunState(
            stage=Stage.SUSPENDED,
            reason=Reason.SUSPENDED_BY_SPEC,
            message="Suspended by spec.suspend; set it to false to go on from the last checkpoint.",
            **common,
        )
    queue = (metadata.get("labels") or {}).get(QUEUE_LABEL)
    where = f"queue {queue}" if queue else "a queue"
    reason, why = why_it_waits(workload) if workload else (Reason.QUEUED_BY_KUEUE, "")
    message = " ".join(part for part in (f"Waiting in {where} to be admitted.", why) if part)
    return RunState(stage=Stage.QUEUED, reason=reason, message=message, **common)


def _running(job: Object, pods: Sequence[Object] | None) -> RunState:
    tries = attempts(job)
    failures = int(job["status"].get("failed") or 0)
    ending = last_ending(pods or ())
    message = "The trainer is running."
    if failures:
        why = f": {ending.message}" if ending else ""
        message = f"Attempt {tries} is running; {failures} failed before it{why}"
    return RunState(
        stage=Stage.RUNNING,
        reason=Reason.PODS_RUNNING,
        message=message,
        start_time=job["status"].get("startTime"),
        attempts=tries,
        checkpoint=_results(ending).get("checkpoint"),
    )


def _pending(job: Object, wait: Wait, pods: Sequence[Object] | None) -> RunState:
    failures = int(job.get("status", {}).get("failed") or 0)
    ending = last_ending(pods or ())
    message = wait.message
    if failures:
        why = f": {ending.message}" if ending else ""
        message = f"{message} Attempts so far: {failures} failed{why}"
    return RunState(
        stage=Stage.PENDING,
        reason=wait.reason,
        message=message,
        troubled=wait.troubled,
        start_time=job.get("status", {}).get("startTime"),
        attempts=attempts(job) or None,
        checkpoint=_results(ending).get("checkpoint"),
    )


def _results(ending: Ending | None) -> dict[str, Any]:
    if ending is None:
        return {}
    return {
        "progress": ending.progress,
        "checkpoint": ending.checkpoint,
        "base_model_revision": ending.base_model_revision,
        "artifacts": ending.artifacts,
    }
