"""Events about pods, as `kubectl describe pod` shows them."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .api import MERGE_PATCH, ApiError, KubeApi
from .status import timestamp

_QUIET_SECONDS = 15.0  # in which the same event is not counted again

log = logging.getLogger(__name__)


class PodEvents:
    """Records Events for pods. The same Event again only raises its count; a failure to record is only logged."""

    def __init__(self, api: KubeApi, node: str) -> None:
        self._api = api
        self._node = node
        self._recent: dict[str, float] = {}  # event name -> when it was last recorded (monotonic)

    def record(self, pod: Mapping[str, Any], kind: str, reason: str, message: str, container: str = "") -> None:
        """`kind` is Normal or Warning; `container` is a field path such as spec.containers{trainer}."""
        metadata = pod["metadata"]
        identity = "\0".join((metadata["uid"], kind, reason, message, container))
        name = f"{metadata['name'][:200]}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        if not self._due(name):
            return
        path = f"/api/v1/namespaces/{metadata['namespace']}/events"
        now = timestamp(datetime.now(UTC))
        involved = {"apiVersion": "v1", "kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"]}
        body = {
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {**involved, "uid": metadata["uid"], **({"fieldPath": container} if container else {})},
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._create_or_count(path, name, body, now)
        except ApiError as error:
            log.debug("event %s of pod %s not recorded: %s", reason, metadata["name"], error)

    def _due(self, name: str) -> bool:
        now = time.monotonic()
        self._recent = {key: at for key, at in self._recent.items() if now - at < _QUIET_SECONDS}
        return self._recent.setdefault(name, now) == now

    def _create_or_count(self, path: str, name: str, body: dict[str, Any], now: str) -> None:
        try:
            self._api.request("POST", path, body)
        except ApiError as error:
            if error.code != 409:
                raise
            count = int((self._api.get(f"{path}/{name}").get("count")) or 1) + 1
            patch = {"count": count, "lastTimestamp": now}
            self._api.request("PATCH", f"{path}/{name}", patch, content_type=MERGE_PATCH)
