"""A de-duplicating, retrying work queue for one event loop: client-go's workqueue with two heaps.

A key is in the queue at most once and never worked on twice at the same time; adds during work come after it. Keys
that may have a Job to create overtake those that only have a status to write, for at most `LATE` seconds, and so do
those whose time has come (polls, deadlines); and a worker can ask for the first alone, so that a crowd of slow status
writes never holds every worker.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LATE = 10.0
"""How long, in seconds, a key that can wait lets others overtake."""

LONG, SLACK = 10.0, 1.0
"""Waits of so many seconds and more end at full seconds, many together: to wake up for each alone costs the most
of a poll."""

SOON = 0.001
"""Less is now, in seconds: uvloop makes no timer of it."""


class RetryQueue(Generic[K]):
    """Call everything from the event loop's thread. Times are the loop's own."""

    def __init__(self, *, backoff_base: float = 0.005, backoff_cap: float = 60.0) -> None:
        self._base = backoff_base
        self._cap = backoff_cap
        self._urgent: list[tuple[float, int, K]] = []
        self._patient: list[tuple[float, int, K]] = []
        self._waiting: dict[K, tuple[bool, int]] = {}
        """(urgent, number of its entry): an entry of another number has been overtaken."""
        self._added: dict[K, float] = {}
        self._working: set[K] = set()
        self._again: dict[K, bool] = {}
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._sequence = 0
        self._wakeup: asyncio.Event = asyncio.Event()
        self._closed = False
        self.adds_total = 0
        self.retries_total = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing is being worked on; keys may still be due later."""
        return not self._waiting and not self._working

    def oldest_age(self) -> float:
        """Seconds that the longest-waiting ready key has waited; 0 where none waits."""
        now = asyncio.get_running_loop().time()
        return max((now - since for since in self._added.values()), default=0.0)

    def add(self, key: K, *, urgent: bool = False, due: bool = False) -> None:
        """Have it looked at soon. `urgent`: before those that are not. `due`: so too, but by no worker kept free."""
        if self._closed:
            return
        self.adds_total += 1
        if key in self._working:
            self._again[key] = urgent or self._again.get(key, False)
            return
        now = asyncio.get_running_loop().time()
        already_urgent, _ = self._waiting.get(key, (None, 0))
        if already_urgent is not None and (already_urgent or not urgent):
            return
        self._sequence += 1
        self._waiting[key] = urgent, self._sequence
        self._added.setdefault(key, now)
        rank = now if urgent or due else now + LATE
        heapq.heappush(self._urgent if urgent else self._patient, (rank, self._sequence, key))
        self._wakeup.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Have it looked at in so many seconds, or sooner if a sooner time is already set."""
        if self._closed:
            return
        if seconds < SOON:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if seconds >= LONG:
            due = math.ceil(due / SLACK) * SLACK
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._fire, key)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key, due=True)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Have it looked at again after a failure: exponential backoff with jitter. Returns the wait in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.retries_total += 1
        # The jitter spreads keys that failed together; 2**failures is bounded before it can overflow.
        wait = min(self._cap, self._base * 2.0 ** min(failures, 32)) * random.uniform(0.5, 1.0)
        wait = max(wait, at_least)
        self.add_after(key, wait)
        return wait

    def forget(self, key: K) -> None:
        """It went well: the next failure starts from the shortest wait."""
        self._failures.pop(key, None)

    async def get(self, *, urgent_only: bool = False) -> K | None:
        """The next key, which is the caller's until `done`; None once the queue is closed."""
        while not self._closed:
            heaps = (self._urgent,) if urgent_only else (self._urgent, self._patient)
            heap = min((heap for heap in heaps if self._current(heap)), key=lambda heap: heap[0], default=None)
            if heap is not None:
                _, _, key = heapq.heappop(heap)
                del self._waiting[key]
                self._added.pop(key, None)
                self._working.add(key)
                return key
            self._wakeup.clear()
            await self._wakeup.wait()
        return None

    def _current(self, heap: list[tuple[float, int, K]]) -> bool:
        """Drop what has been overtaken by a more urgent entry of the same key; whether anything is left."""
        while heap and self._waiting.get(heap[0][2], (False, 0))[1] != heap[0][1]:
            heapq.heappop(heap)
        return bool(heap)

    def done(self, key: K) -> None:
        """The work on it has ended; what was added meanwhile comes now."""
        self._working.discard(key)
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)

    def close(self) -> None:
        """Hand out nothing more and wake everybody who waits."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._wakeup.set()
