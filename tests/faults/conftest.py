"""Fixtures of the fault tests: a control plane, a gateway before it, and worlds of one user and one operator."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from finetune_operator.kube import config
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd import install_crd
from tests.faults.gateway import Channel, Gateway
from tests.faults.operators import Operator
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
    await asyncio.sleep(0.1)  # TLS connections close in the background


@dataclass
class World:
    """A namespace with its user, the operator that serves it, and the channel between."""

    user: User
    operator: Operator
    channel: Channel

    def log(self) -> str:
        """What the operator has logged."""
        return self.operator.log.read_text()


Worlds = Callable[..., Awaitable[World]]


@pytest.fixture
async def world(gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path) -> AsyncIterator[Worlds]:
    """Makes worlds; keywords are the operator's flags. At the end no operator may have met an error of its own."""
    async with AsyncExitStack() as stack:

        async def make(**flags: str | float) -> World:
            name = f"world-{uuid.uuid4().hex[:8]}"
            channel, kubeconfig = gateway.channel(name, tmp_path)
            settings: dict[str, str | float] = {
                "namespace": name,
                "recheck_interval": 1,
                "backoff_cap": 1,
                "watch_silence": 20,
                **flags,
            }
            operator = stack.enter_context(Operator(kubeconfig, tmp_path / f"{name}.log", **settings))
            made = World(user_of(name), operator, channel)
            await made.user.begin()
            worlds.append(made)
            return made

        worlds: list[World] = []
        yield make
        for made in worlds:
            assert "Traceback" not in made.log(), made.log()
