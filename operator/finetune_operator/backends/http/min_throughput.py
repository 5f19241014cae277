"""A sender that hardly sends must not keep others from their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from finetune_operator.backends.errors import Transient

SECONDS: Final = 60.0
LEAST_BYTES: Final = 64 * 1024


async def keeping_pace(
    chunks: AsyncIterator[bytes], title: str, seconds: float = SECONDS, least: int = LEAST_BYTES
) -> AsyncIterator[bytes]:
    """The chunks. Raises Transient where fewer than `least` bytes came within `seconds`."""
    clock = asyncio.get_running_loop().time
    since, seen = clock(), 0
    async for chunk in chunks:
        yield chunk
        seen += len(chunk)
        if clock() - since >= seconds:
            if seen < least:
                raise Transient(f"{title} sends less than {least} bytes in {seconds:.0f} s")
            since, seen = clock(), 0
