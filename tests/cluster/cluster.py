"""A whole local cluster of any level, as child processes of the caller."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.control_plane import ControlPlane
from tests.cluster.daemon import Daemon
from tests.cluster.levels import Level
from tests.cluster.node import node_ground, running_node
from tests.cluster.paths import CHECKOUT
from tests.cluster.process_node import ProcessNode
from tests.cluster.provisioner import storage_class
from tests.cluster.record import Record


@contextlib.contextmanager
def running_cluster(folder: Path, level: Level) -> Iterator[Record]:
    """Starts a cluster with its state in `folder`, yields it when it is ready, and ends it. Raises ClusterError."""
    level = Level(level)
    with contextlib.ExitStack() as started:
        if level is Level.NODE:
            ground = started.enter_context(node_ground())
            control_plane = started.enter_context(_control_plane(folder, ground.address))
            socket = started.enter_context(running_node(ground, control_plane))
            record = Record(level, control_plane.kubeconfig, ground.address, containerd_socket=socket)
        elif level is Level.PROCESS:
            control_plane = started.enter_context(_control_plane(folder, "127.0.0.1"))
            image_map = folder / "images.json"
            node = ProcessNode(folder / "node-agent", control_plane, image_map)
            started.callback(node.stop)
            node.start()
            record = Record(level, control_plane.kubeconfig, control_plane.address, image_map=image_map)
        else:
            control_plane = started.enter_context(ControlPlane(folder / "control-plane"))
            record = Record(level, control_plane.kubeconfig, control_plane.address)
        if level is not Level.CONTROL_PLANE:
            started.enter_context(_provisioner(folder, control_plane))
        yield record


def _control_plane(folder: Path, address: str) -> ControlPlane:
    return ControlPlane(folder / "control-plane", scheduler=True, address=address)


@contextlib.contextmanager
def _provisioner(folder: Path, control_plane: ControlPlane) -> Iterator[None]:
    control_plane.apply(storage_class())
    command = [sys.executable, "-m", "tests.cluster.provisioner"]
    options = ["--kubeconfig", str(control_plane.kubeconfig), "--volumes", str(folder / "volumes")]
    daemon = Daemon("provisioner", [*command, *options], folder=folder, env={"PYTHONPATH": str(CHECKOUT)})
    daemon.start()
    try:
        yield
    finally:
        daemon.stop()
