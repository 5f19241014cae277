"""Events about a FineTune, its Job and its pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_operator.api.objects import Object
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.kube import resources

SHOWN = 20


def events_of(cluster: Cluster, finetune: Mapping[str, Any], pods: Sequence[Object]) -> list[Object]:
    """The newest last, at most SHOWN."""
    metadata = finetune["metadata"]
    job = ((finetune.get("status") or {}).get("job") or {}).get("uid")
    uids = [metadata["uid"], *([job] if job else []), *(pod["metadata"]["uid"] for pod in pods)]
    path = resources.core(metadata["namespace"], "events")
    found = [event for uid in uids for event in cluster.items(path, fieldSelector=f"involvedObject.uid={uid}")]
    return sorted(found, key=event_time)[-SHOWN:]


def event_time(event: Mapping[str, Any]) -> str:
    """When it was last seen; the API has three fields for that. Pure."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
