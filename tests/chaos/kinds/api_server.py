"""Faults on the way to the API server, and in what it allows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.chaos.experiment import SOON, Kind, Turn
from tests.faults.gateway import Call, Forward, let_through

RBAC = "/apis/rbac.authorization.k8s.io/v1"
HOLD = 2.0
BACKED_OFF = SOON + 2 * HOLD
"""Retries double their wait: the one that is pending when a fault ends is at most twice as long as the fault."""
RETRY = "its retry, at most twice the fault's duration (`backoff.cap` at most)"


@asynccontextmanager
async def _network_partition(turn: Turn) -> AsyncIterator[None]:
    async def refuse(call: Call, _: Forward) -> web.StreamResponse:
        return call.cut()

    for channel in turn.stage.channels:
        channel.intercept = refuse
        for call in list(channel.open):
            call.cut()
    yield
    for channel in turn.stage.channels:
        channel.intercept = let_through


NETWORK_PARTITION = Kind(
    name="NetworkPartition",
    what=f"every connection between operator and API server is cut, and none comes about, for {HOLD:.0f} s",
    inject=_network_partition,
    bound=BACKED_OFF,
    why=RETRY,
)


@asynccontextmanager
async def _rbac_revoke(turn: Turn) -> AsyncIterator[None]:
    binding = turn.stage.release.binding
    path = f"{RBAC}/clusterrolebindings/{binding['metadata']['name']}"
    merge = "application/merge-patch+json"
    await turn.stage.user.call("PATCH", path, {"subjects": None}, merge)
    yield
    await turn.stage.user.call("PATCH", path, {"subjects": binding["subjects"]}, merge)


RBAC_REVOKE = Kind(
    name="RBACRevoke",
    what=f"the chart's ClusterRoleBinding names nobody for {HOLD:.0f} s",
    inject=_rbac_revoke,
    bound=BACKED_OFF,
    why=RETRY,
)
