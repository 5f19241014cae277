"""The body of a progress report, and what of it goes into the status.

The body is that of Kubeflow Trainer's status server, which transformers' KubeflowCallback sends by itself:
`{"trainerStatus": {"progressPercentage": 42, "estimatedRemainingSeconds": 60, "metrics": [{"name": "loss",
"value": "0.1"}], "lastUpdatedTime": "2026-01-02T03:04:05+00:00"}}`. Our trainer adds `checkpoint` ({"step", "uri",
"ageSeconds"}) and `baseModelRevision`, which Kubeflow's has no field for.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from finetune_operator.api.names import camel
from finetune_operator.api.status import MAX_METRICS, Checkpoint, Metric, Progress
from finetune_operator.api.trainer_config import CheckpointRecord, Revision

STEP_METRIC: Final = "current_step"
TOTAL_STEPS_METRIC: Final = "total_steps"
EPOCH_METRIC: Final = "current_epoch"
LOSS_METRIC: Final = "loss"
"""The names that transformers' callback uses; our trainer reports by the same ones."""

MAX_BODY_BYTES: Final = 65_536
_LONGEST_AGE_S: Final = 10 * 366 * 86_400


class _Reported(BaseModel):
    # A newer sender may add fields; what we know is still accepted.
    model_config = ConfigDict(alias_generator=camel, extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class ReportedMetric(_Reported):
    """A named value; numbers travel as strings."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    value: Annotated[str, Field(max_length=64)]


class TrainerStatus(_Reported):
    """What a trainer says of itself."""

    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    estimated_remaining_seconds: Annotated[int, Field(ge=0, le=2**53)] | None = None
    metrics: Annotated[list[ReportedMetric], Field(max_length=MAX_METRICS)] = Field(default_factory=list)
    last_updated_time: AwareDatetime | None = None
    checkpoint: CheckpointRecord | None = None
    base_model_revision: Revision | None = None


class ProgressReport(_Reported):
    """The body of `POST …/status`. Parse it with `model_validate_json`, which raises pydantic's ValidationError."""

    trainer_status: TrainerStatus


def to_progress(report: ProgressReport, received: str) -> Progress:
    """The status' view of a report. `received`: the operator's own time, RFC 3339; a pod's clock is not believed."""
    trainer = report.trainer_status
    values = {metric.name: metric.value for metric in trainer.metrics}
    step, total = _count(values.get(STEP_METRIC)), _count(values.get(TOTAL_STEPS_METRIC))
    loss = _number(values.get(LOSS_METRIC))
    return Progress(
        summary=summary(trainer.progress_percentage, step, total),
        percentage=trainer.progress_percentage,
        step=step,
        total_steps=total,
        epoch=_number(values.get(EPOCH_METRIC)),
        loss=None if loss is None else loss_text(loss),
        estimated_remaining_seconds=trainer.estimated_remaining_seconds,
        metrics=[Metric(name=metric.name, value=metric.value) for metric in trainer.metrics] or None,
        last_update_time=received,
    )


def dated(checkpoint: CheckpointRecord, seen: datetime) -> Checkpoint:
    """The status' view of a checkpoint. `seen`: the time at which it had the age that it tells of."""
    written = seen.astimezone(UTC) - timedelta(seconds=min(checkpoint.age_seconds or 0, _LONGEST_AGE_S))
    return Checkpoint(step=checkpoint.step, uri=checkpoint.uri, time=written.strftime("%Y-%m-%dT%H:%M:%SZ"))


def summary(percentage: int | None, step: int | None, total_steps: int | None) -> str | None:
    """`42% 420/1000`, or as much of it as is known."""
    parts = [
        None if percentage is None else f"{percentage}%",
        None if step is None else f"{step}/{total_steps}" if total_steps else f"step {step}",
    ]
    return " ".join(part for part in parts if part) or None


def loss_text(loss: float) -> str:
    """Four decimals, or two significant digits in scientific notation where four would show nothing, or too much."""
    return f"{loss:.4f}" if loss == 0 or 0.001 <= abs(loss) < 1e6 else f"{loss:.1e}"


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _count(text: str | None) -> int | None:
    value = _number(text)
    return int(value) if value is not None and 0 <= value <= 2**53 else None
