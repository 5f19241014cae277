"""Times and durations as kubectl shows them, and sizes for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def parsed(text: object) -> datetime | None:
    """An RFC 3339 time; None for anything else."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def age(since: object, now: datetime) -> str:
    """`5m`, `3h12m`; `<unknown>` where there is no time."""
    moment = parsed(since)
    return "<unknown>" if moment is None else duration((now - moment).total_seconds())


def duration(seconds: float) -> str:
    """Two units at most, the second only while it matters: 59s, 12m, 1h5m, 23h, 3d4h, 90d."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return f"{days}d{hours % 24}h" if days < 8 and hours % 24 else f"{days}d"


def clock(seconds: float) -> str:
    """A remaining time: 0:42, 12:05, 3:00:00."""
    whole = max(0, int(seconds))
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: object) -> str:
    """`1.5 MiB`; empty where it is not known."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        return ""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {UNITS[unit]}"
