"""Leader election by one coordination.k8s.io/v1 Lease: at most one process writes, the others stand by, warm.

Why it is safe although clocks differ: nobody compares wall clocks. A contender takes over when *it has seen* an
unchanged Lease for the whole lease duration by its own steady clock; the holder stops writing when *it sent* its last
successful renewal more than the renew deadline ago by its own. The renewal was sent before it could be seen, and the
deadline is shorter than the duration, so the holder has stopped before anybody takes over. Both steady clocks go on
while the machine sleeps.

Every write of the Lease is a PUT with the resourceVersion that was read: of two contenders one gets a Conflict.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from finetune_operator.api.objects import Object
from finetune_operator.kube.errors import ApiError, Conflict, NotFound

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This process may not write any more and has to end; what it has in memory may be out of date."""


class Client(Protocol):
    """The calls that election makes. Not guarded by the Lease, and not sharing slots with the workers' client."""

    async def get(self, path: str) -> Object: ...

    async def create(self, path: str, body: Object) -> Object: ...

    async def replace(self, path: str, body: Object) -> Object: ...


def boot_time() -> float:
    """Seconds since boot, sleep included where the system can tell (Linux); for differences only."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def wall_time() -> datetime:
    """Now, in UTC; written into the Lease for people, never compared."""
    return datetime.now(UTC)


def own_identity() -> str:
    """Unique for this process: a container that was restarted in its pod is another contender."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:12]}"


# What is decided without any I/O


@dataclass(frozen=True, slots=True)
class Observed:
    """The Lease's spec as last read, and since when (own steady clock) it has been read unchanged."""

    spec: Object
    since: float


def sight(before: Observed | None, lease: Object, now: float) -> Observed:
    """Only the spec counts as a sign of life: whoever labels the Lease does not prolong it."""
    spec = lease.get("spec") or {}
    return before if before is not None and before.spec == spec else Observed(spec, now)


def free(observed: Observed, identity: str, now: float, duration: float) -> bool:
    """Whether `identity` may take the Lease: released, its own, or unchanged for the longer of both durations."""
    holder = observed.spec.get("holderIdentity")
    if not holder or holder == identity:
        return True
    return now - observed.since >= max(duration, observed.spec.get("leaseDurationSeconds") or 0)


def claimed(lease: Object, identity: str, duration: float, wall: datetime) -> Object:
    """The Lease as its holder writes it, first and at each renewal."""
    spec = lease.get("spec") or {}
    stamp = _micro_time(wall)
    claim: Object = {
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, math.ceil(duration)),
        "renewTime": stamp,
    }
    if spec.get("holderIdentity") != identity:
        claim["acquireTime"] = stamp
        claim["leaseTransitions"] = (spec.get("leaseTransitions") or 0) + bool(spec)
    return {**lease, "spec": {**spec, **claim}}


def released(lease: Object, wall: datetime) -> Object:
    """The Lease given back: the next look of any contender takes it."""
    released_spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time(wall)}
    return {**lease, "spec": {**(lease.get("spec") or {}), **released_spec}}


def _micro_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# The life of a contender


