"""JSON and XML that others have written, read beside the event loop where there is much of it, and not where it is made
to become far more in memory: 8 MiB of `{}` are 200 MB there."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson

from finetune_operator.api.weight import is_heavy

T = TypeVar("T")

LARGE: Final = 256 * 1024
"""Bytes that are not read on the event loop."""
MAX_WEIGHT: Final = 32 * 2**20
"""Of a JSON document (`api/weight.py`). A page of 1,000 files weighs a thirtieth of it."""
MAX_TAGS: Final = 100_000
"""Of an XML document. A page of 1,000 objects has a quarter of them."""


class TooHeavy(ValueError):
    """It would become too much in memory."""


async def json_of(raw: bytes) -> Any:
    """Raises ValueError: TooHeavy, or what orjson makes of something that is no JSON."""
    if is_heavy(raw, MAX_WEIGHT):
        raise TooHeavy
    return await aside(orjson.loads, raw)


async def xml_of(raw: bytes) -> ElementTree.Element:
    """Raises TooHeavy, and ElementTree.ParseError. Entities are the caller's to refuse."""
    if raw.count(b"<") > MAX_TAGS:
        raise TooHeavy
    return await aside(ElementTree.fromstring, raw)


async def aside(read: Callable[[bytes], T], raw: bytes) -> T:
    """`read(raw)`, in a thread where there is much to read."""
    return await asyncio.to_thread(read, raw) if len(raw) > LARGE else read(raw)
