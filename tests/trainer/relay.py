"""A relay before a server that lets bytes through at a pace, and counts them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

CHUNK: Final = 1 << 16


@dataclass
class Relay:
    """host:port of its own; `sent`: bytes that clients have sent to the server since it began."""

    host: str
    sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, size: int) -> None:
        """Bytes that went through."""
        with self._lock:
            self.sent += size

    def wait(self, size: int, timeout_s: float = 60) -> None:
        """Until so many bytes were sent."""
        until = time.monotonic() + timeout_s
        while self.sent < size:
            assert time.monotonic() < until, f"{self.sent} of {size} bytes were sent"
            time.sleep(0.005)


@contextmanager
def relay(to: str, bytes_per_second: float = float("inf")) -> Iterator[Relay]:
    """Running, before the server at host:port `to`. bytes_per_second: of each connection, towards the server."""
    host, _, port = to.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    running = Relay(f"127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = [listener]

    def start(work: Callable[..., None], *arguments: object) -> None:
        threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        threads[-1].start()

    def carry(source: socket.socket, target: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if upwards:
                    running.count(len(data))
                    time.sleep(len(data) / bytes_per_second)
                target.sendall(data)
        end(source, target)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                sockets.extend((client, server))
                start(carry, client, server, True)
                start(carry, server, client, False)

    start(accept)
    try:
        yield running
    finally:
        end(*sockets)
        for thread in threads:
            thread.join(10)
        for each in sockets:
            each.close()


def end(*sockets: socket.socket) -> None:
    """Wake whoever waits for them."""
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
