"""`FineTune.status`: what the operator knows. Written by the operator alone; no field is mandatory.

Times are RFC 3339 strings in UTC. Loss and metric values are strings, as in Kubeflow's trainer status, so that tables
show `0.1234` and not a float's seventeen digits.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from finetune_operator.api.base import Anything, StatusModel

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
    """A metav1.Condition."""

    type: Word = Field(description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Word = Field(description="Why, in one CamelCase word.")
    message: Sentence = Field(default="", description="Why, in a sentence that says what to do.")
    last_transition_time: Time = Field(description="When status last changed.")
    observed_generation: Count | None = Field(default=None, description="The generation that it speaks of.")


class JobStatus(StatusModel):
    """The run's Job."""

    name: Word | None = Field(default=None, description="Name of the Job.")
    uid: Word | None = Field(default=None, description="UID of the Job.")


class UpstreamStatus(StatusModel):
    """The run at the provider."""

    provider: Word | None = Field(default=None, description="oxen, scenario, bfl or octoai.")
    id: Word | None = Field(default=None, description="The provider's id of the run.")
    url: Address | None = Field(default=None, description="Where a person can look at it.")
    marker: Word | None = Field(default=None, description="What the operator finds a lost run by.")
    stage: Word | None = Field(default=None, description="How far the operator has come, or the provider says it has.")
    intent_time: Time | None = Field(default=None, description="When the operator was about to make the billed call.")
    job_id: Word | None = Field(default=None, description="The provider's id of the job, where it differs.")
    resource: Address | None = Field(default=None, description="The dataset at the provider.")
    started_time: Time | None = Field(default=None, description="When the provider was told to start.")
    cancel_time: Time | None = Field(default=None, description="When the provider was told to cancel.")
    queue_position: Count | None = Field(default=None, description="Runs ahead in the provider's queue.")
    message: Sentence | None = Field(default=None, description="The provider's own words, without credentials.")
    data: Annotated[dict[str, Address], Field(max_length=64)] | None = Field(
        default=None, description="What the operator remembers for this provider."
    )


class Metric(StatusModel):
    """A named value."""

    name: Word = Field(description="Name of the metric.")
    value: Digits = Field(description="Its value, as a string.")


class Progress(StatusModel):
    """How far the run is."""

    summary: Annotated[str, Field(max_length=128)] | None = Field(default=None, description="For people: 42% 420/1000.")
    percentage: Annotated[int, Field(ge=0, le=100)] | None = Field(default=None, description="0 to 100.")
    step: Count | None = Field(default=None, description="Updates made.")
    total_steps: Count | None = Field(default=None, description="Updates in all.")
    epoch: float | None = Field(default=None, description="Passes over the dataset so far.")
    loss: Digits | None = Field(default=None, description="Last training loss.")
    estimated_remaining_seconds: Count | None = Field(default=None, description="Time still needed.")
    metrics: Annotated[list[Metric], Field(max_length=MAX_METRICS)] | None = Field(
        default=None, description="Last reported metrics."
    )
    last_update_time: Time | None = Field(default=None, description="When progress was last reported.")


class Checkpoint(StatusModel):
    """The newest checkpoint that a next attempt starts from."""

    step: Count | None = Field(default=None, description="Updates made by then.")
    time: Time | None = Field(default=None, description="When it was written.")
    uri: Address | None = Field(default=None, description="Where it is.")


class Artifact(StatusModel):
    """A file that the run has produced."""

    name: Word | None = Field(default=None, description="File name.")
    uri: Address | None = Field(default=None, description="Where it is.")
    digest: Word | None = Field(default=None, description="sha256:<hex>.")
    size_bytes: Count | None = Field(default=None, description="Size in bytes.")


class Cost(StatusModel):
    """What the provider says that the run costs."""

    amount: Digits | None = Field(default=None, description="Amount so far, as a decimal.")
    unit: Word | None = Field(default=None, description="What it is counted in, for example USD or creative units.")
    estimate: Digits | None = Field(default=None, description="Amount foreseen before the start.")


class RunRecord(StatusModel):
    """An earlier run."""

    run: Count | None = Field(default=None, description="Its number.")
    phase: Word | None = Field(default=None, description="How it ended.")
    reason: Word | None = Field(default=None, description="Why, in one word.")
    message: Sentence | None = Field(default=None, description="Why, in a sentence.")
    start_time: Time | None = Field(default=None, description="When it started.")
    completion_time: Time | None = Field(default=None, description="When it ended.")
    attempts: Count | None = Field(default=None, description="Pods or upstream runs that it took.")
    job: JobStatus | None = Field(default=None, description="Its Job.")
    upstream: UpstreamStatus | None = Field(default=None, description="Its run at the provider.")
    parameters: Anything | None = Field(default=None, description="Its resolved parameters.")
    loss: Digits | None = Field(default=None, description="Its last training loss.")
    artifacts: Annotated[list[Artifact], Field(max_length=MAX_ARTIFACTS)] | None = Field(
        default=None, description="What it produced."
    )
    cost: Cost | None = Field(default=None, description="What it cost.")


class FineTuneStatus(StatusModel):
    """What is."""

    observed_generation: Count | None = Field(default=None, description="The generation that this status speaks of.")
    phase: Word | None = Field(
        default=None,
        description="Pending, Queued, Running, Suspended, Succeeded, Failed, Cancelled or Stalled; for people only.",
    )
    reason: Word | None = Field(default=None, description="Why it is in this phase, in one word.")
    message: Sentence | None = Field(default=None, description="Why it is in this phase, in a sentence.")
    conditions: Annotated[list[Condition], Field(max_length=MAX_CONDITIONS)] = Field(
        default_factory=list,
        description="Accepted, Suspended, Running, Complete, Failed; while true: Reconciling, Stalled.",
    )
    backend: Word | None = Field(default=None, description="Name of the backend.")
    run: Count | None = Field(default=None, description="The run that this status speaks of.")
    attempts: Count | None = Field(default=None, description="Pods or upstream runs that it took so far.")
    start_time: Time | None = Field(default=None, description="When the run started.")
    completion_time: Time | None = Field(default=None, description="When the run ended, however it ended.")
    parameters: Anything | None = Field(
        default=None, description="The recipe of this run with every default filled in."
    )
    job: JobStatus | None = Field(default=None, description="The run's Job.")
    upstream: UpstreamStatus | None = Field(default=None, description="The run at the provider.")
    progress: Progress | None = Field(default=None, description="How far the run is.")
    checkpoint: Checkpoint | None = Field(default=None, description="The newest checkpoint.")
    artifacts: Annotated[list[Artifact], Field(max_length=MAX_ARTIFACTS)] | None = Field(
        default=None, description="What the run has produced."
    )
    cost: Cost | None = Field(default=None, description="What the provider says that the run costs.")
    history: Annotated[list[RunRecord], Field(max_length=MAX_HISTORY)] | None = Field(
        default=None, description="The last runs before this one, the newest first."
    )
