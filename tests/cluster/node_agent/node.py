"""The Node object of this host, and the heartbeats that keep it Ready."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .api import MERGE_PATCH, STRATEGIC_PATCH, ApiError, KubeApi
from .status import timestamp

log = logging.getLogger(__name__)

LEASE_SECONDS = 40  # the kubelet's nodeLeaseDurationSeconds
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")


def host_capacity(folder: Path, further: Mapping[str, str]) -> dict[str, str]:
    """Capacity of this host as Kubernetes quantities; `further` adds resources or replaces these."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{memory // 1024}Ki",
        "ephemeral-storage": f"{shutil.disk_usage(folder).total // 1024}Ki",
        "pods": "110",
        **further,
    }


def node_status(
    capacity: Mapping[str, str], address: str, port: int, version: str, *, ready: bool, now: datetime
) -> dict[str, Any]:
    """The status of the Node, for a strategic merge patch. Pure."""
    stamp = timestamp(now)

    def condition(kind: str, status: bool, reason: str, message: str) -> dict[str, str]:
        body = {"type": kind, "status": str(status), "reason": reason, "message": message}
        return {**body, "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}

    if ready:
        state = condition("Ready", True, "KubeletReady", "pods run as processes of this host")
    else:
        state = condition("Ready", False, "KubeletNotReady", "node is shutting down")
    return {
        "capacity": dict(capacity),
        "allocatable": dict(capacity),
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": [
            *(condition(kind, False, f"KubeletHasNo{kind}", "not measured") for kind in _PRESSURES),
            state,
        ],
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": platform.release(),
            "osImage": platform.platform(),
            "containerRuntimeVersion": "process://1",
            "kubeletVersion": version,
            "kubeProxyVersion": "",
            "operatingSystem": platform.system().lower(),
            "architecture": architecture(),
        },
    }


def architecture() -> str:
    """This host's architecture in Go's words."""
    machine = platform.machine().lower()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


class Node(threading.Thread):
    """Registers the Node and renews its Lease; a Node deleted by somebody is registered again."""

    def __init__(
        self, api: KubeApi, name: str, address: str, port: int, capacity: Mapping[str, str], period: float = 10.0
    ) -> None:
        super().__init__(name="node", daemon=True)
        self._api = api
        self._name = name
        self._address = address
        self._port = port
        self.capacity = dict(capacity)
        self._period = period
        self._identity = f"{name}-{uuid.uuid4().hex[:8]}"
        self._stopped = threading.Event()

    def register(self) -> None:
        """Creates or updates the Node and marks it Ready. Raises ApiError."""
        self._version = str(self._api.get("/version")["gitVersion"])
        labels = {
            "kubernetes.io/hostname": self._name,
            "kubernetes.io/os": platform.system().lower(),
            "kubernetes.io/arch": architecture(),
        }
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._name, "labels": labels}}
        try:
            self._api.request("POST", "/api/v1/nodes", body)
        except ApiError as error:
            if error.code != 409:
                raise
            patch = {"metadata": {"labels": labels}}
            self._api.request("PATCH", f"/api/v1/nodes/{self._name}", patch, content_type=STRATEGIC_PATCH)
        self._write_status(ready=True)

    def run(self) -> None:
        beats = 0
        while not self._stopped.is_set():
            try:
                self._renew_lease()
                beats += 1
                # Every few minutes, as the kubelet does, and to notice that the Node is gone.
                if beats % 6 == 0:
                    self._write_status(ready=True)
            except ApiError as error:
                log.warning("heartbeat failed: %s", error)
                if error.code == 404:
                    self._register_again()
            self._stopped.wait(self._period)

    def stop(self) -> None:
        """Ends the heartbeats and, if the API server still answers, says that the node is shutting down."""
        self._stopped.set()
        try:
            self._write_status(ready=False)
        except ApiError as error:
            log.info("node not marked as shutting down: %s", error)

    def _register_again(self) -> None:
        try:
            self.register()
        except ApiError as error:
            log.warning("registration failed: %s", error)

    def _write_status(self, *, ready: bool) -> None:
        status = node_status(
            self.capacity, self._address, self._port, self._version, ready=ready, now=datetime.now(UTC)
        )
        path = f"/api/v1/nodes/{self._name}/status"
        self._api.request("PATCH", path, {"status": status}, content_type=STRATEGIC_PATCH)

    def _renew_lease(self) -> None:
        folder = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        try:
            self._api.request("PATCH", f"{folder}/{self._name}", {"spec": spec}, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.code != 404:
                raise
            node = self._api.get(f"/api/v1/nodes/{self._name}")
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": node["metadata"]["uid"]}
            metadata = {"name": self._name, "namespace": "kube-node-lease", "ownerReferences": [owner]}
            self._api.request("POST", folder, {"metadata": metadata, "spec": {**spec, "acquireTime": now}})
