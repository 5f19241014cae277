"""The bundled kubectl, bound to one kubeconfig and to nothing of the user's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import binary
from tests.cluster.daemon import direct_environment
from tests.cluster.errors import ClusterError


class KubectlError(ClusterError):
    """kubectl ended with a code other than 0; the message is what it wrote to stderr."""


@dataclass(frozen=True)
class Kubectl:
    """Callable like the command: `kubectl("get", "pods")`."""

    kubeconfig: Path

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 120.0) -> str:
        """Returns its standard output.

        Raises KubectlError when it fails, subprocess.TimeoutExpired after `timeout` seconds.
        """
        command = [str(binary.kubernetes() / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        env = direct_environment()
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, env=env)
        if done.returncode:
            raise KubectlError(done.stderr.strip() or f"kubectl ended with code {done.returncode}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`, decoded: an object, or a List. Raises KubectlError."""
        found: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
        return found

    def wait_established(self, *crds: str) -> None:
        """Until the API server knows these resources. Raises KubectlError after a minute.

        Not by `--for=condition=Established`, which ends with an error where a CRD has no conditions yet.
        """
        established = '--for=jsonpath={.status.conditions[?(@.type=="Established")].status}=True'
        for crd in crds:
            self("wait", "--for=create", established, f"crd/{crd}", "--timeout=60s")

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Creates or updates the objects by server-side apply. Raises KubectlError."""
        manifest = "\n---\n".join(json.dumps(each) for each in objects)
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)
