"""What a status write that has landed means for the metrics of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.times import parse, seconds_since
from finetune_operator.metrics import Metrics


class RunMetrics:
    """Counts transitions, not states: each is seen once, in the process that wrote it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def status_written(self, before: Mapping[str, Any], body: Object) -> None:
        """`before`: the status that was replaced. `body`: the FineTune as the API server answered."""
        after = body.get("status") or {}
        last = before if before.get("run") == after.get("run") else {}
        metadata = body["metadata"]
        whose = str(metadata.get("namespace")), str(after.get("backend") or "none")
        if after.get("runningTime") and not last.get("runningTime"):
            asked = after.get("queuedTime") or metadata.get("creationTimestamp")
            waited = _seconds(asked, after["runningTime"])
            if waited is not None:
                self._metrics.run_started(*whose, waited)
        if is_terminal(after) and not is_terminal(last):
            seconds = _seconds(after.get("startTime"), after.get("completionTime"))
            self._metrics.run_finished(*whose, str(after.get("phase")), str(after.get("reason")), seconds)
        if after.get("reason") == Reason.PREEMPTED and last.get("reason") != Reason.PREEMPTED:
            self._metrics.preempted(*whose)
        lost = int(after.get("disruptions") or 0) - int(last.get("disruptions") or 0)
        if lost > 0:
            self._metrics.disrupted(*whose, lost)


def _seconds(start: str | None, end: str | None) -> float | None:
    """From one stamp to the other; None where one is not there, or cannot be read."""
    try:
        return seconds_since(start, parse(end)) if end else None
    except ValueError:
        return None
