"""Sizes for people. Pure."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: object) -> str:
    """`1.5 MiB`; empty where it is not known."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        return ""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {UNITS[unit]}"
