"""Election on a virtual clock: an event loop that jumps to the next deadline instead of waiting for it."""

from __future__ import annotations

import asyncio
import copy
import selectors
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.controller.lease import AlwaysLeader, Lease, LeaseLost, Observed, claimed, free, released, sight
from finetune_operator.kube.errors import AlreadyExists, ApiError, Conflict, Forbidden, NotFound, Unreachable

Object = dict[str, Any]
Run = Callable[[Coroutine[Any, Any, None]], None]
WALL = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


class VirtualTime(asyncio.SelectorEventLoop):
    """Nothing here waits for the outside: where the loop would sleep, its clock jumps."""

    def __init__(self) -> None:
        self._now = 1000.0
        loop = self

        class Jumping(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[Any]:
                assert timeout is not None, "everybody waits for ever"
                loop._now += max(0.0, timeout)
                return super().select(0)

        super().__init__(Jumping())

    def time(self) -> float:
        return self._now


class Server:
    """The API server's rules for one Lease: optimistic concurrency, 404 and 409. `faults` are raised first."""

    def __init__(self) -> None:
        self.stored: Object | None = None
        self.version = 0
        self.faults: list[Exception] = []
        self.down = False
        self.deaf = False
        self.calls: list[str] = []
        self.lose_answer = False

    async def get(self, path: str) -> Object:
        await self._arrive("GET")
        if self.stored is None:
            raise NotFound(404, "NotFound", path)
        return copy.deepcopy(self.stored)

    async def create(self, path: str, body: Object) -> Object:
        await self._arrive("POST")
        assert "resourceVersion" not in body["metadata"]
        if self.stored is not None:
            raise AlreadyExists(409, "AlreadyExists", path)
        return await self._store(body)

    async def replace(self, path: str, body: Object) -> Object:
        await self._arrive("PUT")
        if self.stored is None:
            raise NotFound(404, "NotFound", path)
        if body["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", path)
        return await self._store(body)

    async def _arrive(self, verb: str) -> None:
        self.calls.append(verb)
        if self.deaf:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        if self.down:
            raise Unreachable("refused")
        if self.faults:
            raise self.faults.pop(0)

    async def _store(self, body: Object) -> Object:
        self.version += 1
        self.stored = copy.deepcopy(body)
        self.stored["metadata"]["resourceVersion"] = str(self.version)
        if self.lose_answer:
            self.lose_answer = False
            raise Unreachable("connection reset")
        return copy.deepcopy(self.stored)

    def touch(self, **spec: Any) -> None:
        """Somebody else's write."""
        assert self.stored is not None
        self.version += 1
        self.stored["metadata"]["resourceVersion"] = str(self.version)
        self.stored["spec"] |= spec

    def delete(self) -> None:
        """As by kubectl."""
        self.stored = None

    @property
    def holder(self) -> str | None:
        return self.stored["spec"]["holderIdentity"] if self.stored else None


def contender(server: Server, identity: str, skew: float = 0.0) -> Lease:
    """`skew`: how far this machine's clocks, steady and wall, are off."""
    loop = asyncio.get_running_loop()
    return Lease(
        server,
        namespace="ns",
        name="finetune-operator",
        identity=identity,
        clock=lambda: loop.time() + skew,
        wall=lambda: WALL + timedelta(seconds=loop.time() + skew),
    )


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        yield runner.run


async def started(lease: Lease) -> asyncio.Task[None]:
    task = asyncio.ensure_future(lease.run())
    await asyncio.wait_for(lease.acquired(), 60)
    return task


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_the_first_creates_the_lease_and_renews_it(run: Run) -> None:
    async def main() -> None:
        server = Server()
        lease = contender(server, "a")
        assert not lease.valid()
        task = await started(lease)
        assert lease.valid()
        assert server.calls == ["GET", "POST"]
        await asyncio.sleep(100)
        assert lease.valid()
        assert server.stored is not None
        assert server.stored["spec"]["leaseTransitions"] == 0
        assert set(server.calls[2:]) == {"PUT"}
        assert 45 <= len(server.calls) - 2 <= 50
        await stop(task)

    run(main())


def test_release_hands_over_within_one_retry_period(run: Run) -> None:
    async def main() -> None:
        server = Server()
        first, second = contender(server, "a"), contender(server, "b")
        leading = await started(first)
        standing_by = asyncio.ensure_future(second.run())
        await asyncio.sleep(30)
        assert not second.valid()
        at = now()
        await stop(leading)
        assert not first.valid()
        await second.acquired()
        assert now() - at <= 2.0 + 0.1
        assert server.holder == "b"
        assert server.stored is not None
        assert server.stored["spec"]["leaseTransitions"] == 1
        await stop(standing_by)

    run(main())


@pytest.mark.parametrize("skew", [-120.0, 0.0, 120.0])
def test_a_holder_that_vanished_is_replaced_after_the_duration(run: Run, skew: float) -> None:
    async def main() -> None:
        server = Server()
        first, second = contender(server, "a"), contender(server, "b", skew)
        leading = await started(first)
        standing_by = asyncio.ensure_future(second.run())
        await asyncio.sleep(31)
        server_view = server.version
        leading_killed_at = now()
        # As by SIGKILL: no release. The contender's own view goes on.
        first._renewed = None
        await stop(leading)
        assert server.version == server_view
        await second.acquired()
        assert 13 <= now() - leading_killed_at <= 15 + 2 * 2 + 0.1
        await stop(standing_by)

    run(main())


@settings(max_examples=40, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(0, 40), st.floats(0.5, 40))
def test_never_two_leaders_however_the_network_and_the_clocks_behave(
    skew_a: float, skew_b: float, cut_at: float, cut_for: float
) -> None:
    """The first is cut off from the API server for a while; the second is not."""

    async def main() -> None:
        server, cut = Server(), Server()
        a, b = contender(server, "a", skew_a), contender(server, "b", skew_b)
        first = await started(a)
        second = asyncio.ensure_future(b.run())
        begin = now()
        while now() - begin < 90:
            cut.deaf = True
            a._client = cut if cut_at <= now() - begin < cut_at + cut_for else server
            assert not (a.valid() and b.valid())
            await asyncio.sleep(0.1)
        assert a.valid() or b.valid()
        await stop(first, second)

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(main())


def test_a_holder_that_is_cut_off_stops_at_the_deadline(run: Run) -> None:
    async def main() -> None:
        for fault in ("down", "deaf"):
            server = Server()
            lease = contender(server, "a")
            task = await started(lease)
            await asyncio.sleep(20)
            setattr(server, fault, True)
            cut_at = now()
            with pytest.raises(LeaseLost, match="10 s"):
                await task
            assert 8 - 0.1 <= now() - cut_at <= 10 + 0.1
            assert not lease.valid()

    run(main())


def test_valid_needs_no_task_to_run_out(run: Run) -> None:
    """A stalled loop: the clock is all that counts, and what has run out stays out."""

    async def main() -> None:
        server = Server()
        lease = contender(server, "a")
        task = await started(lease)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTime)
        loop._now += 9.9
        assert lease.valid()
        loop._now += 0.2
        assert not lease.valid()
        with pytest.raises(LeaseLost):
            await task

    run(main())


