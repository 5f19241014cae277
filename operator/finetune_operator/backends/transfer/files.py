"""Files in the spool, read without holding the event loop up."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

CHUNK: Final = 1 << 18


async def file_digest(path: Path) -> str:
    """SHA-256, in hex."""
    return await asyncio.to_thread(_digest, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def chunks(path: Path, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
    """The file's bytes, or `length` of them from `start`."""
    with path.open("rb") as file:
        left = length if length is not None else file.seek(0, os.SEEK_END) - start
        file.seek(start)
        while left > 0 and (data := await asyncio.to_thread(file.read, min(CHUNK, left))):
            left -= len(data)
            yield data
