"""What a plan is made from, and what it decides. Plain frozen data: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from finetune_operator.api.base import problem
from finetune_operator.api.depth import too_deep
from finetune_operator.api.names import API_VERSION, KIND, MAX_RUN
from finetune_operator.api.objects import Object
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.errors import Failure
from finetune_operator.backends.job.manifest import JobDefaults
from finetune_operator.backends.provider_run import Capabilities, Outcome, PollResult, Step, UpstreamRun
from finetune_operator.controller.trim import MAX_SPEC
from finetune_operator.kube.weight import Omitted


class Key(NamedTuple):
    """What the queue holds: a FineTune by its name."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """A FineTune as it was last seen. Exactly one of `spec` and `spec_error` is set."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    deletion_time: str | None = None
    finalizers: tuple[str, ...]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    run: int
    suspend: bool
    cancel: bool
    """As the spec says it, also where the rest of it is not valid: who wants a run stopped is heard."""
    spec: FineTuneSpec | None
    spec_error: str | None

    @property
    def key(self) -> Key:
        """Its place in the queue."""
        return Key(self.namespace, self.name)

    def owner_reference(self) -> Object:
        """For its children: they are collected with it, and `controller` says who answers for them."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


ParsedSpec = tuple[FineTuneSpec | None, str | None]
"""A parsed spec, or a sentence that names the first fields that are wrong."""


def read_finetune(body: Object, parsed: ParsedSpec | None = None) -> FineTune:
    """The typed view of a FineTune from the API server. A spec that the models refuse is kept as `spec_error`.

    `parsed`: what `read_spec` has said of this very spec.
    """
    metadata, raw = body["metadata"], body.get("spec") or {}
    spec, error = parsed or read_spec(raw)
    switches = raw if isinstance(raw, dict) else {}
    return FineTune(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        resource_version=metadata["resourceVersion"],
        deleting="deletionTimestamp" in metadata,
        deletion_time=metadata.get("deletionTimestamp"),
        finalizers=tuple(metadata.get("finalizers") or ()),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        run=spec.run if spec else run_of(body),
        suspend=switches.get("suspend") is True,
        cancel=switches.get("cancel") is True,
        spec=spec,
        spec_error=error,
    )


def read_spec(raw: Any) -> ParsedSpec:
    """Parses it, whatever it is."""
    if omitted := _omitted(raw):
        return None, f"{omitted}: a spec may have at most {MAX_SPEC} bytes, each list, object and comma counted as 65"
    try:
        return FineTuneSpec.model_validate(raw), None
    except ValidationError as error:
        findings = error.errors(include_input=False, include_url=False)[:5]
        return None, "; ".join(problem(finding, "spec") for finding in findings)


def _omitted(raw: Any) -> str | None:
    """The members of a spec that were too large to be kept, with their sizes."""
    if isinstance(raw, Omitted):
        return f"spec has {raw.size} bytes"
    members = [(name, each) for name, each in raw.items() if isinstance(each, Omitted)] if isinstance(raw, dict) else []
    return "; ".join(f"spec.{name[:64]} has {each.size} bytes" for name, each in members[:5]) or None


def run_of(body: Object) -> int:
    """The run that is wanted. Where the spec gives no number, the one that the status speaks of: what runs goes on."""
    spec, status = body.get("spec"), body.get("status") or {}
    for number in (spec.get("run", 1) if isinstance(spec, dict) else None, status.get("run")):
        if isinstance(number, (int, float)) and 1 <= number <= MAX_RUN and number == int(number):
            return int(number)
    return 1


def read_status(body: Object) -> Mapping[str, Any]:
    """Its status, without recorded parameters that are too deep: we have not recorded them, nor can we write them."""
    status = _without_deep_parameters(body.get("status") or {})
    if history := status.get("history"):
        status = {**status, "history": [_without_deep_parameters(record) for record in history]}
    return status


def _without_deep_parameters(fields: Object) -> Object:
    if not too_deep(fields.get("parameters")):
        return fields
    return {name: value for name, value in fields.items() if name != "parameters"}


class Reported(NamedTuple):
    """What a run's pod has said last. `progress`: as in `status.progress`; `facts`: further fields of the status."""

    progress: Object
    facts: Object


class Refusal(NamedTuple):
    """The API server would not take a child: its reason and words, and when."""

    status: int
    message: str
    time: datetime
    generation: int
    kind: str = "Job"
    times: int = 1
    """How often in a row."""


OWNERS = "ownerReferences"
"""What a change of a Job is about that gives it its owner back: merged with the others, which are not known here."""


class Change(NamedTuple):
    """A change of a Job that was sent, and what became of it."""

    uid: str
    operations: tuple[Object, ...]
    time: datetime
    times: int = 1
    """How often in a row."""
    kept: bool = True
    """Whether the API server's answer had it. A policy may put back at once what it does not like."""
    refusal: str = ""
    """The API server's words where it would not take it."""


KUEUE = "Kueue"
"""As the kind of what is missing: what the labels of a FineTune are for."""


