"""How much an object of the API server takes in memory, and what stands in the place of what takes too much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

ENTRY_BYTES: Final = 64
"""Of a list, an object, or one entry of either, about."""


class Omitted(dict[str, Any]):
    """In the place of a member that is too heavy to be read or kept: empty. `size`: its bytes as JSON."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


def weight(raw: bytes) -> int:
    """About the bytes that a JSON document takes once it is read: its own, and 64 for each list, object and comma."""
    return len(raw) + ENTRY_BYTES * (raw.count(b"{") + raw.count(b"[") + raw.count(b","))


def is_heavy(raw: bytes, limit: int) -> bool:
    """Whether it weighs more than that."""
    return len(raw) * (ENTRY_BYTES + 1) > limit and weight(raw) > limit


def weight_of(value: Any) -> int:
    """The same of what has been read."""
    try:
        return weight(orjson.dumps(value))
    except orjson.JSONEncodeError:  # it is deeper than orjson writes
        return sum(ENTRY_BYTES + _text(each) for each in _each(value))


def size_of(value: Any) -> int:
    """Its bytes as JSON, also where it has been left out; about as many where it is deeper than can be written."""
    if isinstance(value, Omitted):
        return value.size
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        return sum(2 + _text(each) for each in _each(value))


def _each(value: Any) -> Iterator[Any]:
    """Every value in it, level by level and not by recursion."""
    left = [value]
    while left:
        each = left.pop()
        yield each
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each


def _text(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0
