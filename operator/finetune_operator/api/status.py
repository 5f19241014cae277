"""`FineTune.status`: what the operator observed. Only the operator writes it; no field is mandatory.

Times are RFC 3339 strings in UTC. Loss and metric values are strings, as in Kubeflow's trainer status, so that tables
show `0.1234` and not a float's seventeen digits.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from finetune_operator.api.base import Anything, StatusModel
from finetune_operator.api.findings import alternatives
from finetune_operator.api.providers import NAMES

MAX_HISTORY: Final = 5
MAX_METRICS: Final = 256
MAX_CONDITIONS: Final = 16
MAX_ARTIFACTS: Final = 64

Word = Annotated[str, Field(max_length=316)]
Sentence = Annotated[str, Field(max_length=32_768)]
Address = Annotated[str, Field(max_length=4096)]
Digits = Annotated[str, Field(max_length=64)]
Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]


class Condition(StatusModel):
    """Condition describes one aspect of the run's current state, in the form of a metav1.Condition."""

    type: Word = Field(
        description="type is the type of the condition: Accepted, Suspended, Running, Complete, Failed, Reconciling or "
        "Stalled."
    )
    status: Literal["True", "False", "Unknown"] = Field(
        description="status is the status of the condition: True, False or Unknown."
    )
    reason: Word = Field(
        description="reason is a single CamelCase word that says why the condition has its status. The reasons are "
        "explained in docs/troubleshooting.md of the operator's repository."
    )
    message: Sentence = Field(
        default="", description="message is a sentence for people with the details, and with what to do about it."
    )
    last_transition_time: Time = Field(
        description="lastTransitionTime is the time at which status last changed, in UTC (RFC 3339)."
    )
    observed_generation: Count | None = Field(
        default=None,
        description="observedGeneration is the metadata.generation of the spec that the condition was determined from.",
    )


class JobStatus(StatusModel):
    """JobStatus identifies the Job of a run."""

    name: Word | None = Field(default=None, description="name is the name of the Job, in the FineTune's namespace.")
    uid: Word | None = Field(default=None, description="uid is the UID of the Job.")


class UpstreamStatus(StatusModel):
    """UpstreamStatus describes a run at a provider."""

    provider: Word | None = Field(
        default=None, description=f"provider is the name of the provider's backend: {alternatives(NAMES)}."
    )
    id: Word | None = Field(default=None, description="id is the ID that the provider gave to the run.")
    url: Address | None = Field(default=None, description="url is the web page of the run at the provider.")
    marker: Word | None = Field(
        default=None,
        description="marker is the text that the operator writes into the run at the provider, to find the run again "
        "after a lost response.",
    )
    stage: Word | None = Field(default=None, description="stage is the provider's own word for the state of the run.")
    intent_time: Time | None = Field(
        default=None,
        description="intentTime is the time at which the operator first recorded that it was about to make a billed "
        "call, in UTC (RFC 3339).",
    )
    job_id: Word | None = Field(
        default=None, description="jobId is the provider's ID of the training job, if it differs from id."
    )
    resource: Address | None = Field(
        default=None, description="resource is the location of the dataset at the provider."
    )
    started_time: Time | None = Field(
        default=None, description="startedTime is the time at which the run started at the provider, in UTC (RFC 3339)."
    )
    cancel_time: Time | None = Field(
        default=None,
        description="cancelTime is the time at which the operator first asked the provider to cancel the run, in UTC "
        "(RFC 3339).",
    )
    queue_position: Count | None = Field(
        default=None,
        description="queuePosition is the position of the run in the provider's queue, as the provider counts it.",
    )
    message: Sentence | None = Field(
        default=None,
        description="message is what the provider last said about the run, with credentials removed.",
    )
    data: Annotated[dict[str, Address], Field(max_length=64)] | None = Field(
        default=None,
        description="data holds what the operator has to remember about the run at this provider, in at most 64 "
        "entries. Its keys are not part of the API.",
    )