class Lease:
    """One contender. `run()` in a task of its own; workers wait for `acquired()`; each write asks `valid()` first.

    Times in seconds; retry_period < renew_deadline < duration. `clock` is steady and never goes back.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        clock: Callable[[], float] = boot_time,
        wall: Callable[[], datetime] = wall_time,
    ) -> None:
        if not 0 < retry_period < renew_deadline < duration:
            raise ValueError("election needs 0 < retry period < renew deadline < lease duration")
        self.identity = identity
        self._client = client
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._metadata = {"namespace": namespace, "name": name}
        self._duration = duration
        self._deadline = renew_deadline
        self._period = retry_period
        self._clock = clock
        self._wall = wall
        self._lease: Object | None = None
        self._renewed: float | None = None
        self._acquired = asyncio.Event()
        self._complaint = ""

    def valid(self) -> bool:
        """Whether this process may write now. Once it was True and is False, it stays False."""
        return self._left() > 0

    async def acquired(self) -> None:
        """Returns when this process has become the leader."""
        await self._acquired.wait()

    async def run(self) -> None:
        """Contends, then renews until it is cancelled; then gives the Lease back, so that a standby takes it at once.

        Raises LeaseLost. Cancel it only after the last write.
        """
        try:
            await self._contend()
            await self._hold()
        finally:
            await self._release()

    async def _contend(self) -> None:
        observed: Observed | None = None
        while True:
            try:
                async with asyncio.timeout(self._deadline / 2):
                    self._lease = await self._read()
                    observed = sight(observed, self._lease, self._clock())
                    if free(observed, self.identity, self._clock(), self._duration):
                        self._renewed = await self._claim()
                        break
            except (Conflict, NotFound):
                pass  # somebody was faster, or has just deleted it: look again
            except (ApiError, TimeoutError) as error:
                self._complain(error)
            await asyncio.sleep(self._period * random.uniform(0.8, 1.0))
        log.info("leading", extra={"lease": self._path, "identity": self.identity})
        self._acquired.set()

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            left = self._left()
            try:
                async with asyncio.timeout(min(left, self._deadline / 2)):
                    await self._renew()
            except (ApiError, TimeoutError) as error:
                self._complain(error)
            if self._left() <= 0:
                raise LeaseLost(f"no renewal of {self._path} succeeded for {self._deadline:g} s")

    def _left(self) -> float:
        """Seconds in which this process may still write; 0 or less: none. Once it has run out, it never comes back."""
        left = 0.0 if self._renewed is None else self._renewed + self._deadline - self._clock()
        if left <= 0:
            self._renewed = None
        return left

    async def _renew(self) -> None:
        if self._left() <= 0:
            return
        try:
            sent = await self._claim()
        except (Conflict, NotFound):
            # Touched or deleted by someone, or an answer of ours got lost: whose is it now?
            self._lease = await self._read()
            holder = (self._lease.get("spec") or {}).get("holderIdentity")
            if "spec" in self._lease and holder != self.identity:
                self._renewed = None
                raise LeaseLost(f"{self._path} is held by {holder or 'nobody'} now") from None
            sent = await self._claim()
        if self._left() > 0:  # an answer that comes too late revives nothing
            self._renewed = sent

    async def _read(self) -> Object:
        try:
            return await self._client.get(self._path)
        except NotFound:
            return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._metadata}

    async def _claim(self) -> float:
        """Writes the Lease that was read as our own. Returns when that was sent: a renewal counts from then."""
        assert self._lease is not None
        sent = self._clock()
        body = claimed(self._lease, self.identity, self._duration, self._wall())
        self._lease = await self._write(body)
        self._complaint = ""
        return sent

    async def _write(self, body: Object) -> Object:
        if "resourceVersion" not in body["metadata"]:
            try:
                return await self._client.create(self._collection, body)
            except NotFound as error:
                # 404 on a POST: the namespace is missing, which the next look would not tell.
                raise ApiError(error.status, error.reason, error.message) from error
        return await self._client.replace(self._path, body)

    async def _release(self) -> None:
        held, self._renewed = self.valid(), None
        if not held or self._lease is None:
            return
        try:
            async with asyncio.timeout(self._deadline / 2):
                try:
                    await self._client.replace(self._path, released(self._lease, self._wall()))
                except Conflict:
                    await self._release_anew()
            log.info("released the lease", extra={"lease": self._path})
        except (ApiError, TimeoutError) as error:
            log.warning("could not release the lease: %s", _words(error), extra={"lease": self._path})

    async def _release_anew(self) -> None:
        """After a conflict: a renewal whose answer was lost, or someone's label. Only our own is released."""
        lease = await self._read()
        if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
            await self._client.replace(self._path, released(lease, self._wall()))

    def _complain(self, error: Exception) -> None:
        """Says what is wrong once, not every two seconds."""
        words = _words(error)
        if isinstance(error, ApiError) and error.status in (401, 403):
            words += "; the service account needs get, create and update on leases in this namespace"
        if words != self._complaint:
            log.warning("election: %s", words, extra={"lease": self._path})
        self._complaint = words


class AlwaysLeader:
    """For an operator that is the only one, with leader election turned off: the same four members."""

    identity = ""

    def valid(self) -> bool:
        """True."""
        return True

    async def acquired(self) -> None:
        """Returns at once."""

    async def run(self) -> None:
        """Waits to be cancelled."""
        await asyncio.Event().wait()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
