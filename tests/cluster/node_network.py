"""The pods' network on this machine: a bridge that the host is on, and a way out that hides behind the host."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.node_slot import NodeSlot

# systemd-resolved answers on loopback, where pods cannot reach it, and keeps the real servers in a file of its own.
RESOLVER_FILES = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


def make_network(slot: NodeSlot) -> None:
    """Makes the bridge with the node's address, there before anything listens on it, and the way out.

    Raises ClusterError.
    """
    _run("ip", "link", "add", slot.name, "type", "bridge")
    _run("ip", "address", "add", f"{slot.address}/{slot.subnet.prefixlen}", "dev", slot.name)
    _run("ip", "link", "set", slot.name, "up")
    # A table of our own, so that it goes in one piece. The bridge plugin would add rules for every pod instead.
    _run("nft", "add", "table", "ip", slot.name)
    _run("nft", "add", "chain", "ip", slot.name, "out", "{ type nat hook postrouting priority srcnat; }")
    _run("nft", "add", "rule", "ip", slot.name, "out", f"ip saddr {slot.subnet} ip daddr != {slot.subnet} masquerade")


def remove_network(slot: NodeSlot) -> None:
    """Removes what `make_network` made; harmless when it is not there."""
    subprocess.run(["nft", "delete", "table", "ip", slot.name], capture_output=True)
    subprocess.run(["ip", "link", "delete", slot.name], capture_output=True)


def nameservers() -> list[str]:
    """The name servers of this machine that pods can reach."""
    for path in RESOLVER_FILES:
        if path.exists():
            fields = [line.split() for line in path.read_text().splitlines()]
            servers = [words[1] for words in fields if words[:1] == ["nameserver"] and len(words) > 1]
            return [server for server in servers if _is_reachable(server)]
    return []


def _is_reachable(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")
