"""Why Kueue lets a Job wait, from its Workload. Pure.

The wire facts are Kueue's (kueue.x-k8s.io/v1beta1 and v1beta2 alike): the Workload of a Job carries the label
`kueue.x-k8s.io/job-uid`, its condition QuotaReserved=False says what is lacking, and Evicted=True why it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason

GROUP: Final = "kueue.x-k8s.io"
JOB_UID_LABEL: Final = f"{GROUP}/job-uid"
VERSIONS: Final = ("v1beta2", "v1beta1")
"""Of the API, the newest first: a cluster may serve only one of them."""
LONGEST: Final = 1024
"""Characters of Kueue's own words that are passed on."""


def collection(version: str, namespace: str) -> str:
    """Path of the Workloads of a namespace."""
    return workloads(f"{GROUP}/{version}", namespace)


def workloads(api_version: str, namespace: str) -> str:
    """The same by apiVersion, as an object has it."""
    return f"/apis/{api_version}/namespaces/{namespace}/workloads"


def why_it_waits(workload: Object) -> tuple[str, str]:
    """(reason, why it waits in a sentence or none) of a Workload that is not admitted."""
    conditions = {each.get("type"): each for each in _conditions(workload)}
    lacking = _said(conditions.get("QuotaReserved"), "False")
    evicted = conditions.get("Evicted") or {}
    if evicted.get("status") == "True" and evicted.get("reason") == "Preempted":
        why = _said(conditions.get("Preempted"), "True") or _said(evicted, "True")
        return Reason.PREEMPTED, " ".join(part for part in (why, lacking) if part)
    if evicted.get("status") == "True":
        return Reason.QUEUED_BY_KUEUE, " ".join(part for part in (_said(evicted, "True"), lacking) if part)
    return Reason.QUEUED_BY_KUEUE, lacking


def _conditions(workload: Object) -> Iterable[Mapping[str, Any]]:
    found = (workload.get("status") or {}).get("conditions") or ()
    return [each for each in found if isinstance(each, dict)]


def _said(condition: Mapping[str, Any] | None, status: str) -> str:
    if condition is None or condition.get("status") != status:
        return ""
    message = str(condition.get("message") or "").strip()[:LONGEST]
    return message if not message or message.endswith(".") else f"{message}."
