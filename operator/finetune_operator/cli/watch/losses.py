"""The losses of a run so far, from its pods' logs: the status has only the last one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from finetune_operator.api.objects import Object
from finetune_operator.cli.kube.cluster import Cluster
from finetune_operator.cli.kube.pods import pods_of, started
from finetune_operator.cli.output.table import backend_of
from finetune_operator.kube import resources
from finetune_operator.kube.errors import ApiError

TAIL_LINES = 2000


def losses_so_far(cluster: Cluster, finetune: Object) -> list[float]:
    """Empty where there are none, or where the logs may not be read: it is an ornament."""
    spec = finetune.get("spec") or {}
    if backend_of(spec) != "job" or not (finetune.get("status") or {}).get("progress"):
        return []
    try:
        pods = [pod for pod in pods_of(cluster, finetune, int(spec.get("run") or 1)) if started(pod)]
        if not pods:
            return []
        name = pods[-1]["metadata"]["name"]
        path = resources.core(finetune["metadata"]["namespace"], "pods", name)
        return losses_in(cluster.lines(f"{path}/log", tailLines=str(TAIL_LINES)))
    except ApiError:
        return []


def losses_in(lines: Iterable[str]) -> list[float]:
    """Of the trainer's JSON lines, in their order. Pure."""
    found = []
    for line in lines:
        if not line.startswith("{"):
            continue
        try:
            loss = json.loads(line).get("loss")
        except (ValueError, AttributeError, RecursionError):
            continue
        if isinstance(loss, (int, float)) and not isinstance(loss, bool) and math.isfinite(loss):
            found.append(float(loss))
    return found
