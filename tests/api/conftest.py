"""Fixtures of the tests that need a real API server with the resource."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "finetune.dev_finetunes.yaml"


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> ControlPlane:
    """The session's control plane, with the CRD."""
    control_plane.kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=strict", "--warnings-as-errors", f"--filename={CRD}"
    )
    control_plane.kubectl("wait", "--for=condition=Established", "crd/finetunes.finetune.dev", "--timeout=60s")
    return control_plane