class Metric(StatusModel):
    """Metric is a named value that the trainer reported."""

    name: Word = Field(description="name is the name of the metric.")
    value: Digits = Field(description="value is the value of the metric, as a string.")


class Progress(StatusModel):
    """Progress describes how far a run has come."""

    summary: Annotated[str, Field(max_length=128)] | None = Field(
        default=None,
        description="summary is the progress for people: the percentage, and the optimizer steps completed out of all, "
        "for example 42% 420/1000.",
    )
    percentage: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="percentage is the share of the run that is complete, between 0 and 100."
    )
    step: Count | None = Field(default=None, description="step is the number of optimizer steps completed.")
    total_steps: Count | None = Field(
        default=None, description="totalSteps is the number of optimizer steps that the run will take."
    )
    epoch: float | None = Field(
        default=None, description="epoch is the number of passes over the dataset so far, with fractions."
    )
    loss: Digits | None = Field(
        default=None, description="loss is the training loss that was reported last, as a decimal number in a string."
    )
    estimated_remaining_seconds: Count | None = Field(
        default=None, description="estimatedRemainingSeconds is the estimated time until the run ends, in seconds."
    )
    metrics: Annotated[list[Metric], Field(max_length=MAX_METRICS)] | None = Field(
        default=None, description=f"metrics are the metrics that were reported last, at most {MAX_METRICS} of them."
    )
    last_update_time: Time | None = Field(
        default=None,
        description="lastUpdateTime is the time of the report that this progress is from, in UTC (RFC 3339).",
    )


class Checkpoint(StatusModel):
    """Checkpoint is the newest complete checkpoint, from which the next attempt continues."""

    step: Count | None = Field(
        default=None, description="step is the number of optimizer steps that the checkpoint contains."
    )
    time: Time | None = Field(
        default=None, description="time is the time at which the checkpoint was written, in UTC (RFC 3339)."
    )
    uri: Address | None = Field(
        default=None, description="uri is the location of the checkpoint, for example pvc://claim/path."
    )


class Artifact(StatusModel):
    """Artifact is a file that a run produced."""

    name: Word | None = Field(default=None, description="name is the name of the file.")
    uri: Address | None = Field(default=None, description="uri is the location of the file.")
    digest: Word | None = Field(
        default=None, description="digest is the SHA-256 digest of the file, written as sha256:<hex>."
    )
    size_bytes: Count | None = Field(default=None, description="sizeBytes is the size of the file in bytes.")


class Cost(StatusModel):
    """Cost is what a run costs, according to the provider."""

    amount: Digits | None = Field(
        default=None, description="amount is the amount charged so far, as a decimal number in a string."
    )
    unit: Word | None = Field(
        default=None, description="unit is the unit of amount and estimate, for example USD or creative units."
    )
    estimate: Digits | None = Field(
        default=None,
        description="estimate is the amount that the provider quoted before the start, as a decimal number in a "
        "string.",
    )


class RunRecord(StatusModel):
    """RunRecord describes an earlier run."""

    run: Count | None = Field(default=None, description="run is the number of the run.")
    phase: Word | None = Field(
        default=None, description="phase is the phase in which the run ended: Succeeded, Failed or Cancelled."
    )
    reason: Word | None = Field(
        default=None, description="reason is a single CamelCase word that says why the run ended."
    )
    message: Sentence | None = Field(
        default=None, description="message is a sentence for people that says how the run ended."
    )
    start_time: Time | None = Field(
        default=None, description="startTime is the time at which the run started, in UTC (RFC 3339)."
    )
    completion_time: Time | None = Field(
        default=None, description="completionTime is the time at which the run ended, in UTC (RFC 3339)."
    )
    attempts: Count | None = Field(
        default=None, description="attempts is the number of pods, or of runs at the provider, that the run took."
    )
    job: JobStatus | None = Field(default=None, description="job identifies the Job of the run.")
    upstream: UpstreamStatus | None = Field(default=None, description="upstream describes the run at the provider.")
    parameters: Anything | None = Field(
        default=None, description="parameters are the parameters of the recipe that the run used, defaults included."
    )
    loss: Digits | None = Field(
        default=None, description="loss is the last training loss of the run, as a decimal number in a string."
    )
    artifacts: Annotated[list[Artifact], Field(max_length=MAX_ARTIFACTS)] | None = Field(
        default=None, description=f"artifacts are the files that the run produced, at most {MAX_ARTIFACTS} of them."
    )
    cost: Cost | None = Field(default=None, description="cost is what the run cost, according to the provider.")


