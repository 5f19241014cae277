"""The operator as a process of this machine under the chart's ServiceAccount: its token, its settings, no more."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from finetune_operator.api.names import PROGRESS_AUDIENCE
from finetune_operator.progress.server import progress_path
from tests.cluster.kubectl import Kubectl
from tests.cluster.paths import CHECKOUT
from tests.cluster.ports import free_port


def account_kubeconfig(kubectl: Kubectl, namespace: str, account: str, file: Path) -> Path:
    """A kubeconfig with a fresh token of a ServiceAccount."""
    config = yaml.safe_load(kubectl.kubeconfig.read_text())
    token = kubectl("create", "token", account, "--namespace", namespace, "--duration", "1h").strip()
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config))
    return file


class Operator:
    """A running process; `metrics` and `progress` are the addresses of its endpoints."""

    def __init__(self, kubeconfig: Path, settings: Mapping[str, str], log: Path, **changes: str) -> None:
        self.metrics = f"http://127.0.0.1:{free_port()}"
        self.progress = f"https://127.0.0.1:{free_port()}"
        self.log = log
        here = {
            "FINETUNE_KUBECONFIG": str(kubeconfig),
            "FINETUNE_METRICS_HOST": "127.0.0.1",
            "FINETUNE_METRICS_PORT": self.metrics.rpartition(":")[2],
            "FINETUNE_PROGRESS_HOST": "127.0.0.1",
            "FINETUNE_PROGRESS_PORT": self.progress.rpartition(":")[2],
            "FINETUNE_PROGRESS_URL": self.progress,
        }
        given = {name: value for name, value in os.environ.items() if not name.startswith("FINETUNE_")}
        env = {**given, **settings, **here, **changes, "PYTHONPATH": str(CHECKOUT / "operator")}
        with log.open("ab") as output:
            command = [sys.executable, "-m", "finetune_operator", "run"]
            self.process = subprocess.Popen(command, env=env, stdout=output, stderr=output)

    def stop(self) -> int:
        """Ends it as Kubernetes does; its exit code."""
        self.process.terminate()
        return self.process.wait(40)


@contextmanager
def running(operator: Operator) -> Iterator[Operator]:
    """Kills it at the end, and shows its log where a test fails."""
    try:
        yield operator
    finally:
        operator.process.kill()
        operator.process.wait()
        print(operator.log.read_text()[-6000:])


def eventually(look: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """What `look` gives, once it is true; errors count as not yet."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except Exception as last:
            error = last
        time.sleep(0.2)
    raise AssertionError(f"not in {seconds:.0f} s: {what}") from error


def get(base: str, path: str) -> tuple[int, str]:
    """Status and text of one of the operator's plain addresses."""
    address = urlsplit(base)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def report(kubectl: Kubectl, operator: Operator, pod: Mapping[str, Any], name: str, status: Mapping[str, Any]) -> None:
    """Post progress as the trainer in the pod does: by a token bound to it, trusting the authority that it was told."""
    metadata = pod["metadata"]
    flags = [f"--audience={PROGRESS_AUDIENCE}", "--bound-object-kind=Pod", "-n", metadata["namespace"]]
    flags += [f"--bound-object-name={metadata['name']}", f"--bound-object-uid={metadata['uid']}"]
    token = kubectl("create", "token", "default", *flags).strip()
    trust = ssl.create_default_context(cadata=metadata["annotations"]["finetune.dev/progress-ca"])
    address = urlsplit(operator.progress)
    connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=trust, timeout=30)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"trainerStatus": status})
    connection.request("POST", progress_path(metadata["namespace"], name, 1), body, headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()
