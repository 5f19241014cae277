"""A real API server that keeps an audit log, for what the chart may and does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Audited:
    """A control plane and what it writes down about every request."""

    plane: ControlPlane
    log: Path

    def requests(self, user: str) -> list[dict[str, Any]]:
        """The audit events of one user so far."""
        lines = self.log.read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [each for each in events if each["user"]["username"] == user]


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """Owners' finalizers are enforced too, as OpenShift does."""
    folder = tmp_path_factory.mktemp("audited")
    policy, log = folder / "policy.json", folder / "audit.log"
    policy.write_text(json.dumps(AUDIT_POLICY))
    flags = [
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
    ]
    with ControlPlane(folder / "plane", apiserver_flags=flags) as plane:
        yield Audited(plane, log)