@pytest.mark.parametrize("fault", [ApiError(500, "x", "y"), ApiError(429, "x", "y"), Unreachable("reset")])
def test_passing_faults_cost_nothing(run: Run, fault: Exception) -> None:
    async def main() -> None:
        server = Server()
        lease = contender(server, "a")
        server.faults = [fault]
        task = await started(lease)
        for _ in range(3):
            server.faults = [fault, fault]
            await asyncio.sleep(30)
            assert lease.valid()
        await stop(task)
        assert server.holder == ""

    run(main())


def test_a_lost_answer_is_found_to_be_our_own(run: Run) -> None:
    async def main() -> None:
        server = Server()
        lease = contender(server, "a")
        server.lose_answer = True  # of the POST
        task = await started(lease)
        server.lose_answer = True  # of a renewal
        await asyncio.sleep(30)
        assert lease.valid()
        assert not server.lose_answer
        server.lose_answer = True
        await asyncio.sleep(2.1)
        await stop(task)  # while the last answer that we have is old
        assert server.holder == ""

    run(main())


def test_labels_and_deletion_by_hand_are_survived(run: Run) -> None:
    async def main() -> None:
        server = Server()
        lease = contender(server, "a")
        task = await started(lease)
        server.touch()
        await asyncio.sleep(5)
        server.delete()
        await asyncio.sleep(30)
        assert lease.valid()
        assert server.holder == "a"
        server.touch(strategy="OldestEmulationVersion")
        await asyncio.sleep(5)
        assert server.stored is not None
        assert server.stored["spec"]["strategy"] == "OldestEmulationVersion"
        await stop(task)

    run(main())


