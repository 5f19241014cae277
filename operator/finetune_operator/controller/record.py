"""`status.upstream`: what is remembered of a run at a provider. Everything a restart must know is here.

A `Record` is read once from a status (`Record.read`) and written once into it (`Record.wire`). Its methods return
another one. Beyond the documented fields, `data` holds: `backend` (the backend member that the run was made with, as
JSON), `prepared`, `equipped` and `stopped` ("true"), `attempt` and `starting` (the last attempt of the billed calls:
`<number>/<RFC 3339 with microseconds>`), `again` (the run for which create-again has been used), `late` (how many
attempts to stop it have begun after the cancel bound), and what the provider's own calls have put there.

What contradicts itself can only have been written by hand or by another version. It is read as IN_DOUBT, in which no
billed call is made: it could be the second one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from finetune_operator.api.backends import BackendSpec
from finetune_operator.api.objects import Object
from finetune_operator.api.providers.backend import UpstreamBackend
from finetune_operator.backends.provider_run import Outcome, Step
from finetune_operator.controller.times import parse, stamp

_WORDS = 4096
_FIELDS = {
    "provider": "provider",
    "marker": "marker",
    "id": "id",
    "url": "url",
    "jobId": "job_id",
    "resource": "resource",
    "stage": "stage",
    "queuePosition": "queue_position",
    "message": "message",
    "intentTime": "intent_time",
    "startedTime": "started",
    "cancelTime": "cancel_time",
}
"""On the wire, and here."""
_MARKS = ("prepared", "equipped", "stopped")
_OWN_DATA = (*_MARKS, "backend", "attempt", "starting", "again", "late", "wrongId", "held")
_MARK_OF = {Step.PREPARE: "prepared", Step.EQUIP: "equipped", Step.CANCEL: "stopped", Step.DELETE: "stopped"}


class RunPhase(Enum):
    """How far a run has come at its provider."""

    NOTHING = auto()
    """Nothing is recorded."""
    PREPARING = auto()
    """It has a marker; no billed call has been recorded."""
    CREATING = auto()
    """An attempt to create it is recorded, and no id: it may be there."""
    CREATED = auto()
    """It is there, and nobody has tried to start it."""
    STARTING = auto()
    """An attempt to start it is recorded: it may have started."""
    STARTED = auto()
    STOPPED = auto()
    """Cancelled or removed at our word."""
    IN_DOUBT = auto()
    """The record contradicts itself: no billed call."""


class Doubt(Enum):
    """What contradicts itself in a record."""

    START_WITHOUT_ID = "status.upstream records a start and no id"
    UNREADABLE_ATTEMPT = "status.upstream.data.attempt is not a number and a time"
    UNREADABLE_START = "status.upstream.data.starting is not a number and a time"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of a billed call, as it is recorded: `<number>/<RFC 3339 with microseconds>`."""

    text: str

    @classmethod
    def after(cls, last: Attempt | None, now: datetime) -> Attempt:
        """The next one."""
        number = (last.number if last is not None else 0) + 1
        return cls(f"{number}/{now.isoformat(timespec='microseconds')}")

    @property
    def number(self) -> int:
        """How many there have been."""
        number = self.text.partition("/")[0]
        return int(number) if number.isdecimal() else 0

    @property
    def time(self) -> datetime | None:
        """When it was recorded; None where that cannot be read."""
        try:
            moment = parse(self.text.partition("/")[2])
        except ValueError:
            return None
        return moment if moment.tzinfo is not None else None

    @property
    def readable(self) -> bool:
        """Whether it is one that this version could have written."""
        return self.number > 0 and self.time is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`status.upstream`, by name. Raises ValueError for what contradicts itself and does not say so (`doubt`)."""

    provider: str | None = None
    """The backend's name on the wire."""
    marker: str | None = None
    """What the run is found by at the provider."""
    id: str | None = None
    """The provider's id of the run."""
    url: str | None = None
    job_id: str | None = None
    resource: str | None = None
    stage: str | None = None
    queue_position: int | None = None
    message: str | None = None
    intent_time: str | None = None
    started: str | None = None
    """When it was started."""
    cancel_time: str | None = None
    backend_text: str | None = None
    """The backend member that the run was made with, as JSON."""
    prepared: bool = False
    equipped: bool = False
    stopped: bool = False
    """Whether it has been cancelled or removed at our word."""
    attempt: Attempt | None = None
    """The last attempt to create it."""
    starting: Attempt | None = None
    """The last attempt to start it."""
    again: str | None = None
    """The run for which create-again has been used."""
    late: int = 0
    """How many attempts to stop it have begun after the cancel bound."""
    held: int = 0
    """Seconds for which `spec.suspend` has held it back since its start time: no deadline counts them."""
    wrong_id: str | None = None
    """An id that the provider has named once, and that was not the run's."""
    data: Mapping[str, str] = field(default_factory=dict)
    """What the provider's own calls have put there."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Fields that another version has written: kept for it."""
    doubt: Doubt | None = None

    def __post_init__(self) -> None:
        found = _doubt_of(self.id, self.started, self.attempt, self.starting)
        if found is not self.doubt:
            raise ValueError(found.value if found is not None else "nothing contradicts itself in this record")

    @classmethod
    def read(cls, status: Mapping[str, Any]) -> Record:
        """What a status remembers."""
        upstream = status.get("upstream")
        if not upstream:
            return NOTHING
        fields = dict(upstream)
        data = dict(fields.pop("data", None) or {})
        known: dict[str, Any] = {name: fields.pop(wire, None) for wire, name in _FIELDS.items()}
        known["id"] = known["id"] or None
        known["started"] = known["started"] or None
        attempt, starting = _attempt_of(data.get("attempt")), _attempt_of(data.get("starting"))
        late, held = data.get("late", ""), data.get("held", "")
        return cls(
            **known,
            prepared=data.get("prepared") == "true",
            equipped=data.get("equipped") == "true",
            stopped=data.get("stopped") == "true",
            backend_text=data.get("backend"),
            attempt=attempt,
            starting=starting,
            again=data.get("again"),
            late=int(late) if late.isdecimal() else 0,
            wrong_id=data.get("wrongId"),
            held=int(held) if held.isdecimal() else 0,
            data={name: value for name, value in data.items() if name not in _OWN_DATA},
            other=fields,
            doubt=_doubt_of(known["id"], known["started"], attempt, starting),
        )

    def wire(self) -> Object:
        """As it stands in a status; empty where nothing is to be remembered."""
        fields = {**self.other, **{wire: getattr(self, name) for wire, name in _FIELDS.items()}}
        fields["data"] = self.wire_data()
        return {name: value for name, value in fields.items() if value not in (None, {})}

    def wire_data(self) -> dict[str, str]:
        """`status.upstream.data`."""
        own = {
            "backend": self.backend_text,
            **{mark: "true" if getattr(self, mark) else None for mark in _MARKS},
            "attempt": self.attempt.text if self.attempt is not None else None,
            "starting": self.starting.text if self.starting is not None else None,
            "again": self.again,
            "late": str(self.late) if self.late else None,
            "wrongId": self.wrong_id,
            "held": str(self.held) if self.held else None,
        }
        return {**self.data, **{name: value for name, value in own.items() if value is not None}}

    # What it says

    @property
    def phase(self) -> RunPhase:
        """How far the run has come. A run that was begun and then stopped is STOPPED."""
        return RunPhase.STOPPED if self.stopped and self.begun else self.reached

    @property
    def reached(self) -> RunPhase:
        """The same without the stop: whoever takes that back too late goes on from here."""
        if self.doubt is not None:
            return RunPhase.IN_DOUBT
        if self.started is not None:
            return RunPhase.STARTED
        if self.id is not None:
            return RunPhase.STARTING if self.starting is not None else RunPhase.CREATED
        if self.attempt is not None:
            return RunPhase.CREATING
        return RunPhase.PREPARING if self.wire() else RunPhase.NOTHING

    @property
    def begun(self) -> bool:
        """Whether there may be anything at the provider."""
        return self.id is not None or self.attempt is not None or self.doubt is not None

    @property
    def live(self) -> bool:
        """Whether it may be doing something at the provider."""
        return self.begun and not self.stopped

    def backend(self) -> UpstreamBackend | None:
        """The backend member that the run was made with."""
        return _backend_of(self.backend_text or "")

    # What changes it

    def identified(self, provider: str, marker: str, member: Callable[[], Object]) -> Record:
        """With its provider, its marker and the backend member that it is made with, where it has none."""
        if self.provider is not None and self.marker is not None and self.backend_text is not None:
            return self
        text = self.backend_text or json.dumps(member(), separators=(",", ":"), sort_keys=True)
        return replace(self, provider=self.provider or provider, marker=self.marker or marker, backend_text=text)

    def made_at(self, provider: str) -> Record:
        """With its provider."""
        return replace(self, provider=provider)

    def with_outcome(self, step: Step, outcome: Outcome) -> Record:
        """With what a call has taught."""
        record = self if outcome.id is None or self.id is not None else self.with_id(outcome.id)
        changes: dict[str, Any] = {"queue_position": outcome.queue_position}
        for name in ("url", "job_id", "resource", "stage"):
            if (found := getattr(outcome, name)) is not None:
                changes[name] = found
        taught = {name: value[:_WORDS] for name, value in outcome.data.items() if name not in _OWN_DATA}
        if taught:
            changes["data"] = {**record.data, **taught}
        if mark := _MARK_OF.get(step):
            changes[mark] = True
        return record._changed(**changes)

    def with_id(self, id: str) -> Record:
        """It is there, by this id."""
        doubt = _doubt_of(id, self.started, self.attempt, self.starting)
        return replace(self, id=id, doubt=doubt)

    def held_back(self, seconds: float) -> Record:
        """With so many seconds more for which it was suspended."""
        return replace(self, held=self.held + round(seconds))

    def renamed(self, id: str) -> Record:
        """The id was wrong: it is there by this one."""
        return replace(self.with_id(id), wrong_id=self.id)

    def with_message(self, message: str | None) -> Record:
        """What the provider said last."""
        return self._changed(message=message[:_WORDS] if message is not None else None)

    def to_be_created(self, now: datetime) -> Record:
        """With one more attempt to create it. Whatever was in doubt, somebody has allowed this one."""
        return replace(
            self,
            attempt=Attempt.after(self.attempt, now),
            starting=None if self.id is None else self.starting,
            started=None if self.id is None else self.started,
            intent_time=self.intent_time or stamp(now),
            doubt=None,
        )

    def to_be_started(self, now: datetime) -> Record:
        """With one more attempt to start it."""
        return replace(self, starting=Attempt.after(self.starting, now), intent_time=self.intent_time or stamp(now))

    def started_at(self, time: str) -> Record:
        """It runs since then. Raises ValueError for a run without an id."""
        return replace(self, started=time, doubt=_doubt_of(self.id, None, self.attempt, None))

    def created_again(self, run: int) -> Record:
        """With the permission of create-again for this run used up."""
        return replace(self, again=str(run))

    def stop_begun(self, now: datetime) -> Record:
        """With the time at which somebody first wanted it stopped."""
        return self if self.cancel_time else replace(self, cancel_time=stamp(now))

    def stop_begun_late(self) -> Record:
        """With one more attempt to stop it after the bound."""
        return replace(self, late=self.late + 1)

    def stop_taken_back(self) -> Record:
        """Nobody wants it stopped any more: who wants it later has the whole bound again."""
        return self._changed(cancel_time=None, late=0)

    def _changed(self, **changes: Any) -> Record:
        """Most polls teach what is known already: then it is this one."""
        for name, value in changes.items():
            if getattr(self, name) != value:
                return replace(self, **changes)
        return self


def _attempt_of(text: str | None) -> Attempt | None:
    return Attempt(text) if text else None


def _doubt_of(id: str | None, started: str | None, attempt: Attempt | None, starting: Attempt | None) -> Doubt | None:
    """What would make a billed call a second one."""
    if id is None and (started is not None or starting is not None):
        return Doubt.START_WITHOUT_ID
    if id is None and attempt is not None and not attempt.readable:
        return Doubt.UNREADABLE_ATTEMPT
    if started is None and starting is not None and not starting.readable:
        return Doubt.UNREADABLE_START
    return None


@lru_cache(maxsize=1024)
def _backend_of(text: str) -> UpstreamBackend | None:
    """Many runs are made with the same backend, and each is looked at at every poll."""
    try:
        return BackendSpec.model_validate(json.loads(text), by_alias=True, by_name=False).upstream
    except ValueError:
        return None


NOTHING = Record()
"""What a status without `upstream` remembers."""
