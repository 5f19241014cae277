"""RFC 3339 both ways, in UTC with whole seconds as metav1.Time has them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """`2026-01-02T03:04:05Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """An aware datetime. Raises ValueError."""
    return datetime.fromisoformat(text)


def seconds_since(text: str | None, now: datetime) -> float | None:
    """Seconds from a stamp to now; None where there is no stamp, or none that can be read."""
    if not text:
        return None
    try:
        return (now - parse(text)).total_seconds()
    except (ValueError, TypeError):
        return None