@pytest.mark.parametrize("other", ["b", ""])
def test_who_finds_another_holder_stops_at_once(run: Run, other: str) -> None:
    async def main() -> None:
        server = Server()
        lease = contender(server, "a")
        task = await started(lease)
        server.touch(holderIdentity=other)
        at = now()
        with pytest.raises(LeaseLost, match=other or "nobody"):
            await task
        assert now() - at < 2.1
        assert not lease.valid()
        assert server.holder == other, "what is not ours is not released"

    run(main())


def test_a_contender_that_never_led_leaves_the_lease_alone(run: Run) -> None:
    async def main() -> None:
        server = Server()
        task = await started(contender(server, "a"))
        before = server.version
        other = asyncio.ensure_future(contender(server, "b").run())
        await asyncio.sleep(1)
        await stop(other)
        assert server.version == before
        await stop(task)

    run(main())


def test_missing_rights_are_said_once_with_the_way_out(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = Server()
        server.faults = [Forbidden(403, "Forbidden", "leases is forbidden")] * 3
        task = await started(contender(server, "a"))
        await stop(task)

    run(main())
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "get, create and update on leases" in warnings[0]


def test_wrong_durations_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="renew deadline"):
        Lease(Server(), namespace="n", name="l", identity="a", duration=10, renew_deadline=10, retry_period=2)


async def test_without_election_there_is_always_a_leader() -> None:
    leader = AlwaysLeader()
    await leader.acquired()
    assert leader.valid()
    task = asyncio.ensure_future(leader.run())
    await asyncio.sleep(0)
    assert not task.done()
    await stop(task)


# The pure part


def spec(**changes: Any) -> Object:
    return {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "x"} | changes}


@pytest.mark.parametrize(
    ("lease", "age", "is_free"),
    [
        ({}, 0, True),
        (spec(holderIdentity=""), 0, True),
        (spec(holderIdentity="me"), 0, True),
        (spec(), 14.9, False),
        (spec(), 15, True),
        (spec(leaseDurationSeconds=60), 59, False),
        (spec(leaseDurationSeconds=60), 60, True),
        (spec(leaseDurationSeconds=1), 14.9, False),
        (spec(leaseDurationSeconds=None), 15, True),
    ],
)
def test_when_a_lease_is_free(lease: Object, age: float, is_free: bool) -> None:
    assert free(Observed(lease.get("spec", {}), 100.0), "me", 100.0 + age, 15.0) is is_free


def test_only_a_changed_spec_is_a_sign_of_life() -> None:
    first = sight(None, spec(), 1.0)
    assert sight(first, spec() | {"metadata": {"labels": {"x": "y"}}}, 2.0) == first
    assert sight(first, spec(renewTime="y"), 2.0).since == 2.0


def test_what_is_written() -> None:
    new = claimed({"metadata": {}}, "a", 12.5, WALL)
    assert new["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 13,
        "renewTime": "2026-01-02T03:04:05.000678Z",
        "acquireTime": "2026-01-02T03:04:05.000678Z",
        "leaseTransitions": 0,
    }
    taken = claimed(new, "b", 15, WALL)
    assert taken["spec"]["leaseTransitions"] == 1
    assert claimed(taken, "b", 15, WALL)["spec"]["leaseTransitions"] == 1
    assert released(taken, WALL)["spec"]["holderIdentity"] == ""
