"""A real kubelet: its configuration, and the cgroup that it works in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.cluster import binary
from tests.cluster.control_plane import ControlPlane
from tests.cluster.daemon import Daemon
from tests.cluster.node_network import nameservers
from tests.cluster.node_slot import NodeSlot
from tests.cluster.node_sweep import cgroup_roots
from tests.cluster.ports import free_port

NODE = "finetune-node"
READY_TIMEOUT_SECONDS = 90.0


class Kubelet:
    """The kubelet of one slot, registered as the one node of a control plane."""

    def __init__(self, slot: NodeSlot, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        authority = control_plane.authority
        hosts = [NODE, slot.address]
        self._identity = authority.issue("kubelet", f"system:node:{NODE}", organizations=["system:nodes"], hosts=hosts)
        kubeconfig = control_plane.kubeconfig_for("kubelet", self._identity)
        config = slot.scratch / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._config(slot, authority.certificate)))
        command: list[str | Path] = [
            binary.kubernetes() / "kubelet",
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NODE}",
            f"--node-ip={slot.address}",
            f"--root-dir={slot.scratch / 'kubelet'}",
        ]
        self._daemon = Daemon("kubelet", command, folder=slot.scratch)

    def start(self) -> None:
        """Starts the kubelet and waits until the node is Ready. Raises ClusterError."""
        self._daemon.start()
        self._daemon.wait_until(lambda: self._control_plane.node_ready(NODE), READY_TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._daemon.stop(timeout=5)

    def _config(self, slot: NodeSlot, authority: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": slot.address,
            "port": free_port(slot.address),
            "healthzPort": 0,
            "readOnlyPort": 0,
            "containerRuntimeEndpoint": f"unix://{slot.containerd_socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._identity.certificate),
            "tlsPrivateKeyFile": str(self._identity.key),
            "cgroupDriver": "cgroupfs",
            # A tree of our own: what is found there after an accident can be killed without a second thought.
            "cgroupRoot": f"/{slot.name}",
            "failCgroupV1": False,
            # There is no DNS for Services; without this, every pod starts with a warning.
            "clusterDNS": nameservers(),
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(slot.scratch / "pod-logs"),
            # The disk is shared with everything else on the machine: evict only when it is really full.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }


def make_cgroups(slot: NodeSlot) -> None:
    """The cgroup below which the kubelet keeps its pods."""
    for root in cgroup_roots():
        available = root / "cgroup.controllers"
        if available.exists():
            wanted = " ".join(f"+{controller}" for controller in available.read_text().split())
            (root / "cgroup.subtree_control").write_text(wanted)
        (root / slot.name).mkdir(exist_ok=True)
