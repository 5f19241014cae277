"""Fixtures of the tests that need a real API server with the resource."""

from __future__ import annotations

import pytest

from finetune_operator.backends.transfer import spool
from finetune_operator.backends.transfer.stores import s3
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> ControlPlane:
    """The session's control plane, with the CRD."""
    install_crd(control_plane)
    return control_plane


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers that fail are tried again at once."""
    monkeypatch.setattr(spool, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(s3, "PAUSE_SECONDS", 0.001)
