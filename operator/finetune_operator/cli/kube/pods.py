"""The pods of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.names import RUN_LABEL, UID_LABEL
from finetune_operator.api.objects import Object
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.kube import resources


def pods_of(cluster: Cluster, finetune: Mapping[str, Any], run: int) -> list[Object]:
    """Every attempt that still has a pod, the oldest first."""
    metadata = finetune["metadata"]
    selector = f"{UID_LABEL}={metadata['uid']},{RUN_LABEL}={run}"
    found = cluster.items(resources.core(metadata["namespace"], "pods"), labelSelector=selector)
    return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))


def started(pod: Mapping[str, Any]) -> bool:
    """Its log can be asked for."""
    states = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("running" in each.get("state", {}) or "terminated" in each.get("state", {}) for each in states)


def ended(pod: Mapping[str, Any]) -> bool:
    """Its log is complete."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
