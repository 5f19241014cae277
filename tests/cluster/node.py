"""The real node: containerd and kubelet in one slot of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import packages
from tests.cluster.containerd import Containerd
from tests.cluster.control_plane import ControlPlane
from tests.cluster.errors import ClusterError
from tests.cluster.exclusive import exclusive
from tests.cluster.kubelet import Kubelet, make_cgroups
from tests.cluster.node_network import make_network
from tests.cluster.node_slot import RUN_FOLDER, SLOTS, NodeSlot, abandoned_slots, free_slot
from tests.cluster.node_sweep import sweep
from tests.cluster.pause_image import PauseImage

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
IP_FORWARD_BEFORE = RUN_FOLDER / "ip_forward.before"


@dataclass(frozen=True)
class NodeGround:
    """What must be there before the control plane: the address it listens on, and the place for the node."""

    slot: NodeSlot

    @property
    def address(self) -> str:
        return self.slot.address


@contextlib.contextmanager
def node_ground() -> Iterator[NodeGround]:
    """A free slot, swept before and after, with its bridge and cgroup. Raises ClusterError."""
    with _ip_forward_restored(), free_slot() as slot:
        sweep(slot)
        slot.scratch.mkdir(parents=True)
        try:
            make_network(slot)
            make_cgroups(slot)
            yield NodeGround(slot)
        finally:
            sweep(slot)


def sweep_abandoned() -> None:
    """Removes what nodes left behind whose owners were killed; without root there are none."""
    for slot in abandoned_slots():
        with _ip_forward_restored():
            sweep(slot)


@contextlib.contextmanager
def running_node(ground: NodeGround, control_plane: ControlPlane) -> Iterator[Path]:
    """Starts everything and yields containerd's socket when the node is Ready. Raises ClusterError."""
    slot = ground.slot
    plugins = packages.cni_folder()
    if not plugins:
        raise ClusterError("the CNI plugins are gone: `python -m tests.cluster up` installs them again")
    with contextlib.ExitStack() as started:
        pause = PauseImage.of_this_machine()
        containerd = Containerd(slot, pause_image=pause.reference, cni_plugins=plugins)
        started.callback(containerd.stop)
        containerd.start()
        pause.load(containerd.ctr)
        kubelet = Kubelet(slot, control_plane)
        started.callback(kubelet.stop)
        kubelet.start()
        yield slot.containerd_socket


@contextlib.contextmanager
def _ip_forward_restored() -> Iterator[None]:
    # The bridge plugin switches forwarding on and nobody switches it off again: the last cluster to end does.
    with exclusive(IP_FORWARD_BEFORE):
        if not IP_FORWARD_BEFORE.exists():
            IP_FORWARD_BEFORE.write_text(IP_FORWARD.read_text())
    try:
        yield
    finally:
        with exclusive(IP_FORWARD_BEFORE):
            if not any(Path("/sys/class/net", slot.name).exists() for slot in map(NodeSlot, SLOTS)):
                IP_FORWARD.write_text(IP_FORWARD_BEFORE.read_text())
                IP_FORWARD_BEFORE.unlink()
