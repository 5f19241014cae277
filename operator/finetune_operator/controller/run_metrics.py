"""What a status write that has landed means for the metrics of runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.controller.conditions import is_terminal, is_true
from finetune_operator.controller.times import parse, seconds_since
from finetune_operator.metrics import Metrics


class RunMetrics:
    """Counts transitions, not states: each is seen once, in the process that wrote it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def status_written(self, before: Mapping[str, Any], body: Object) -> None:
        """`before`: the status that was replaced. `body`: the FineTune as the API server answered."""
        after = body.get("status") or {}
        same_run = before.get("run") == after.get("run")
        backend = str(after.get("backend") or "none")
        if is_true(after, ConditionType.RUNNING) and not (same_run and before.get("startTime")):
            waited = seconds_since(body["metadata"].get("creationTimestamp"), datetime.now(UTC))
            if waited is not None and after.get("run") == 1:
                self._metrics.run_started(backend, waited)
        if is_terminal(after) and not (same_run and is_terminal(before)):
            self._finished(backend, after)
        if after.get("reason") == Reason.PREEMPTED and before.get("reason") != Reason.PREEMPTED:
            self._metrics.preempted(backend)

    def _finished(self, backend: str, status: Mapping[str, Any]) -> None:
        start, end = status.get("startTime"), status.get("completionTime")
        seconds = seconds_since(start, parse(end)) if start and end else None
        self._metrics.run_finished(backend, str(status.get("phase")), str(status.get("reason")), seconds)
