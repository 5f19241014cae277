"""Paths of the resources that the operator touches."""

from __future__ import annotations

from finetune_operator.api.names import API_VERSION, PLURAL


def finetune(namespace: str, name: str) -> str:
    """One FineTune."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}"


def finetune_status(namespace: str, name: str) -> str:
    """The status of one FineTune."""
    return f"{finetune(namespace, name)}/status"


def finetunes(namespace: str | None = None) -> str:
    """All FineTunes of a namespace, or of the cluster."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}" if namespace else f"/apis/{API_VERSION}/{PLURAL}"


def jobs(namespace: str | None = None) -> str:
    """All Jobs of a namespace, or of the cluster."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs" if namespace else "/apis/batch/v1/jobs"


def job(namespace: str, name: str) -> str:
    """One Job."""
    return f"{jobs(namespace)}/{name}"


def core(namespace: str, plural: str, name: str | None = None) -> str:
    """Objects of core/v1: pods, events, secrets, persistentvolumeclaims."""
    collection = f"/api/v1/namespaces/{namespace}/{plural}"
    return f"{collection}/{name}" if name else collection
