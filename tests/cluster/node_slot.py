"""One place on this machine for a real node: a number that gives it its own bridge, addresses, folders and cgroup.

Images are kept per place and not per cluster, so that they survive `down`. A place belongs to whoever holds its lock;
everything found there by a new holder is left over from somebody who was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.paths import cache_dir

SLOTS = range(8)
RUN_FOLDER = Path("/run/finetune-operator")


@dataclass(frozen=True)
class NodeSlot:
    """Names and paths of place `index`; nothing here exists until it is used."""

    index: int

    @property
    def name(self) -> str:
        """The bridge, the CNI network and the cgroup."""
        return f"finetune{self.index}"

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"10.244.{self.index}.0/24")

    @property
    def address(self) -> str:
        """The bridge's address: node, API server and operator as pods see them."""
        return str(self.subnet[1])

    @property
    def folder(self) -> Path:
        return cache_dir() / "node" / str(self.index)

    @property
    def images(self) -> Path:
        """containerd's root: kept between clusters."""
        return self.folder / "containerd"

    @property
    def scratch(self) -> Path:
        """What belongs to one life of the node: kubelet, CNI state, logs."""
        return self.folder / "scratch"

    @property
    def run_folder(self) -> Path:
        """Sockets and mounts; a short path, as Unix sockets need."""
        return RUN_FOLDER / str(self.index)

    @property
    def containerd_socket(self) -> Path:
        return self.run_folder / "containerd.sock"


@contextlib.contextmanager
def free_slot() -> Iterator[NodeSlot]:
    """The first place that nobody uses, locked until the end of the block. Raises ClusterError when there is none."""
    for index in SLOTS:
        slot = NodeSlot(index)
        if _taken_by_others(slot):
            continue
        with _held(slot) as held:
            if held:
                yield slot
                return
    raise ClusterError(f"all {len(SLOTS)} places for local nodes are in use: take one down")


def abandoned_slots() -> Iterator[NodeSlot]:
    """The places whose holder is gone without having cleaned up, each locked while the caller looks at it."""
    if os.geteuid() != 0:
        return
    for slot in map(NodeSlot, SLOTS):
        if slot.scratch.exists() or slot.run_folder.exists():
            with _held(slot) as held:
                if held:
                    yield slot


@contextlib.contextmanager
def _held(slot: NodeSlot) -> Iterator[bool]:
    """Holds the place's lock during the block, or says that somebody else does."""
    # Beside the sockets and not in the cache: places are the machine's, caches may be several.
    RUN_FOLDER.mkdir(mode=0o700, exist_ok=True)
    with slot.run_folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _taken_by_others(slot: NodeSlot) -> bool:
    """Whether some other interface (another cluster's network, a VPN) has an address in the subnet."""
    listing = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True, text=True)
    return any(
        interface["ifname"] != slot.name and ipaddress.ip_address(address["local"]) in slot.subnet
        for interface in json.loads(listing.stdout)
        for address in interface.get("addr_info", [])
    )
