"""What a run has taken, over all its Jobs and all the times that one was suspended: its start, deadline and attempts.

A Job begins anew each time that it is resumed: its start, and with it its deadline, and a Job that is created again
knows nothing of the last one. So the status keeps what the run has had, and the Job gets what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.backends.job.disruption import disruption_of, pod_condition
from finetune_operator.controller.times import parse, seconds_since

DEADLINE: Final = "activeDeadlineSeconds"
SLACK: Final = 5
"""Seconds by which a Job's deadline may differ from what is left: each change costs a write."""


def left_at_creation(seconds: int, status: Mapping[str, Any], now: datetime) -> int:
    """Seconds of the run's deadline that are left to a Job that is created now."""
    gone = seconds_since(status.get("startTime"), now)
    return seconds if gone is None else max(1, int(seconds - max(0.0, gone)))


def wanted_deadline(seconds: int, status: Mapping[str, Any], job: Object) -> int | None:
    """What the Job's deadline is to be, counted from the Job's own start; None: it may stay as it is."""
    carried, began = job["spec"].get(DEADLINE), (job.get("status") or {}).get("startTime")
    first = status.get("startTime") or began
    if began == first or carried is None:
        return seconds if carried != seconds else None
    if began is None:
        return None  # it is suspended: what is left is known when it goes on
    later = seconds_since(first, _moment(began))
    left = max(1, int(seconds - max(0.0, later or 0.0)))
    return left if abs(left - carried) > SLACK else None


def _moment(text: str) -> datetime:
    try:
        return parse(text)
    except ValueError:
        return datetime.max


def count(job: Object, status: Object) -> None:
    """Add what the Job has counted since the last look to the run's own attempts.

    The number of a Job's pods falls where one has ended that the Job does not count: at a suspension, or disrupted. One
    that is being ended may be counted still; it is none of the next ones.
    """
    uid, says = job["metadata"]["uid"], job.get("status") or {}
    known = (status.get("job") or {}).get("uid") == uid
    over, ending = _sum(says, "failed", "succeeded"), _sum(says, "terminating")
    now = over + _sum(says, "active")
    before = 0
    if known:  # an older version has not recorded what this Job counted
        before = _sum(status, "jobAttempts") if "jobAttempts" in status else min(now, _sum(status, "attempts"))
    held = bool(job["spec"].get("suspend"))
    if now > before and not (held and known):
        status["attempts"] = _sum(status, "attempts") + now - before
    status["job"] = {"name": job["metadata"]["name"], "uid": uid}
    status["jobAttempts"] = over if held else now + min(ending, max(0, before - now))


def count_disruptions(pods: Sequence[Object], status: Object) -> None:
    """Add the pods that were disrupted since the last one that is recorded. A run has one pod after the other."""
    last = status.get("lastDisruption") or {}
    lost = sorted((pod for pod in pods if pod_condition(pod, "DisruptionTarget")), key=_created)
    new = [pod for pod in lost if _created(pod) > str(last.get("podCreated") or "")]
    if not new:
        return
    status["disruptions"] = _sum(status, "disruptions") + len(new)
    message = str(disruption_of(new[-1]) or "")
    status["lastDisruption"] = {
        "pod": str(new[-1]["metadata"].get("name") or ""),
        "podCreated": _created(new[-1]),
        "message": message,
    }


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _sum(counts: Mapping[str, Any], *names: str) -> int:
    return sum(int(counts.get(name) or 0) for name in names)
