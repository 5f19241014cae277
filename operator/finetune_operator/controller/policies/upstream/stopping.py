"""Getting a run at a provider to stop, whoever wants it: `spec.cancel`, a deadline, a raised run, a deletion."""

from __future__ import annotations

from enum import Enum, auto

from finetune_operator.backends.failures import FailureKind
from finetune_operator.backends.protocol import Stage
from finetune_operator.backends.upstream_run import Step
from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.calling import UNHURRIED, interrupt
from finetune_operator.controller.policies.upstream.lookup import Fate, adopted, settle
from finetune_operator.controller.policies.upstream.record import Record, traits_of
from finetune_operator.controller.times import seconds_since, stamp


class Stop(Enum):
    """How far it is."""

    DONE = auto()
    """Nothing of the run is left to stop."""
    UNSTOPPABLE = auto()
    """The provider cannot: it goes on there."""
    UNKNOWN = auto()
    """Whether there is anything nobody can tell."""
    WAITING = auto()
    """Calls are under way; the draft says when to come back."""


def stop(observation: Observation, draft: Draft, record: Record, *, remove: bool = False) -> Stop:
    """One more step towards the stop. `remove`: delete what cannot be cancelled, as nobody will look at it again."""
    view = observation.upstream
    traits = traits_of(observation, record)
    if record.stopped or traits is None or not record.begun:
        if view.in_flight in UNHURRIED:
            draft.look_again(1.0)
            return Stop.WAITING
        return Stop.DONE
    _note_the_beginning(observation, draft, record)
    if view.in_flight in UNHURRIED:
        draft.look_again(60.0)
        return Stop.WAITING
    if record.id is None:
        if named := adopted(observation):
            record.fields["id"] = named
            record.save(draft)
        else:
            fate = settle(observation, draft, record, traits)
            return {Fate.NOT_MADE: Stop.DONE, Fate.LOOKING: Stop.WAITING, Fate.UNKNOWN: Stop.UNKNOWN}[fate]
    if _over(observation):
        return Stop.DONE
    step = _step(record, can_cancel=traits.can_cancel, starts=traits.starts, remove=remove)
    if step is None:
        return Stop.UNSTOPPABLE
    failed = view.failure(step)
    if failed is not None and failed.failure is not None and failed.failure.kind is FailureKind.GONE:
        return Stop.DONE
    interrupt(observation, draft, record, step)
    return Stop.WAITING


def overdue(observation: Observation, record: Record) -> float:
    """Seconds left of the time that a stop may take; negative where it is over."""
    since = observation.finetune.deletion_time or record.fields.get("cancelTime")
    age = seconds_since(since, observation.now)
    return observation.rules.cancel_bound - (age or 0.0)


def _step(record: Record, *, can_cancel: bool, starts: bool, remove: bool) -> Step | None:
    """A shell that was never started costs nothing and is removed; a run is cancelled."""
    if starts and record.started is None and not record.data.get("starting"):
        return Step.DELETE
    if can_cancel:
        return Step.CANCEL
    return Step.DELETE if remove else None


def _over(observation: Observation) -> bool:
    sighting = observation.upstream.sighting
    ended = observation.upstream.failure(Step.POLL)
    gone = ended is not None and ended.failure is not None and ended.failure.kind is FailureKind.GONE
    return gone or (sighting is not None and sighting.state.stage in (Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED))


def _note_the_beginning(observation: Observation, draft: Draft, record: Record) -> None:
    if not record.fields.get("cancelTime"):
        record.fields["cancelTime"] = stamp(observation.now)
        record.save(draft)
