"""Faults of the operator's own pod. It is a process here: what its Deployment would do to it is done to the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from tests.chaos.experiment import SOON, Kind, Turn
from tests.chaos.kinds.api_server import HOLD
from tests.chaos.stage import Replica

LEASE, RETRY = 15.0, 2.0
"""`leaderElection.leaseDuration` and `retryPeriod`, as the chart has them."""


@asynccontextmanager
async def _pod_kill(turn: Turn) -> AsyncIterator[None]:
    (replica,) = turn.stage.replicas
    replica.kill()
    yield
    await _start(turn, replica)


async def _start(turn: Turn, replica: Replica) -> None:
    """The fault is lifted when a pod is ready: until then it is Python that takes its time."""
    replica.start()
    await replica.ready()
    turn.begin_to_count()


POD_KILL = Kind(
    name="PodKill",
    what="the only replica gets SIGKILL and is started again at once; the fault is lifted when it is ready, but the "
    "Lease is still its predecessor's",
    inject=_pod_kill,
    bound=SOON + LEASE + RETRY,
    why=f"the Lease's {LEASE:.0f} s and one retry of {RETRY:.0f} s",
    hold=0.1,
    trials=3,
)


@asynccontextmanager
async def _scale_zero(turn: Turn) -> AsyncIterator[None]:
    (replica,) = turn.stage.replicas
    replica.process.terminate()
    code = await replica.ended()
    assert code == 0, f"it has ended with {code}"
    yield
    await _start(turn, replica)


DEPLOYMENT_SCALE_ZERO = Kind(
    name="DeploymentScaleZero",
    what=f"the only replica gets SIGTERM, gives the Lease back, and is started again after {HOLD:.0f} s; the fault is "
    "lifted when it is ready",
    inject=_scale_zero,
    bound=SOON + RETRY,
    why=f"one retry of the Lease, {RETRY:.0f} s",
)


async def _crash(replica: Replica) -> None:
    """As a kubelet starts it over and over."""
    for _ in range(3):
        replica.start(WORKERS="none")
        assert await replica.ended() == 2


async def _never_start(_: Replica) -> None:
    """There is no image."""


def _bad_rollout(attempt: Callable[[Replica], object]) -> Callable[[Turn], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def inject(turn: Turn) -> AsyncIterator[None]:
        stage = turn.stage
        old, new = stage.replicas[-1], await stage.replica()
        attempting = attempt(new)
        assert asyncio.iscoroutine(attempting)
        await attempting
        yield
        assert stage.job(turn.wanted) is not None, "the old replica does not work any more"
        new.start()
        await new.ready()
        old.process.terminate()
        turn.begin_to_count()
        await stage.apply(turn.next)
        assert await old.ended() == 0

    return inject


def _handed_over(turn: Turn) -> bool:
    return turn.stage.job(turn.next) is not None


_ROLLOUT = "the old replica goes on meanwhile; then a good one becomes ready, and the old one gets SIGTERM"

CRASH_LOOP_INJECT = Kind(
    name="CrashLoopInject",
    what=f"a rollout whose new replica ends at once with code 2, three times; {_ROLLOUT}",
    inject=_bad_rollout(_crash),
    bound=SOON + RETRY,
    why=f"one retry of the Lease, {RETRY:.0f} s",
    recovered=_handed_over,
    trials=3,
)

IMAGE_CORRUPT = Kind(
    name="ImageCorrupt",
    what=f"a rollout whose new replica never starts; {_ROLLOUT}",
    inject=_bad_rollout(_never_start),
    bound=SOON + RETRY,
    why=f"one retry of the Lease, {RETRY:.0f} s",
    recovered=_handed_over,
    trials=3,
)


@asynccontextmanager
async def _lease_deleted(turn: Turn) -> AsyncIterator[None]:
    stage = turn.stage
    await asyncio.gather(*(_up_again(replica) for replica in stage.replicas))
    yield
    (lease,) = stage.view.all("leases")
    turn.uid = lease["metadata"]["uid"]
    await stage.system.delete("leases", lease["metadata"]["name"])
    await stage.apply(turn.next)


async def _up_again(replica: Replica) -> None:
    """A replica that has lost the Lease has ended, and the kubelet starts it again."""
    if replica.process.poll() is not None:
        assert replica.process.poll() == 1
        replica.start()
        await replica.ready()


def _led_again(turn: Turn) -> bool:
    for lease in turn.stage.view.all("leases"):
        if lease["metadata"]["uid"] != turn.uid and lease["spec"].get("holderIdentity"):
            return turn.stage.job(turn.next) is not None
    return False


LEADER_ELECTION_DISRUPT = Kind(
    name="LeaderElectionDisrupt",
    what="the Lease is deleted under a leader and a standby: one of the two takes it, and the other follows or ends",
    inject=_lease_deleted,
    bound=SOON + RETRY,
    why=f"one retry of the Lease, {RETRY:.0f} s",
    recovered=_led_again,
    hold=0.0,
    replicas=2,
)
