"""Two operators: one works, the other stands by, and there is never a moment with two writers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.faults.gateway import Call, Channel, Forward, Gateway
from tests.faults.operators import Operator
from tests.faults.test_crashes import jobs_made
from tests.faults.user import DONE, User, sample

DURATION, DEADLINE, RETRY = 3.0, 2.0, 0.5


class Pair:
    """Two operators over one namespace and one Lease."""

    def __init__(self, gateway: Gateway, user: User, folder: Path) -> None:
        self.user = user
        self.channels: list[Channel] = []
        self.operators: list[Operator] = []
        for name in ("first", "second"):
            channel, kubeconfig = gateway.channel(name, folder)
            self.channels.append(channel)
            self.operators.append(
                Operator(
                    kubeconfig,
                    folder / f"{name}.log",
                    namespace=user.namespace,
                    operator_namespace=user.namespace,
                    leader_election="true",
                    lease_duration=DURATION,
                    renew_deadline=DEADLINE,
                    retry_period=RETRY,
                    recheck_interval=1,
                )
            )

    def leads(self, index: int) -> bool:
        return "leading with" in self.operators[index].log.read_text()

    async def until_leads(self, index: int, seconds: float = 60) -> float:
        """The seconds that it took."""
        began = time.monotonic()

        async def look() -> bool:
            return self.operators[index].log.exists() and self.leads(index)

        await self.user.until("a leader", look, seconds)
        return time.monotonic() - began

    async def work(self, name: str) -> None:
        """One run through its whole life."""
        await self.user.create(sample(name))
        await self.user.runs(f"{name}-1")
        await self.user.phase(name, "Running")
        await self.user.ends(f"{name}-1", message=DONE)
        await self.user.phase(name, "Succeeded")

    def one_after_the_other(self) -> None:
        """All writes of the first come before all writes of the second, as the API server has seen them."""
        first, second = ([call.began for call in channel.writes()] for channel in self.channels)
        assert first
        assert second
        assert max(first) < min(second)


@pytest.fixture
async def pair(gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path) -> AsyncIterator[Pair]:
    user = user_of(f"pair-{time.monotonic_ns():x}")
    await user.begin()
    made = Pair(gateway, user, tmp_path)
    with made.operators[0], made.operators[1]:
        yield made


@pytest.fixture
async def led(gateway: Gateway, user_of: Callable[[str], User], tmp_path: Path) -> AsyncIterator[Pair]:
    """The first leads and has done some work; the second stands by with warm caches."""
    user = user_of(f"pair-{time.monotonic_ns():x}")
    await user.begin()
    pair = Pair(gateway, user, tmp_path)
    with pair.operators[0]:
        await pair.until_leads(0)
        with pair.operators[1]:
            await pair.work("one")
            assert not pair.leads(1)
            yield pair


async def test_exactly_one_of_two_that_start_together_leads(pair: Pair) -> None:
    await pair.work("one")
    await asyncio.sleep(2 * DURATION)
    assert sorted(pair.leads(index) for index in range(2)) == [False, True]
    assert sorted(bool(channel.writes()) for channel in pair.channels) == [False, True]


@pytest.mark.parametrize(("how", "bound"), [(signal.SIGKILL, DURATION + 3 * RETRY), (signal.SIGTERM, 4 * RETRY)])
async def test_the_leader_ends(led: Pair, how: signal.Signals, bound: float) -> None:
    await led.user.create(sample("two"))
    await led.user.runs("two-1")
    led.operators[0].signal(how)
    code = await led.operators[0].ended()
    took = await led.until_leads(1)
    print(f"\ntake-over after {how.name}: {took:.1f} s")
    assert took <= bound + 3  # a busy machine
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    await led.user.phase("two", "Running")
    await led.user.ends("two-1", message=DONE)
    await led.user.phase("two", "Succeeded")
    await led.work("three")
    assert [jobs_made(channel) for channel in led.channels] == [{"one-1": 1, "two-1": 1}, {"three-1": 1}]
    led.one_after_the_other()


async def test_the_leader_is_frozen_and_thawed(led: Pair) -> None:
    """It wakes up in the belief that it leads, with work in hand: it must notice before it writes."""
    led.operators[0].signal(signal.SIGSTOP)
    await led.user.create(sample("two"))
    took = await led.until_leads(1)
    print(f"\ntake-over after SIGSTOP: {took:.1f} s")
    await led.user.runs("two-1")
    led.operators[0].signal(signal.SIGCONT)
    assert await led.operators[0].ended() == 1
    await led.user.phase("two", "Running")
    await led.user.ends("two-1", message=DONE)
    await led.user.phase("two", "Succeeded")
    assert jobs_made(led.channels[0]) == {"one-1": 1}
    assert jobs_made(led.channels[1]) == {"two-1": 1}
    led.one_after_the_other()


async def test_a_leader_that_is_cut_off_ends_itself(led: Pair) -> None:
    """It cannot renew: it ends before the other may begin."""
    began = time.monotonic()
    channel = led.channels[0]

    async def refuse(call: Call, _: Forward) -> web.StreamResponse:
        return call.cut()

    channel.intercept = refuse
    channel.cut_watches()
    assert await led.operators[0].ended() == 1
    assert time.monotonic() - began < DURATION + 3
    await led.until_leads(1)
    await led.work("two")
    led.one_after_the_other()
