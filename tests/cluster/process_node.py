"""The node whose pods are plain processes: the project's node agent as a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.cluster.daemon import Daemon
from tests.cluster.paths import CHECKOUT

NODE = "finetune-node"
MODULE = "tests.cluster.node_agent"
READY_TIMEOUT_SECONDS = 60.0


class ProcessNode:
    """One node agent, registered with a control plane; its files are in `folder`."""

    def __init__(self, folder: Path, control_plane: ControlPlane, image_map: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not image_map.exists():
            image_map.write_text(json.dumps({}))
        address = control_plane.address
        authority = control_plane.authority
        # One certificate for both directions: the node's name to the API server, its address to `kubectl logs`.
        identity = authority.issue(
            "node-agent", f"system:node:{NODE}", organizations=["system:nodes"], hosts=[NODE, address]
        )
        kubeconfig = control_plane.kubeconfig_for("node-agent", identity)
        options: list[str | Path] = ["--kubeconfig", kubeconfig, "--name", NODE, "--state", folder / "state"]
        options += ["--images", image_map, "--address", address]
        options += ["--tls-cert", identity.certificate, "--tls-key", identity.key]
        options += ["--client-ca", authority.certificate]
        self._state = folder / "state"
        self._control_plane = control_plane
        self._daemon = Daemon(
            "node-agent", [sys.executable, "-m", MODULE, *options], folder=folder, env={"PYTHONPATH": str(CHECKOUT)}
        )

    def start(self) -> None:
        """Returns when the node is Ready. Raises ClusterError."""
        self._daemon.start()
        self._daemon.wait_until(lambda: self._control_plane.node_ready(NODE), READY_TIMEOUT_SECONDS)

    def stop(self) -> None:
        self._daemon.stop(timeout=15)
        end_leftover_pods(self._state)


def end_leftover_pods(state: Path) -> None:
    """Kills the pods that an agent with this state folder left behind; harmless when there are none."""
    command = [sys.executable, "-m", MODULE, "--state", str(state), "--sweep"]
    subprocess.run(command, cwd=CHECKOUT, capture_output=True, timeout=60)