class FineTuneStatus(StatusModel):
    """status is the most recently observed state of the FineTune. Only the operator writes it."""

    observed_generation: Count | None = Field(
        default=None,
        description="observedGeneration is the metadata.generation that the operator has acted on. While it is behind, "
        "the rest of the status describes an older spec.",
    )
    phase: Word | None = Field(
        default=None,
        description="phase is a one-word summary for people: Pending, Queued, Running, Suspended, Succeeded, Failed, "
        "Cancelled or Stalled. Programs should read conditions instead.",
    )
    reason: Word | None = Field(
        default=None, description="reason is a single CamelCase word that says why the FineTune is in its phase."
    )
    message: Sentence | None = Field(
        default=None, description="message is a sentence for people that says why the FineTune is in its phase."
    )
    conditions: Annotated[list[Condition], Field(max_length=MAX_CONDITIONS)] = Field(
        default_factory=list,
        description="conditions describe the state of the run, at most one for each type. Accepted, Suspended, "
        "Running, Complete and Failed are always present; Reconciling and Stalled are present only while they are "
        f"True. There are at most {MAX_CONDITIONS}.",
    )
    backend: Word | None = Field(
        default=None, description=f"backend is the name of the backend: {alternatives(('job', *NAMES))}."
    )
    run: Count | None = Field(default=None, description="run is the number of the run that this status describes.")
    attempts: Count | None = Field(
        default=None,
        description="attempts is the number of pods, or of runs at the provider, that the run has taken so far.",
    )
    start_time: Time | None = Field(
        default=None, description="startTime is the time at which the run started, in UTC (RFC 3339)."
    )
    completion_time: Time | None = Field(
        default=None,
        description="completionTime is the time at which the run ended, in UTC (RFC 3339). It is set however the run "
        "ended, so it can be waited for.",
    )
    parameters: Anything | None = Field(
        default=None,
        description="parameters are the parameters of the recipe as the run uses them, with every default filled in "
        "that the operator knows.",
    )
    job: JobStatus | None = Field(default=None, description="job identifies the Job of the run (backend job).")
    upstream: UpstreamStatus | None = Field(
        default=None, description="upstream describes the run at the provider (all backends but job)."
    )
    progress: Progress | None = Field(default=None, description="progress describes how far the run has come.")
    checkpoint: Checkpoint | None = Field(
        default=None,
        description="checkpoint is the newest complete checkpoint, from which the next attempt continues. It is there "
        "while the run is running, suspended or preempted, and after its end.",
    )
    base_model_revision: Word | None = Field(
        default=None,
        description="baseModelRevision is the commit of the Hugging Face repository that the files of spec.baseModel "
        "come from. Every attempt of the run uses it.",
    )
    artifacts: Annotated[list[Artifact], Field(max_length=MAX_ARTIFACTS)] | None = Field(
        default=None, description=f"artifacts are the files that the run produced, at most {MAX_ARTIFACTS} of them."
    )
    cost: Cost | None = Field(default=None, description="cost is what the run costs, according to the provider.")
    history: Annotated[list[RunRecord], Field(max_length=MAX_HISTORY)] | None = Field(
        default=None,
        description=f"history records up to {MAX_HISTORY} earlier runs, newest first.",
    )
