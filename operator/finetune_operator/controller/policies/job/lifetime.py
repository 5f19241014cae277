"""What a run has taken, over all its Jobs and all the times that one was suspended: its start, deadline and attempts.

A Job begins anew each time that it is resumed: its start, and with it its deadline, and a Job that is created again
knows nothing of the last one. So the status keeps what the run has had, and the Job gets what is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from finetune_operator.api.objects import Object
from finetune_operator.backends.job.interpret import attempts, finished
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
    """Add what the Job has counted since the last look to the run's own counts.

    The number of a Job's pods falls where one has ended that the Job does not count: at a suspension, or disrupted.
    """
    uid, now = job["metadata"]["uid"], attempts(job)
    before = 0
    if (status.get("job") or {}).get("uid") == uid:
        # An older version has not recorded what this Job counted.
        before = int(status.get("jobAttempts") or 0) if "jobAttempts" in status else min(now, _attempts(status))
    if now > before:
        status["attempts"] = _attempts(status) + now - before
    stopped = job["spec"].get("suspend") or "deletionTimestamp" in job["metadata"] or finished(job)
    if before > now and not stopped:
        status["disruptions"] = (status.get("disruptions") or 0) + before - now
    status["job"], status["jobAttempts"] = {"name": job["metadata"]["name"], "uid": uid}, now


def _attempts(status: Object) -> int:
    return int(status.get("attempts") or 0)
