"""JSON and XML that others have written, read beside the event loop where there is much of it, and not where it is made
to become far more in memory: 8 MiB of `{}` are 200 MB there."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson

from finetune_operator.kube.weight import is_heavy

T = TypeVar("T")

LARGE: Final = 256 * 1024
"""Bytes that are not read on the event loop."""
MAX_WEIGHT: Final = 32 * 2**20
"""Of a JSON document (`kube/weight.py`). A page of 1,000 files weighs a thirtieth of it."""
MAX_TAGS: Final = 100_000
"""Of an XML document. A page of 1,000 objects has a quarter of them."""


class TooHeavy(ValueError):
    """It would become too much in memory."""


def parsed(raw: bytes) -> Any:
    """The JSON document; None where it is none. What no text can hold (half a pair, broken UTF-8) becomes U+FFFD."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _parsed_leniently(raw)


def _parsed_leniently(raw: bytes) -> Any:
    """Python's own parser takes what orjson does not: halves of surrogate pairs, control characters in texts, NaN."""
    try:
        return _whole(json.loads(raw.decode("utf-8-sig", "replace"), strict=False))
    except (ValueError, RecursionError):
        return None


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


async def json_of(raw: bytes) -> Any:
    """Read as leniently as `parsed` does. Raises ValueError: TooHeavy, or that this is not JSON."""
    if is_heavy(raw, MAX_WEIGHT):
        raise TooHeavy
    found = await aside(parsed, raw)
    if found is None and raw.strip() != b"null":
        raise ValueError("not JSON")
    return found


async def xml_of(raw: bytes) -> ElementTree.Element:
    """Raises TooHeavy, and ElementTree.ParseError. Entities are the caller's to refuse."""
    if raw.count(b"<") > MAX_TAGS:
        raise TooHeavy
    return await aside(ElementTree.fromstring, raw)


async def aside(read: Callable[[bytes], T], raw: bytes) -> T:
    """`read(raw)`, in a thread where there is much to read."""
    return await asyncio.to_thread(read, raw) if len(raw) > LARGE else read(raw)
