"""A row of numbers as a row of bars. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """At most `width` bars, the newest last; where there are more values, each bar is the mean of its share."""
    finite = [value for value in values if math.isfinite(value)]
    shown = _means(finite, width) if len(finite) > width else finite
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return BARS[0] * len(shown)
    scale = (len(BARS) - 1) / (high - low)
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def _means(values: Sequence[float], width: int) -> list[float]:
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