class Missing(NamedTuple):
    """An object that the spec names and that is not there."""

    kind: str
    name: str
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that decisions depend on. Durations in seconds."""

    pending_status_delay: float = 2.0
    volume_grace: float = 10.0
    progress_interval: float = 10.0
    recheck_interval: float = 30.0
    poll_interval: float = 30.0
    settling_window: float = 600.0
    cancel_bound: float = 300.0
    upstream_timeout: float = 30.0
    """How long a call to a provider may take: one whose answer was lost is over after that."""
    require_kueue: bool = True
    """Whether a FineTune with Kueue's labels is refused where there is no Kueue."""
    base_urls: frozenset[str] = frozenset()
    """Base URLs that the administrator allows besides the providers' own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """The last call of one step, how it ended, and how often in a row it has failed."""

    step: Step
    time: datetime
    outcome: Outcome | None = None
    """None where it failed; also where FIND has found nothing."""
    failure: Failure | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How far a call in flight is that may move data. `received`: bytes; `rate`: bytes a second of late.

    `before`: how many calls have their turn first, where it waits for a place.
    """

    received: int = 0
    rate: float = 0.0
    before: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamView:
    """What this process knows of the calls for one run; nothing after a restart."""

    in_flight: Step | None = None
    results: Mapping[Step, CallResult] = field(default_factory=dict)
    """The last call of each step."""
    poll_result: PollResult | None = None
    """The last successful POLL."""
    polled_at: datetime | None = None
    """When that was."""
    claimed: str | None = None
    """The attempt that this process has recorded and not yet made: the one billed call that it may make."""
    transfer: Transfer | None = None
    """Of the call in flight, where it may move data."""

    @property
    def last(self) -> CallResult | None:
        """The call that ended last."""
        return max(self.results.values(), key=lambda result: result.time, default=None)

    def success(self, step: Step) -> CallResult | None:
        """The last call of this step, where it went well."""
        result = self.results.get(step)
        return result if result is not None and result.failure is None else None

    def failure(self, step: Step) -> CallResult | None:
        """The last call of this step, where it failed."""
        result = self.results.get(step)
        return result if result is not None and result.failure is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that a decision about one FineTune may depend on, time included."""

    now: datetime
    finetune: FineTune
    status: Mapping[str, Any]
    rules: Rules = field(default_factory=Rules)
    defaults: JobDefaults = field(default_factory=JobDefaults)
    job: Object | None = None
    """The Job of the wanted run, whoever owns it."""
    job_is_live: bool = False
    """It has just been read from the API server."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """What was last sent to change the run's Job, by what it is about."""
    other_jobs: tuple[Object, ...] = ()
    """Our Jobs of other runs, by their owner's uid; the latest run first."""
    pods: tuple[Object, ...] | None = None
    """The Job's pods; where it is not there, those of every run. None where nothing depends on them."""
    events: tuple[Object, ...] | None = None
    """Warnings about the Job; None where nothing depends on them."""
    workload: Object | None = None
    """Kueue's word on a Job that is held; None where it has none, there is no Kueue, or it may not be asked."""
    kueue: bool | None = None
    """Whether Kueue is in the cluster; None: nobody has asked, or that cannot be told."""
    claim_gone: bool = False
    """The claim that was made for this run is not there, and its pod waits."""
    foreign_claim: Object | None = None
    """The claim that has the name which the run's claim needs, where it is not ours."""
    missing: Missing | None = None
    refusal: Refusal | None = None
    capabilities: Mapping[str, Capabilities] = field(default_factory=dict)
    """The providers, by their names on the wire."""
    upstream: UpstreamView = field(default_factory=UpstreamView)
    burst: bool = False
    """Many Jobs are being created at this moment."""
    first_look: bool = False
    """This process has not decided on this FineTune before: since it was heard of, it has waited for its turn."""
    report: Object | None = None
    """The newest progress that the run's pod has reported, in the shape of `status.progress`."""
    facts: Object = field(default_factory=dict)
    """What else that report says, as fields of the status: `checkpoint`, `baseModelRevision`."""


@dataclass(frozen=True, slots=True)
class Create:
    """POST a child (a Job or a claim)."""

    body: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a Job of this uid; its pods get their grace period, and it stays until they have ended."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Patch:
    """Change the Job of this uid by JSON patch operations."""

    name: str
    uid: str
    operations: tuple[Object, ...]
    about: str = ""
    """The field, for people; what is sent again about the same one is counted."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Let Kueue admit a Job's Workload, or not: it then stops the Job itself, and nobody fights with it."""

    api_version: str
    name: str
    uid: str
    active: bool


@dataclass(frozen=True, slots=True)
class Call:
    """Begin a call to a provider in the background. Instead of one in flight that does no harm, where there is one."""

    step: Step
    run: UpstreamRun
    rest: float | None = None
    """Where it teaches nothing new, look again after so many seconds. None: at once, whatever it teaches."""


@dataclass(frozen=True, slots=True)
class Finalize:
    """Put our finalizer on the FineTune, or take it off."""

    present: bool


Action = Create | Delete | Patch | Admission | Call | Finalize


@dataclass(frozen=True, slots=True)
class Announcement:
    """A core/v1 Event of type Warning: what a user should hear without asking."""

    reason: str
    message: str
    last_word: bool = False
    """Nothing will tell of it afterwards: it is said before the decision is carried out, and to the log as well, since
    an Event may be refused (in a namespace that is being deleted each one is)."""
    left_at: str | None = None
    """The provider at which a run may go on, and be billed, that nobody answers for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now. `status` None: leave it as it is. `requeue`: look again after so many seconds."""

    actions: tuple[Action, ...] = ()
    status: Object | None = None
    requeue: float | None = None
    announcement: Announcement | None = None
    claim: str | None = None
    """The attempt to make a billed call that the status records: it may be made once the status has been written."""


def delay_of(rules: Rules, *, in_a_burst: bool) -> float:
    """Age in seconds from which on a Job that has not started is worth a look and a status write.

    In a rush every such write would stand in the way of three Jobs: then it waits for the next look at what is missing.
    """
    return max(rules.pending_status_delay, rules.recheck_interval if in_a_burst else 0.0)
