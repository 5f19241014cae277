"""`status.upstream`: what is remembered of a run at a provider. Everything a restart must know is here.

Beyond the documented fields, `data` holds: `backend` (the backend member that the run was made with, as JSON),
`prepared`, `equipped` and `stopped` ("true"), `attempt` and `starting` (the last attempt of the billed calls:
`<number>/<RFC 3339 with microseconds>`), `again` (the run for which create-again has been used), and `late` (how many
attempts to stop it have begun after the cancel bound).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from finetune_operator.api.backends import BackendSpec
from finetune_operator.api.names import DISPLAY_NAME_ANNOTATION
from finetune_operator.api.objects import Object
from finetune_operator.api.providers.backend import UpstreamBackend
from finetune_operator.backends.provider_run import Capabilities, Outcome, Step, UpstreamRun
from finetune_operator.controller.draft import CONTINUE, Draft
from finetune_operator.controller.model import CallResult, FineTune, Observation
from finetune_operator.controller.times import parse, stamp

_MARKS = {Step.PREPARE: "prepared", Step.EQUIP: "equipped", Step.CANCEL: "stopped", Step.DELETE: "stopped"}
_WORDS = 4096


class Record:
    """`status.upstream` of a draft, by name: a copy, which `save` puts back."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self.fields: Object = dict(status.get("upstream") or {})
        self.fields["data"] = dict(self.fields.get("data") or {})

    @property
    def data(self) -> dict[str, str]:
        """What is remembered for this provider."""
        found: dict[str, str] = self.fields["data"]
        return found

    @property
    def id(self) -> str | None:
        """The provider's id of the run."""
        return self.fields.get("id")

    @property
    def started(self) -> str | None:
        """When it was started."""
        return self.fields.get("startedTime")

    @property
    def begun(self) -> bool:
        """Whether there may be anything at the provider."""
        return bool(self.id or self.data.get("attempt"))

    @property
    def stopped(self) -> bool:
        """Whether it has been cancelled or removed at our word."""
        return self.data.get("stopped") == "true"

    def save(self, draft: Draft) -> None:
        """Into the draft's status."""
        fields = {name: value for name, value in self.fields.items() if value not in (None, {})}
        if fields:
            draft.status["upstream"] = fields
        else:
            draft.status.pop("upstream", None)

    def backend(self) -> UpstreamBackend | None:
        """The backend member that the run was made with."""
        return _backend_of(self.data.get("backend", ""))

    def provider(self) -> str | None:
        """The backend's name on the wire."""
        return self.fields.get("provider")


@lru_cache(maxsize=1024)
def _backend_of(text: str) -> UpstreamBackend | None:
    """Many runs are made with the same backend, and each is looked at at every poll."""
    try:
        return BackendSpec.model_validate(json.loads(text), by_alias=True, by_name=False).upstream
    except ValueError:
        return None


def record_of(draft: Draft) -> Record:
    """What the draft's status remembers."""
    return Record(draft.status)


def attempt_text(number: int, now: datetime) -> str:
    """An attempt as it is recorded."""
    return f"{number}/{now.isoformat(timespec='microseconds')}"


def attempt_time(text: str) -> datetime | None:
    """When it was recorded."""
    try:
        return parse(text.partition("/")[2])
    except ValueError:
        return None


def attempt_number(text: str | None) -> int:
    """How many there have been."""
    number = (text or "").partition("/")[0]
    return int(number) if number.isdigit() else 0


def marker_of(uid: str, run: int) -> str:
    """What this run is found by at the provider: [a-z0-9-], 24 characters, the same for ever."""
    digest = hashlib.sha256(f"{uid}/{run}".encode()).hexdigest()[:12]
    return f"ft-{uid.replace('-', '')[:8].lower()}-{digest}"


def capabilities_of(observation: Observation, record: Record) -> Capabilities | None:
    """The provider of the recorded run, else of the spec."""
    provider = record.provider()
    spec = observation.finetune.spec
    if provider is None and spec is not None:
        provider = spec.backend.kind
    return observation.capabilities.get(provider or "")


