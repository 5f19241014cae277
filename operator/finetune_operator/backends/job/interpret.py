"""From a Job, and where they matter its pods and Events, to a RunState. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from finetune_operator.api.depth import too_deep
from finetune_operator.api.names import CONFIG_ANNOTATION, QUEUE_LABEL
from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.diagnose import (
    Ending,
    ending_of,
    finished_at,
    held_by,
    last_ending,
    lost_to_disruptions,
    newest_alive,
    trainer_ending,
    trainer_runs,
)
from finetune_operator.backends.job.manifest import CONTAINER
from finetune_operator.backends.job.waits import LONGEST_SENTENCE, LONGEST_WORD, WAY_OUT, Wait, lost_node, waiting
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
    """Pods that count so far: failed, succeeded, the one at work, and the one that is being ended."""
    status = job.get("status", {})
    return sum(int(status.get(field) or 0) for field in ("failed", "succeeded", "active", "terminating"))


def interpret(
    job: Object,
    pods: Sequence[Object] | None = None,
    events: Sequence[Object] | None = None,
    workload: Object | None = None,
    *,
    kueue: bool | None = None,
    volume_grace: float = 0.0,
    now: datetime | None = None,
) -> RunState:
    """What the Job says of the run. Never reads a container's reason alone as failure: a Complete Job is complete.

    `kueue`: whether it is in the cluster; None: that cannot be told. `volume_grace`: see `waiting`.
    """
    status = job.get("status", {})
    if condition(job, "Complete"):
        return _succeeded(job, pods)
    if failed := condition(job, "Failed"):
        return _failed(job, failed, pods)
    if job["spec"].get("suspend"):
        return _suspended(job, workload, kueue)
    if status.get("ready"):
        return _running(job, pods)
    return _not_ready(job, pods, events) or _pending(job, waiting(pods, events, volume_grace, now), pods)


def _not_ready(job: Object, pods: Sequence[Object] | None, events: Sequence[Object] | None) -> RunState | None:
    """Of a pod whose trainer runs, or has ended: that the pod as a whole is not ready says nothing of it."""
    pod = newest_alive(pods or ())
    if pod is None or pods is None or "deletionTimestamp" in pod["metadata"]:
        return None
    ending = trainer_ending(pod)
    if ending is not None:
        others = held_by(pod)
        return _held(job, pod, ending, ", ".join(others)) if others else None
    if not trainer_runs(pod):
        return None
    if lost := lost_node(pod, events or ()):
        return _running(job, pods, note=f"{lost}. {WAY_OUT}.", reason=Reason.NODE_LOST)
    ready = {each.get("name"): each.get("ready") for each in pod["status"].get("containerStatuses") or ()}
    unready = sorted(str(name) for name, ready in ready.items() if not ready and name != CONTAINER)
    why = f"container {', '.join(unready)} beside it is not ready" if unready else "its pod is not ready yet"
    return _running(job, pods, note=f"The trainer is running; {why}.")


SWITCH_OFF = (
    "switch its injection off for the next run with backend.job.podLabels or podAnnotations (Istio: the label "
    'sidecar.istio.io/inject: "false")'
)


def _held(job: Object, pod: Object, ending: Ending, others: str) -> RunState:
    """The trainer has ended, and another container keeps its pod: the trainer's end decides."""
    over = pod["status"]["containerStatuses"]
    code = next(int(each["state"]["terminated"].get("exitCode") or 0) for each in over if each["name"] == CONTAINER)
    held = f"Container {others} runs on after the trainer has ended and holds the pod; {SWITCH_OFF}."
    common: dict[str, Any] = {
        "start_time": job.get("status", {}).get("startTime"),
        "attempts": attempts(job),
        **_results(ending),
    }
    if code and ending.reason is None:
        message = f"{held} No other attempt starts before the pod has ended. {ending.message}"
        return RunState(
            stage=Stage.PENDING, reason=Reason.SIDECAR_RUNNING, message=message, troubled=True, **_partial(common)
        )
    succeeded = code == 0
    return RunState(
        stage=Stage.SUCCEEDED if succeeded else Stage.FAILED,
        reason=Reason.TRAINING_SUCCEEDED if succeeded else ending.reason or Reason.BACKOFF_LIMIT_EXCEEDED,
        message=f"{(ending.message or 'The training has finished').rstrip('. ')}. {held}",
        troubled=not succeeded,
        completion_time=finished_at(pod),
        **common,
    )


