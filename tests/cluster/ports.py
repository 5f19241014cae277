"""Free TCP ports for servers that cannot tell which one they were given."""

from __future__ import annotations

import random
import socket

# Below the kernel's range for outgoing connections (32768 and up), so that a server that is down for a moment does
# not lose its port to somebody's client.
SERVER_PORTS = range(20000, 32000)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port of `address` that nobody listens on at the moment; random, so that neighbours rarely pick the same."""
    while True:
        port = random.choice(SERVER_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
