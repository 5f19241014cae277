"""The work queue, on the event loop's own time."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.controller.queue import RetryQueue


async def take(queue: RetryQueue[str], count: int) -> list[str]:
    """The next keys, each done before the next is asked for."""
    keys = []
    for _ in range(count):
        key = await asyncio.wait_for(queue.get(), 1)
        assert key is not None
        queue.done(key)
        keys.append(key)
    return keys


async def test_a_key_that_waits_is_in_it_once() -> None:
    queue: RetryQueue[str] = RetryQueue()
    for key in "aabab":
        queue.add(key)
    assert len(queue) == 2
    assert await take(queue, 2) == ["a", "b"]
    assert queue.idle


async def test_a_key_is_never_worked_on_twice_at_once_and_what_comes_meanwhile_comes_after() -> None:
    queue: RetryQueue[str] = RetryQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.02)
    queue.done("a")
    assert await take(queue, 1) == ["a"]
    assert queue.idle


async def test_urgent_keys_overtake_in_their_own_order() -> None:
    queue: RetryQueue[str] = RetryQueue()
    for key in ("slow-1", "slow-2", "new-1", "new-2"):
        queue.add(key, urgent=key.startswith("new"))
    assert await take(queue, 4) == ["new-1", "new-2", "slow-1", "slow-2"]


async def test_urgency_lifts_a_key_that_waits_already() -> None:
    queue: RetryQueue[str] = RetryQueue()
    queue.add("a")
    queue.add("b")
    queue.add("b", urgent=True)
    queue.add("b")
    assert await take(queue, 2) == ["b", "a"]
    assert len(queue) == 0


async def test_urgency_during_work_is_kept_for_after_it() -> None:
    queue: RetryQueue[str] = RetryQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a", urgent=True)
    queue.add("b")
    queue.done("a")
    assert await take(queue, 2) == ["a", "b"]


async def test_nobody_waits_for_ever_behind_urgent_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.controller.queue.LATE", 0.05)
    queue: RetryQueue[str] = RetryQueue()
    queue.add("patient")
    await asyncio.sleep(0.06)
    queue.add("urgent", urgent=True)
    assert await take(queue, 2) == ["patient", "urgent"]


async def test_what_is_due_overtakes_what_can_wait() -> None:
    queue: RetryQueue[str] = RetryQueue()
    queue.add_after("poll", 0.01)
    for key in ("one", "two"):
        queue.add(key)
    await asyncio.sleep(0.03)
    assert await take(queue, 3) == ["poll", "one", "two"]


async def test_a_worker_for_urgent_keys_takes_nothing_else() -> None:
    queue: RetryQueue[str] = RetryQueue()
    express = asyncio.create_task(queue.get(urgent_only=True))
    queue.add("slow")
    await asyncio.sleep(0.01)
    assert not express.done()
    queue.add("new", urgent=True)
    assert await asyncio.wait_for(express, 1) == "new"
    assert await take(queue, 1) == ["slow"]
    queue.done("new")
    assert queue.idle


async def test_what_has_become_urgent_is_for_that_worker_too_and_comes_once() -> None:
    queue: RetryQueue[str] = RetryQueue()
    queue.add("a")
    queue.add("a", urgent=True)
    assert await asyncio.wait_for(queue.get(urgent_only=True), 1) == "a"
    queue.done("a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.02)


async def test_closing_wakes_that_worker() -> None:
    queue: RetryQueue[str] = RetryQueue()
    express = asyncio.create_task(queue.get(urgent_only=True))
    await asyncio.sleep(0)
    queue.close()
    assert await asyncio.wait_for(express, 1) is None


async def test_a_delayed_key_comes_in_time_and_the_sooner_time_wins() -> None:
    queue: RetryQueue[str] = RetryQueue()
    began = asyncio.get_running_loop().time()
    queue.add_after("a", 30)
    queue.add_after("a", 0.05)
    queue.add_after("a", 10)
    assert await take(queue, 1) == ["a"]
    assert asyncio.get_running_loop().time() - began >= 0.05
    assert queue.oldest_age() == 0


async def test_retries_wait_ever_longer_up_to_the_cap_until_forgotten() -> None:
    queue: RetryQueue[str] = RetryQueue(backoff_base=1, backoff_cap=10)
    waits = [queue.retry("a") for _ in range(200)]
    for wait, full in zip(waits, (1, 2, 4, 8, 10, 10), strict=False):
        assert full / 2 <= wait <= full
    assert max(waits) <= 10
    assert len({*waits[4:]}) > 100  # the jitter spreads keys that failed together
    queue.forget("a")
    assert queue.retry("a") <= 1
    queue.close()


async def test_a_retry_waits_as_long_as_the_api_server_asks() -> None:
    queue: RetryQueue[str] = RetryQueue(backoff_base=0.001)
    assert queue.retry("a", at_least=7) == 7
    queue.close()


async def test_what_has_waited_longest_is_known() -> None:
    queue: RetryQueue[str] = RetryQueue()
    queue.add("a")
    await asyncio.sleep(0.03)
    queue.add("b", urgent=True)
    queue.add("a", urgent=True)
    assert 0.03 <= queue.oldest_age() < 0.5
    await take(queue, 2)
    assert queue.oldest_age() == 0


async def test_closing_wakes_everybody_and_hands_out_nothing_more() -> None:
    queue: RetryQueue[str] = RetryQueue()
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.add_after("later", 0.01)
    queue.close()
    queue.add("a")
    queue.add_after("b", 0)
    await asyncio.sleep(0.02)
    assert await asyncio.gather(*waiting) == [None, None, None]
    assert await queue.get() is None


async def test_many_workers_over_many_keys_lose_nothing_and_never_meet() -> None:
    queue: RetryQueue[int] = RetryQueue()
    wanted = dict.fromkeys(range(10), 20)
    in_hand: set[int] = set()

    async def work() -> None:
        while (key := await queue.get()) is not None:
            assert key not in in_hand
            in_hand.add(key)
            await asyncio.sleep(0)
            in_hand.discard(key)
            wanted[key] -= 1
            if wanted[key] > 0:
                queue.add(key, urgent=bool(wanted[key] % 3))
            queue.done(key)
            if not any(left > 0 for left in wanted.values()):
                queue.close()

    for key in wanted:
        queue.add(key)
    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(4))), 10)
    assert set(wanted.values()) == {0}
