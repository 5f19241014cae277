"""Fixtures of the fault tests: a control plane, and the user who talks to it directly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from finetune_operator.kube import config
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.faults.gateway import Gateway
from tests.faults.user import User


@pytest.fixture(scope="session")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """The session's control plane, with the CRD."""
    install_crd(control_plane)
    return control_plane


@pytest.fixture
async def gateway(plane: ControlPlane) -> AsyncIterator[Gateway]:
    """A proxy before the API server."""
    async with Gateway(plane.kubeconfig) as running:
        yield running


@pytest.fixture
async def user_of(plane: ControlPlane) -> AsyncIterator[Callable[[str], User]]:
    """Makes users: one for each namespace."""
    access = config.load(str(plane.kubeconfig))
    connector = aiohttp.TCPConnector(limit=32, ssl=access.ssl_context() or True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield lambda namespace: User(session, access.server, namespace)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Where the operators' logs go."""
    return tmp_path
