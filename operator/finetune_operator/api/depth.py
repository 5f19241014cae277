"""How deeply lists and objects may stand in each other where the schema leaves the inside of a field free.

The API server takes 10,000 levels; orjson reads 1,024 and writes 254, and Python's own recursion ends at 1,000. What
is asked here is asked level by level, so that no depth is too much to be told.
"""

from __future__ import annotations

from typing import Any, Final

MAX_LEVELS: Final = 100
"""Of a free-form field, the field itself being the first."""


def below(value: Any, levels: int) -> list[Any]:
    """The lists and objects that stand below so many levels of them, each once; none where it is no deeper."""
    layer = {id(value): value} if isinstance(value, (dict, list)) else {}
    for _ in range(levels):
        layer = {
            id(inner): inner
            for outer in layer.values()
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        }
        if not layer:
            break
    return list(layer.values())


def too_deep(value: Any) -> bool:
    """Whether it is deeper than a free-form field may be."""
    return bool(below(value, MAX_LEVELS))