def _partial(common: dict[str, Any]) -> dict[str, Any]:
    """What an attempt that is not the last leaves."""
    return {name: value for name, value in common.items() if name not in ("progress", "artifacts")}


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


def _suspended(job: Object, workload: Object | None, kueue: bool | None) -> RunState:
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
    if workload is None and (kueue is False or queue is None):
        return RunState(stage=Stage.SUSPENDED, reason=Reason.JOB_SUSPENDED, message=_by_somebody(job, kueue), **common)
    where = f"queue {queue}" if queue else "a queue"
    reason, why = why_it_waits(workload) if workload else (Reason.QUEUED_BY_KUEUE, "")
    message = " ".join(part for part in (f"Waiting in {where} to be admitted.", why) if part)
    return RunState(stage=Stage.QUEUED, reason=reason, message=message, **common)


def _by_somebody(job: Object, kueue: bool | None) -> str:
    name = job["metadata"]["name"]
    nobody = {False: ", and Kueue is not in this cluster", True: ", and Kueue has no Workload of it", None: ""}[kueue]
    return (
        f"Somebody has suspended the Job {name} itself: spec.suspend is false{nobody}. To let it go on: "
        f'kubectl patch job {name} --type=merge -p \'{{"spec":{{"suspend":false}}}}\''
    )


def _running(
    job: Object, pods: Sequence[Object] | None, *, note: str | None = None, reason: Reason = Reason.PODS_RUNNING
) -> RunState:
    tries, ending = attempts(job), last_ending(pods or ())
    message = note or "The trainer is running."
    if before := _attempts_before(job, pods, ending):
        message = f"{'' if note is None else f'{note} '}Attempt {tries} is running; before it: {before}"
    return RunState(
        stage=Stage.RUNNING,
        reason=reason,
        message=message,
        troubled=reason is Reason.NODE_LOST,
        uncertain=reason is Reason.NODE_LOST,
        start_time=job["status"].get("startTime"),
        attempts=tries,
        checkpoint=_results(ending).get("checkpoint"),
    )


def _pending(job: Object, wait: Wait, pods: Sequence[Object] | None) -> RunState:
    ending, message = last_ending(pods or ()), wait.message
    if before := _attempts_before(job, pods, ending):
        message = f"{message} Attempts so far: {before}"
    return RunState(
        stage=Stage.PENDING,
        reason=wait.reason,
        message=message,
        troubled=wait.troubled,
        start_time=job.get("status", {}).get("startTime"),
        attempts=attempts(job) or None,
        checkpoint=_results(ending).get("checkpoint"),
    )


def _attempts_before(job: Object, pods: Sequence[Object] | None, ending: Ending | None) -> str:
    """`1 failed, 2 lost to disruptions: <how the last one ended>`; empty where there was none."""
    failures = int(job.get("status", {}).get("failed") or 0)
    lost = lost_to_disruptions(pods or ())
    counts = [f"{failures} failed"] if failures else []
    if lost:
        counts.append(f"{lost} lost to disruptions, which backoffLimit does not count")
    why = f": {ending.message}" if ending and counts else ""
    return ", ".join(counts) + why


def _results(ending: Ending | None) -> dict[str, Any]:
    if ending is None:
        return {}
    return {
        "progress": ending.progress,
        "checkpoint": ending.checkpoint,
        "base_model_revision": ending.base_model_revision,
        "artifacts": ending.artifacts,
    }
