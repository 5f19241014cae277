"""What a run waits for that does not compute yet, from its pods and Events. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.diagnose import newest_alive
from finetune_operator.backends.job.disruption import disruption_of, pod_condition
from finetune_operator.backends.job.events import about, moment, newest, said_at, since

LONGEST_WORD, LONGEST_SENTENCE = 128, 4096
"""Of what others say: the status would be refused if it were longer than its schema allows."""
OVERDUE = timedelta(seconds=30)
"""So long after its grace period, a pod that is being deleted should be gone."""

_IMAGE_TROUBLE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CONFIG_TROUBLE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_OVER = ("Failed", "FailedScheduling")
_NO_CLASS: Final = re.compile(r'storageclass[a-z0-9.]* "(?P<name>[^"]+)" not found', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wait:
    """What a run that does not compute yet waits for."""

    reason: str
    message: str
    troubled: bool


def waiting(
    pods: Sequence[Object] | None,
    events: Sequence[Object] | None,
    volume_grace: float = 0.0,
    now: datetime | None = None,
) -> Wait:
    """What it waits for. Without pods to look at: that it has just been created.

    `volume_grace`: for so many seconds from a pod's arrival at its node, volumes that fail are not worth a word.
    """
    if pods is None:
        return Wait(Reason.PENDING, "Waiting for the pod to start.", troubled=False)
    pod = newest_alive(pods)
    if pod is None:
        return _no_pod(pods, events or ())
    return _pod_waits(pod, events or (), volume_grace, now)


def is_unscheduled(pod: Object) -> bool:
    """Whether the scheduler has found no place for it yet."""
    return pod_condition(pod, "PodScheduled", "False") is not None


def lost_node(pod: Object, events: Sequence[Object] = ()) -> str | None:
    """In a sentence that the pod's node does not answer; None where nothing says so."""
    ready, status = pod_condition(pod, "Ready", "False") or {}, pod.get("status") or {}
    # The node controller takes Ready off a pod and leaves what the kubelet has said of its containers.
    taken_off = bool(ready) and pod_condition(pod, "ContainersReady") is not None
    told = taken_off and any(each.get("reason") == "NodeNotReady" for each in _of_pod(events, pod))
    if ready.get("reason") != "NodeNotReady" and status.get("reason") != "NodeLost" and not told:
        return None
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    where = f"Node {node} of pod" if node else "The node of pod"
    return f"{where} {_name(pod)} does not answer (NodeNotReady), so that the trainer may still run there"


def overdue(pod: Object, now: datetime | None) -> bool:
    """Whether a pod that is being deleted should have ended long since."""
    gone_by = moment(pod["metadata"].get("deletionTimestamp"))
    return now is not None and gone_by is not None and now > gone_by + OVERDUE


WAY_OUT: Final = (
    "No other attempt starts before that pod is gone: two would write one output. If the node is gone for good, delete "
    "it, or taint it with node.kubernetes.io/out-of-service"
)


def _no_pod(pods: Sequence[Object], events: Sequence[Object]) -> Wait:
    """What is said of the Job counts, since its last pod was made: the rest is about pods that are over."""
    last = max((time for pod in pods if (time := moment(pod["metadata"].get("creationTimestamp")))), default=None)
    told = since([each for each in events if _is_of_job(each)], last)
    # What the Job controller says of it, before what others say of the Job.
    event = newest(each for each in told if each.get("reason") == "FailedCreate") or newest(told)
    if event is None:
        return Wait(Reason.PENDING, "Waiting for the Job's pod to be created.", troubled=False)
    message = str(event.get("message") or "")[:LONGEST_SENTENCE]
    quota = "exceeded quota" in message
    reason = Reason.QUOTA_EXCEEDED if quota else str(event.get("reason") or Reason.PENDING)[:LONGEST_WORD]
    return Wait(reason, f"The pod could not be created: {message}", troubled=True)


def _is_of_job(event: Object) -> bool:
    return bool(about([event], "Job", names=[str((event.get("involvedObject") or {}).get("name"))]))


