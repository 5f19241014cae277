"""How fast the machine is just now: what it is shared with changes the processor time of the same work by half."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

ROUNDS = 60_000
EVERY_SECONDS = 1.0


def work() -> float:
    """Milliseconds of processor time that a fixed piece of plain Python takes, about 6."""
    began = time.thread_time()
    total = 0
    for number in range(ROUNDS):
        total += number * number % 7
    return 1000 * (time.thread_time() - began)


@asynccontextmanager
async def measured() -> AsyncIterator[list[float]]:
    """Does it again and again, in a thread of its own; the list grows."""
    found: list[float] = []

    async def keep_on() -> None:
        while True:
            found.append(await asyncio.to_thread(work))
            await asyncio.sleep(EVERY_SECONDS)

    task = asyncio.create_task(keep_on())
    try:
        yield found
    finally:
        task.cancel()
