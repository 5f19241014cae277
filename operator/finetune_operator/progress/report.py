"""From the bytes that a pod sent to a report that the status can hold. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from finetune_operator.api.objects import Object
from finetune_operator.api.progress import MAX_BODY_BYTES, ProgressReport, dated, to_progress
from finetune_operator.api.status import Progress

__all__ = ["MAX_BODY_BYTES", "Malformed", "OutOfBounds", "Report", "read"]


class Malformed(ValueError):
    """The body is not valid JSON."""


class OutOfBounds(ValueError):
    """The body is JSON that says nothing that a status could hold."""


@dataclass(frozen=True, slots=True)
class Report:
    """An accepted report. `progress.wire()` has the shape of `status.progress`, `facts` that of the whole status."""

    progress: Progress
    claimed_time: datetime | None
    """When the pod says that it reported; its clock is not believed."""
    facts: Object = field(default_factory=dict)


def read(body: bytes, received: str) -> Report:
    """`received`: the operator's time, RFC 3339. Raises Malformed or OutOfBounds, naming the field."""
    try:
        report = ProgressReport.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    _check_metrics(report)
    trainer = report.trainer_status
    facts: Object = {}
    if trainer.checkpoint is not None:
        facts["checkpoint"] = dated(trainer.checkpoint, datetime.fromisoformat(received)).wire()
    if trainer.base_model_revision is not None:
        facts["baseModelRevision"] = trainer.base_model_revision
    return Report(to_progress(report, received), trainer.last_updated_time, facts)


def _refusal(error: ValidationError) -> ValueError:
    findings = error.errors(include_url=False, include_input=False, include_context=False)
    if any(finding["type"] == "json_invalid" for finding in findings):
        return Malformed("the body is not valid JSON")
    words = (f"{'.'.join(str(part) for part in finding['loc'])}: {finding['msg']}" for finding in findings[:3])
    return OutOfBounds("; ".join(words))


def _check_metrics(report: ProgressReport) -> None:
    metrics = report.trainer_status.metrics
    for position, metric in enumerate(metrics):
        if not (metric.name.isprintable() and metric.value.isprintable()):
            raise OutOfBounds(f"trainerStatus.metrics.{position}: characters that cannot be shown")
        if not _finite(metric.value):
            raise OutOfBounds(f"trainerStatus.metrics.{position}.value: no finite number")
    name, times = (Counter(metric.name for metric in metrics).most_common(1) or [("", 1)])[0]
    if times > 1:
        raise OutOfBounds(f"trainerStatus.metrics: {name} comes {times} times")


def _finite(text: str) -> bool:
    """False for nan, inf and what overflows; text that is not a number at all is a value like another."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return True