def _pod_waits(pod: Object, events: Sequence[Object], volume_grace: float, now: datetime | None) -> Wait:
    if "deletionTimestamp" in pod["metadata"]:
        return _ending(pod, events, now)
    if unscheduled := pod_condition(pod, "PodScheduled", "False"):
        return _unscheduled(pod, str(unscheduled.get("message") or "no node fits"), events)
    for container in _containers(pod):
        state = (container.get("state") or {}).get("waiting") or {}
        reason, message = str(state.get("reason") or ""), str(state.get("message") or "")
        if reason in _IMAGE_TROUBLE:
            return Wait(Reason.IMAGE_PULL_FAILED, f"{container.get('image')}: {reason}: {message}", troubled=True)
        if reason in _CONFIG_TROUBLE:
            return Wait(reason, f"The container cannot start: {message}", troubled=True)
    warning = newest(each for each in _of_pod(events, pod) if _counts(str(each.get("reason") or "")))
    if warning is not None and _lasts(warning, pod, volume_grace):
        return _warned(warning)
    return Wait(Reason.PENDING, "The pod is being set up (volumes, image).", troubled=False)


def _counts(reason: str) -> bool:
    """What keeps a pod that has a node from starting. Scheduling is over, and images are in the containers' states."""
    return reason in ("", "NetworkNotReady") or (reason.startswith("Failed") and reason not in _OVER)


def _warned(warning: Object) -> Wait:
    """A kubelet's own words; what it says of volumes has a reason of ours."""
    said = str(warning.get("reason") or "")[:LONGEST_WORD]
    message = f"{said}: {warning.get('message')}"[:LONGEST_SENTENCE]
    about_volumes = not said or "Mount" in said or "Volume" in said
    return Wait(Reason.VOLUME_NOT_READY if about_volumes else said, message, troubled=True)


def _ending(pod: Object, events: Sequence[Object], now: datetime | None) -> Wait:
    """A pod that has been told to end, and has not."""
    if lost := lost_node(pod, events):
        return Wait(Reason.NODE_LOST, f"{lost}. {WAY_OUT}.", troubled=True)
    if overdue(pod, now):
        until = pod["metadata"]["deletionTimestamp"]
        message = f"Pod {_name(pod)} was to have ended by {until}, and its node has not confirmed it. {WAY_OUT}."
        return Wait(Reason.NODE_LOST, message, troubled=True)
    why = disruption_of(pod)
    because = f" ({why.removeprefix('the pod was ended by Kubernetes ')})" if why else ""
    message = f"Pod {_name(pod)} was told to end{because} and has its grace period to save a checkpoint."
    return Wait(Reason.PENDING, message, troubled=False)


def _unscheduled(pod: Object, said: str, events: Sequence[Object]) -> Wait:
    claims = [
        str(each["persistentVolumeClaim"].get("claimName"))
        for each in (pod.get("spec") or {}).get("volumes") or ()
        if isinstance(each.get("persistentVolumeClaim"), dict)
    ]
    told = [each for each in events if isinstance(each.get("involvedObject"), dict)]
    warning = newest(about(told, "PersistentVolumeClaim", names=claims))
    if warning is not None:
        return Wait(Reason.VOLUME_NOT_READY, _claim_trouble(warning), troubled=True)
    if "persistentvolume" in said.lower():
        return Wait(Reason.VOLUME_NOT_READY, f"A volume of the pod cannot be bound: {said}", troubled=True)
    return Wait(Reason.UNSCHEDULABLE, f"No node for the pod: {said}", troubled=True)


def _claim_trouble(warning: Object) -> str:
    claim, said = warning["involvedObject"].get("name"), str(warning.get("message") or "")
    if found := _NO_CLASS.search(said):
        return (
            f"The claim {claim} cannot be bound: there is no StorageClass {found['name'][:253]} in the cluster; create "
            "it, or raise run with another backend.job.storage.storageClassName (kubectl get storageclass)."
        )
    return f"The claim {claim} cannot be bound: {warning.get('reason')}: {said[:LONGEST_SENTENCE]}"


def _containers(pod: Object) -> Iterator[dict[str, Any]]:
    """The statuses of all of the pod's containers; a mesh injects some that run before the trainer."""
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from status.get(kind) or ()


def _of_pod(events: Sequence[Object], pod: Object) -> list[Object]:
    return about(events, "Pod", names=[_name(pod)], uid=pod["metadata"].get("uid"))


def _name(pod: Object) -> str:
    return str(pod["metadata"].get("name", ""))


def _lasts(warning: Object, pod: Object, grace: float) -> bool:
    """A first failure often heals within seconds, and its Event stays: what counts is that another one comes."""
    arrived = moment((pod.get("status") or {}).get("startTime") or pod["metadata"].get("creationTimestamp"))
    said = said_at(warning)
    return arrived is None or said is None or (said - arrived).total_seconds() >= grace
