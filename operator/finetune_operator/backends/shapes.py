"""Reading JSON whose shape nobody vouches for. Pure.

What does not fit is dropped: what is missing then is noticed where it is needed.
"""

from __future__ import annotations

from typing import Any


def items(value: object) -> list[Any]:
    """The list, or none."""
    return value if isinstance(value, list) else []


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in the list, if it is one."""
    return [item for item in items(value) if isinstance(item, dict)]


def texts(value: object) -> list[str]:
    """The texts in the list, if it is one."""
    return [item for item in items(value) if isinstance(item, str) and item]
