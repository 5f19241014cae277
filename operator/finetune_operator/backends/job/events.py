"""Which Events say why a run waits now: those of the pod that waits, of the Job, of the claims; the newest. Pure.

Events stay for an hour. One of an earlier attempt says nothing about this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from finetune_operator.api.objects import Object


def said_at(event: Object) -> datetime | None:
    """When it was said last; None where it cannot be told. Aggregated Events count on in `series`."""
    series = event.get("series")
    places: list[Any] = [series.get("lastObservedTime") if isinstance(series, dict) else None]
    places += [event.get("lastTimestamp"), event.get("eventTime"), event.get("firstTimestamp")]
    places.append((event.get("metadata") or {}).get("creationTimestamp"))
    return max((time for place in places if (time := moment(place)) is not None), default=None)


def moment(text: Any) -> datetime | None:
    """None for what is no time in RFC 3339."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo is not None else None


def newest(events: Iterable[Object]) -> Object | None:
    """The one that was said last; those without a time come last."""
    return max(events, key=lambda event: said_at(event) or datetime.min.replace(tzinfo=UTC), default=None)


def about(events: Iterable[Object], kind: str, *, names: Sequence[str] = (), uid: str | None = None) -> list[Object]:
    """Those about an object of this kind: by uid where both sides have one, else by name.

    One that does not say what it is about counts.
    """
    return [event for event in events if _is_about(event.get("involvedObject"), kind, names, uid)]


def _is_about(target: Any, kind: str, names: Sequence[str], uid: str | None) -> bool:
    if not isinstance(target, dict):
        return target is None
    if target.get("kind") != kind:
        return False
    if uid and target.get("uid"):
        return bool(target["uid"] == uid)
    return target.get("name") in names


def since(events: Iterable[Object], start: datetime | None) -> list[Object]:
    """Without those that were said before then."""
    if start is None:
        return list(events)
    return [event for event in events if (time := said_at(event)) is None or time >= start]