def run_of(observation: Observation, record: Record, status: Mapping[str, Any]) -> UpstreamRun | None:
    """The recorded run for its provider's coroutines; None where its backend cannot be told."""
    finetune = observation.finetune
    number = int(status.get("run") or finetune.run)
    spec = finetune.spec if number == finetune.run else None
    backend = record.backend() or (spec.backend.upstream if spec is not None else None)
    provider = record.provider() or (spec.backend.kind if spec is not None else None)
    if backend is None or provider is None:
        return None
    intent = record.fields.get("intentTime")
    return UpstreamRun(
        namespace=finetune.namespace,
        name=finetune.name,
        uid=finetune.uid,
        run=number,
        display_name=finetune.annotations.get(DISPLAY_NAME_ANNOTATION) or finetune.name,
        annotations=dict(finetune.annotations),
        provider=provider,
        spec=spec,
        backend=backend,
        parameters=status.get("parameters") or {},
        marker=record.fields.get("marker") or marker_of(finetune.uid, number),
        intent_time=parse(intent) if intent else None,
        id=record.id,
        job_id=record.fields.get("jobId"),
        resource=record.fields.get("resource"),
        data=dict(record.data),
    )


def belongs(finetune: FineTune) -> bool:
    """Whether the spec names a provider."""
    return finetune.spec is not None and finetune.spec.backend.upstream is not None


def is_live(status: Mapping[str, Any]) -> bool:
    """Whether the recorded run may be doing something at the provider."""
    record = Record(status)
    return record.begun and not record.stopped


def read(observation: Observation, draft: Draft) -> bool:
    """What the calls have taught goes into the record. Reading the same calls again changes nothing."""
    record = record_of(draft)
    view = observation.upstream
    for result in sorted(view.results.values(), key=lambda result: result.time):
        if result.failure is None and result.outcome is not None:
            _learn(record, result, result.outcome)
    last = view.last
    if last is not None and last.failure is not None:
        record.fields["message"] = last.failure.message[:_WORDS]
    elif last is not None:
        record.fields["message"] = last.outcome.message[:_WORDS] if last.outcome and last.outcome.message else None
    capabilities = capabilities_of(observation, record)
    if capabilities is not None:
        _note_start(record, capabilities, observation)
    if capabilities is not None and view.results:
        record.fields.setdefault("provider", capabilities.name)  # called, and the write that said so was lost
    if record.fields.get("provider") or record.id:
        record.save(draft)
    _note_cost(observation, draft)
    return CONTINUE


def _learn(record: Record, result: CallResult, outcome: Outcome) -> None:
    found = {"url": outcome.url, "jobId": outcome.job_id, "resource": outcome.resource, "stage": outcome.stage}
    record.fields.update({name: value for name, value in found.items() if value is not None})
    if outcome.id is not None and record.id is None:
        record.fields["id"] = outcome.id
    record.fields["queuePosition"] = outcome.queue_position
    record.data.update({name: value[:_WORDS] for name, value in outcome.data.items()})
    if mark := _MARKS.get(result.step):
        record.data[mark] = "true"


def _note_start(record: Record, capabilities: Capabilities, observation: Observation) -> None:
    """It was started when START went well, when a poll says so, or, where CREATE starts it, when it is there."""
    if record.started or record.id is None:
        return
    view = observation.upstream
    if not capabilities.starts:
        record.fields["startedTime"] = _stamp_of_attempt(record, "attempt", observation)
    elif (started := view.success(Step.START)) is not None:
        record.fields["startedTime"] = stamp(started.time)
    elif view.poll_result is not None and not view.poll_result.startable and not view.poll_result.state.uncertain:
        record.fields["startedTime"] = view.poll_result.state.start_time or _stamp_of_attempt(
            record, "starting", observation
        )


def _stamp_of_attempt(record: Record, name: str, observation: Observation) -> str:
    moment = attempt_time(record.data.get(name, ""))
    return stamp(moment or observation.now)


def _note_cost(observation: Observation, draft: Draft) -> None:
    for result in sorted(observation.upstream.results.values(), key=lambda result: result.time):
        if result.outcome is not None and result.outcome.cost:
            draft.status["cost"] = {**(draft.status.get("cost") or {}), **result.outcome.cost}
