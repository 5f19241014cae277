"""The fakes' faults do what they say: what was committed is counted, and what was not is not."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.upstream.fakes.bfl import BflFake, BflOptions
from tests.upstream.fakes.faults import Kind
from tests.upstream.fakes.octoai import OctoAiFake
from tests.upstream.test_fake_contracts import BFL_KEY, FINETUNE, OCTOAI_KEY

LOST = (aiohttp.ClientError, asyncio.TimeoutError)


async def _post(fake: BflFake, seconds: float = 5.0) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{fake.url}/v1/finetune", json=FINETUNE, headers=BFL_KEY, allow_redirects=False) as response,
    ):
        return response.status, await response.text()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_reset_loses_the_answer_and_only_then_the_work(after: bool) -> None:
    async with BflFake().serve() as fake:
        fake.fault(Kind.RESET, "create", after=after)
        with pytest.raises(LOST):
            await _post(fake)
        assert fake.billed_for("mine") == int(after)
        assert (await _post(fake))[0] == 200
        assert fake.billed_for("mine") == 1 + int(after)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_hang_outlasts_the_client(after: bool) -> None:
    async with BflFake().serve() as fake:
        fake.fault(Kind.HANG, "create", after=after, delay=30)
        with pytest.raises(LOST):
            await _post(fake, seconds=0.3)
        assert fake.billed_for("mine") == int(after)


async def test_what_is_slow_is_done_all_the_same() -> None:
    async with BflFake().serve() as fake:
        fake.fault(Kind.SLOW, "create", delay=0.6)
        with pytest.raises(LOST):
            await _post(fake, seconds=0.3)
        assert fake.billed_for("mine") == 0
        await asyncio.sleep(0.6)
        assert fake.billed_for("mine") == 1


async def test_statuses_carry_retry_after_only_where_it_was_asked_for() -> None:
    async with BflFake().serve() as fake, aiohttp.ClientSession(headers=BFL_KEY) as session:
        for retry_after in (None, "7"):
            fake.fault(Kind.STATUS, "list", status=429, retry_after=retry_after)
            async with session.get(f"{fake.url}/v1/my_finetunes") as response:
                assert (response.status, response.headers.get("Retry-After")) == (429, retry_after)
        async with session.get(f"{fake.url}/v1/my_finetunes") as response:
            assert response.status == 200


async def test_bodies_can_be_broken_huge_or_without_end() -> None:
    async with BflFake().serve() as fake:
        fake.fault(Kind.MALFORMED, "create", after=True)
        assert (await _post(fake)) == (200, '{"id": "tru')
        fake.fault(Kind.SHAPE, "create", after=True)
        assert (await _post(fake)) == (200, "[1, 2, 3]")
        fake.fault(Kind.HUGE, "create", size=1_000_000)
        assert len((await _post(fake))[1]) > 1_000_000
        fake.fault(Kind.ENDLESS, "create")
        with pytest.raises(LOST):
            await _post(fake, seconds=0.5)
        fake.fault(Kind.REDIRECT, "create")
        assert (await _post(fake))[0] == 307
        assert fake.billed_for("mine") == 2
        assert fake.faults.injected.total() == 5


async def test_an_unknown_state_is_said_once_and_changes_nothing() -> None:
    async with OctoAiFake().serve() as fake, aiohttp.ClientSession(headers=OCTOAI_KEY) as session:
        tune = fake.plant("mine")
        fake.fault(Kind.UNKNOWN_STATUS, "get", after=True)
        seen = []
        for _ in range(2):
            async with session.get(f"{fake.url}/v1/tune/{tune}") as response:
                seen.append((await response.json())["status"])
        assert seen == ["contemplating", "succeeded"]


async def test_lists_lag_until_the_clock_moves_on() -> None:
    async with BflFake(BflOptions(list_lag=300)).serve() as fake, aiohttp.ClientSession(headers=BFL_KEY) as session:
        made = (await _post(fake))[1]

        async def listed() -> Any:
            async with session.get(f"{fake.url}/v1/my_finetunes") as response:
                return (await response.json())["finetunes"]

        assert not any(one in made for one in await listed())
        async with session.post(f"{fake.url}/_control/advance", json={"seconds": 301}) as response:
            assert response.status == 200
        assert any(one in made for one in await listed())


async def test_the_remote_control_tells_and_sets() -> None:
    async with BflFake().serve() as fake, aiohttp.ClientSession() as session:
        control = f"{fake.url}/_control"
        async with session.post(f"{control}/faults", json={"kind": "status", "status": 402}) as response:
            assert response.status == 200
        async with session.post(f"{control}/faults", json={"kind": "thunder"}) as response:
            assert response.status == 400
        async with session.post(f"{control}/options", json={"outcome": "fail"}) as response:
            assert response.status == 200
        async with session.post(f"{control}/options", json={"colour": "blue"}) as response:
            assert "outcome" in (await response.json())["known"]
        assert (await _post(fake))[0] == 402
        await _post(fake)
        async with session.get(control) as response:
            seen = await response.json()
        assert [call["fault"] for call in seen["calls"]] == ["status", None]
        assert seen["billed"][0]["marker"] == "mine"
        assert fake.options.outcome == "fail"


async def test_the_hook_sees_every_call_before_and_after_its_work() -> None:
    async with BflFake().serve() as fake:
        heard: list[tuple[str, int]] = []

        async def hook(when: str, _: object) -> None:
            heard.append((when, len(fake.billed)))

        fake.hook = hook
        await _post(fake)
        assert heard == [("arrived", 0), ("committed", 1)]
