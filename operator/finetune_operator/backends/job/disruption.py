"""Why Kubernetes ended a pod before its trainer was done: evictions, preemptions, nodes that go or are lost. Pure.

The wire facts: the kubelet writes `status.reason` and `status.message` of a pod that it ends itself (Evicted for node
pressure and for limits of volumes, Terminated at a shutdown, Preempting, DeadlineExceeded …), and whoever else ends it
says so in the condition `DisruptionTarget` (PreemptionByScheduler, DeletionByTaintManager, EvictionByEvictionAPI,
DeletionByPodGC, TerminationByKubelet). What its containers report is then a mere SIGKILL or SIGTERM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from finetune_operator.api.objects import Object

LONGEST: Final = 1024
"""Characters of what Kubernetes says that are passed on."""

_ADVICE: Final = (
    ('volume "shm"', "raise backend.job.shmSize"),
    ('volume "tmp"', "the trainer's temporary files filled the node's disk"),
    ('volume "cache"', "give backend.job.cache a claim"),
    ('volume "storage"', "set backend.job.storage"),
    ("ephemeral", "raise backend.job.resources.requests.ephemeral-storage, or set backend.job.cache to a claim"),
    ("resource: memory", "raise backend.job.resources.requests.memory"),
)
"""By what stands in the message of an eviction."""


def pod_condition(pod: Object, kind: str, status: str = "True") -> Mapping[str, Any] | None:
    """The pod's condition of this type where it has this status."""
    for each in (pod.get("status") or {}).get("conditions") or ():
        if each.get("type") == kind and each.get("status") == status:
            return each  # type: ignore[no-any-return]
    return None


def is_ignored(pod: Object) -> bool:
    """Whether the Job's podFailurePolicy does not count this failed pod: it was disrupted."""
    failed = (pod.get("status") or {}).get("phase") == "Failed"
    return failed and pod_condition(pod, "DisruptionTarget") is not None


def disruption_of(pod: Object) -> str | None:
    """Who ended the pod and why, in a sentence; None: nobody but its containers themselves."""
    status, target = pod.get("status") or {}, pod_condition(pod, "DisruptionTarget") or {}
    by = ", ".join(dict.fromkeys(str(each) for each in (status.get("reason"), target.get("reason")) if each))
    if not by:
        return None
    said = str(status.get("message") or target.get("message") or "").strip()[:LONGEST]
    sentence = f"the pod was ended by Kubernetes ({by})" + (f": {said}" if said else "")
    advice = next((advice for words, advice in _ADVICE if words in said), None)
    return sentence if advice is None else f"{sentence.rstrip('. ')}; {advice}"
