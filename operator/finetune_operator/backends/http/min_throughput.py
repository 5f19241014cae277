"""A sender that hardly sends must not keep others from their place: what it must send rises while it has one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from finetune_operator.backends.errors import Transient

SECONDS: Final = 60.0
LEAST_BYTES: Final = 64 * 1024
MOST_BYTES: Final = 16 * 1024 * 60
"""Of `SECONDS`: more is never asked for. Reached after four of them."""


@dataclass(slots=True)
class MinThroughput:
    """At least `least` bytes within `seconds`, and after each time twice as many as before, up to `most`.

    One for a file, however often it is taken up: what has been reached stays.
    """

    seconds: float = SECONDS
    least: int = LEAST_BYTES
    most: int = MOST_BYTES
    _since: float = 0.0
    _seen: int = 0

    def begin(self, now: float) -> None:
        """From here on it is the sender's time, and not that of a wait for a place."""
        self._since, self._seen = now, 0

    def missed(self, now: float, size: int) -> int | None:
        """`size` bytes have come: None where that will do, else how many would have had to come."""
        self._seen += size
        if now - self._since < self.seconds:
            return None
        seen, wanted = self._seen, self.least
        self.begin(now)
        if seen < wanted:
            return wanted
        self.least = min(max(self.most, wanted), 2 * wanted)
        return None


async def keeping_pace(
    chunks: AsyncIterator[bytes], title: str, pace: MinThroughput | None = None
) -> AsyncIterator[bytes]:
    """The chunks. Raises Transient where too few come."""
    pace = pace or MinThroughput()
    clock = asyncio.get_running_loop().time
    pace.begin(clock())
    async for chunk in chunks:
        yield chunk
        if wanted := pace.missed(clock(), len(chunk)):
            raise Transient(f"{title} sends less than {wanted} bytes in {pace.seconds:.0f} s")
