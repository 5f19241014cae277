"""The node's HTTPS endpoint: what the API server asks for `kubectl logs`."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from .container import Container
from .logs import LogOptions, limited, render, tail
from .status import Waiting

log = logging.getLogger(__name__)

_FOLLOW_POLL_SECONDS = 0.1


class Containers(Protocol):
    """Finds a container of a pod on this node; None if there is none."""

    def find(self, namespace: str, pod: str, container: str) -> Container | None: ...


class LogServer(ThreadingHTTPServer):
    """Serves /healthz and /containerLogs/{namespace}/{pod}/{container} over TLS; a thread per connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, address: str, port: int, containers: Containers, certificate: Path, key: Path, client_ca: Path | None
    ) -> None:
        """Port 0 takes a free one. With `client_ca`, logs are given only to clients with a certificate of it."""
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler)
        self.containers = containers
        self.verifies_clients = client_ca is not None
        self.stopping = False
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        if client_ca is not None:
            self._tls.load_verify_locations(client_ca)
            self._tls.verify_mode = ssl.CERT_OPTIONAL  # /healthz is open to all

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.settimeout(60)
        # The handshake happens in the connection's own thread: a silent client delays nobody.
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LogServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        match [unquote(part) for part in url.path.split("/")[1:]]:
            case ["healthz"]:
                self._text(HTTPStatus.OK, "ok")
            case ["containerLogs", namespace, pod, name]:
                if self.server.verifies_clients and not self.connection.getpeercert():
                    self._text(HTTPStatus.UNAUTHORIZED, "Unauthorized")
                    return
                self._logs(namespace, pod, name, dict(parse_qsl(url.query)))
            case _:
                self._text(HTTPStatus.NOT_FOUND, f"{url.path} is not served where pods run as processes")

    def do_POST(self) -> None:
        message = "exec, attach and port-forward are not served where pods run as processes"
        self._text(HTTPStatus.NOT_IMPLEMENTED, message)

    def _logs(self, namespace: str, pod: str, name: str, query: dict[str, str]) -> None:
        try:
            options = LogOptions.parse(query, datetime.now(UTC))
        except ValueError as error:
            self._text(HTTPStatus.BAD_REQUEST, f"invalid log options: {error}")
            return
        container = self.server.containers.find(namespace, pod, name)
        if container is None:
            self._text(HTTPStatus.NOT_FOUND, f'container "{name}" of pod "{pod}" is not on this node')
            return
        path = container.log(previous=options.previous)
        if path is None:
            self._text(HTTPStatus.BAD_REQUEST, _no_log(container, pod, previous=options.previous))
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with path.open("rb") as file:
            for piece in limited(self._pieces(file, container, path, options), options.limit_bytes):
                self._chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _pieces(self, file: IO[bytes], container: Container, path: Path, options: LogOptions) -> Iterator[bytes]:
        records = _Records(file)
        yield from tail(render(records.available(), options), options.tail_lines)
        while options.follow and not self._closed() and not self.server.stopping:
            ended = not container.running or container.log() != path
            yield from render(records.available(), options)
            if ended:
                return
            time.sleep(_FOLLOW_POLL_SECONDS)

    def _chunk(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _closed(self) -> bool:
        """Whether the client went away: it has nothing to say while it reads."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable)

    def _text(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class _Records:
    """The complete records of a growing file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest = b""

    def available(self) -> Iterator[bytes]:
        while line := self._file.readline():
            self._rest += line
            if self._rest.endswith(b"\n"):
                yield self._rest[:-1]
                self._rest = b""


def _no_log(container: Container, pod: str, *, previous: bool) -> str:
    if previous:
        return f'previous terminated container "{container.name}" in pod "{pod}" not found'
    reason = container.state.reason if isinstance(container.state, Waiting) else "unknown"
    return f'container "{container.name}" in pod "{pod}" is waiting to start: {reason}'
