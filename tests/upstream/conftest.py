"""Fixtures of the tests that need a real API server with the resource."""

from __future__ import annotations

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> ControlPlane:
    """The session's control plane, with the CRD."""
    install_crd(control_plane)
    return control_plane
