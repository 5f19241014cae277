"""Faults on the way to the API server, and in what it allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.chaos.experiment import SOON, Kind, Turn
from tests.faults.gateway import Call, Forward, failure, let_through

HOLD = 2.0
BACKED_OFF = SOON + 2 * HOLD
"""Retries double their wait: the one that is pending when a fault ends is at most twice as long as the fault."""
RETRY = "the retry that is pending, at most twice as long as the fault (and `backoff.cap`)"
RECHECK = "the next look at what was refused, at most twice as long as the fault (and `recheckInterval`)"

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_SHARE = 0.6


@asynccontextmanager
async def _client_fault(turn: Turn) -> AsyncIterator[None]:
    chance = random.Random(turn.number)

    async def spoil(call: Call, forward: Forward) -> web.StreamResponse:
        if chance.random() > _SHARE:
            return await forward()
        match chance.choice(("error", "conflict", "throttled", "slow", "cut")):
            case "error":
                return failure(500, "InternalError")
            case "conflict":
                return failure(409, "Conflict")
            case "throttled":
                return failure(429, "TooManyRequests", Retry_After="1")
            case "slow":
                await asyncio.sleep(0.5)
                return await forward()
        return call.cut()

    for channel in turn.stage.channels:
        channel.intercept = spoil
        channel.cut_watches()
    yield
    for channel in turn.stage.channels:
        channel.intercept = let_through


CLIENT_FAULT = Kind(
    name="ClientFault",
    what=f"the watches are cut, and for {HOLD:.0f} s {_SHARE:.0%} of all calls fail (500, 409, 429, reset) or are slow",
    inject=_client_fault,
    bound=BACKED_OFF,
    why=RETRY,
)


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
    what=f"every connection between operator and API server is cut, and none comes about, for {HOLD:.0f} s "
    "(one that outlasts `leaderElection.renewDeadline` ends the leader: see PodKill)",
    inject=_network_partition,
    bound=BACKED_OFF,
    why=RETRY,
)


@asynccontextmanager
async def _rbac_revoke(turn: Turn) -> AsyncIterator[None]:
    binding = turn.stage.release.binding
    path = f"{_RBAC}/clusterrolebindings/{binding['metadata']['name']}"
    merge = "application/merge-patch+json"
    await turn.stage.user.call("PATCH", path, {"subjects": None}, merge)
    yield
    await turn.stage.user.call("PATCH", path, {"subjects": binding["subjects"]}, merge)


RBAC_REVOKE = Kind(
    name="RBACRevoke",
    what=f"the chart's ClusterRoleBinding names nobody for {HOLD:.0f} s",
    inject=_rbac_revoke,
    bound=BACKED_OFF,
    why=RECHECK,
)


@asynccontextmanager
async def _quota_exhaustion(turn: Turn) -> AsyncIterator[None]:
    user, name = turn.stage.user, "nothing"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}}
    await user.create({**quota, "spec": {"hard": {"pods": "0", "count/jobs.batch": "0"}}}, "resourcequotas")

    async def enforced() -> bool:
        return bool((await user.find("resourcequotas", name) or {}).get("status", {}).get("hard"))

    await user.until("quota", enforced)
    yield
    await user.delete("resourcequotas", name)


QUOTA_EXHAUSTION = Kind(
    name="QuotaExhaustion",
    what=f"a ResourceQuota leaves no room for Jobs and pods for {HOLD:.0f} s",
    inject=_quota_exhaustion,
    bound=BACKED_OFF,
    why=RECHECK,
)
