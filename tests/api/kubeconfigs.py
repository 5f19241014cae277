"""Kubeconfigs of every kind for one API server, and what they name: tokens, exec plugins, a proxy."""

from __future__ import annotations

import base64
import json
import select
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]
V1 = "client.authentication.k8s.io/v1"


def kubeconfig(plane: ControlPlane, file: Path, user: Object | None, **cluster: Any) -> Path:
    """A kubeconfig for this user; `cluster` replaces members of its cluster, None takes them out."""
    fields: Object = {"server": plane.url, "certificate-authority": str(plane.authority.certificate)}
    fields |= {name.replace("_", "-"): value for name, value in cluster.items()}
    context = {"cluster": "c"} | ({"user": "u"} if user is not None else {})
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {key: value for key, value in fields.items() if value is not None}}],
        "users": [{"name": "u", "user": user}] if user is not None else [],
        "contexts": [{"name": "here", "context": context}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def account(plane: ControlPlane, name: str) -> None:
    """A service account of the namespace default that may do everything."""
    plane.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        },
    )


def token_of(plane: ControlPlane, name: str) -> str:
    """From the API server, by TokenRequest."""
    return plane.kubectl("create", "token", name).strip()


PROGRAM = """#!{python}
import json, os, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
here = Path({here!r})
with (here / "runs").open("a") as runs:
    runs.write(os.environ["KUBERNETES_EXEC_INFO"] + "\\n")
sys.stderr.write((here / "stderr").read_text())
answer = json.loads((here / "answer").read_text())
if lifetime := (here / "lifetime").read_text():
    end = datetime.now(UTC) + timedelta(seconds=float(lifetime))
    answer["status"]["expirationTimestamp"] = end.strftime("%Y-%m-%dT%H:%M:%SZ")
print(json.dumps(answer))
sys.exit(int((here / "code").read_text()))
"""


@dataclass
class Plugin:
    """An exec plugin: a program that prints what it is told to, and counts its runs."""

    folder: Path
    command: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.command = self.folder / "log-in"
        self.command.write_text(PROGRAM.format(python=sys.executable, here=str(self.folder)))
        self.command.chmod(0o755)
        self.says()

    def says(self, *, lifetime: str = "", code: int = 0, stderr: str = "", version: str = V1, **status: str) -> None:
        """From now on."""
        answer = {"kind": "ExecCredential", "apiVersion": version, "status": status}
        content = {"answer": json.dumps(answer), "lifetime": lifetime, "code": str(code), "stderr": stderr}
        for name, text in content.items():
            (self.folder / f"{name}.new").write_text(text)
            (self.folder / f"{name}.new").replace(self.folder / name)

    def user(self, **more: Any) -> Object:
        """As a kubeconfig names it."""
        called = {"apiVersion": V1, "command": str(self.command), "interactiveMode": "IfAvailable"}
        return {"exec": called | more}

    @property
    def runs(self) -> list[Object]:
        """What it was told by KUBERNETES_EXEC_INFO each time."""
        log = self.folder / "runs"
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line) for line in lines if line]

    def has_run_since(self, number: int) -> bool:
        """More often than so."""
        return len(self.runs) > number


class _Tunnel(socketserver.StreamRequestHandler):
    """One CONNECT, and what goes through until either side is done."""

    server: Proxy

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        self.server.asked.append(head.decode())
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {self.connection: there, there: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    if not (data := end.recv(65_536)):
                        return
                    ends[end].sendall(data)


class Proxy(socketserver.ThreadingTCPServer):
    """Tunnels by CONNECT; `asked` has the heads of the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.asked: list[str] = []
        self.port = self.server_address[1]


@contextmanager
def proxy() -> Iterator[Proxy]:
    """A proxy on this machine."""
    with Proxy() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()
