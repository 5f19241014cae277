"""Getting a run at a provider to stop, whoever wants it: `spec.cancel`, a deadline, a raised run, a deletion.

The last two do not wait for ever (`stop_in_time`). Their bound is for trying: it counts from the first attempt, which
the status remembers, and however long ago that was, this process tries too before it gives up. An operator that is
ended in the middle of each attempt would try for ever: attempts that begin after the bound are counted, and are few.
"""

from __future__ import annotations

from enum import Enum, auto

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import FailureKind
from finetune_operator.backends.provider_run import Step
from finetune_operator.backends.run_state import Stage
from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Call, Observation
from finetune_operator.controller.times import seconds_since, stamp
from finetune_operator.controller.upstream.calls import UNHURRIED, interrupt
from finetune_operator.controller.upstream.lost_create import Fate, adopted, settle
from finetune_operator.controller.upstream.record import Record, capabilities_of, run_of

LATE_ATTEMPTS = 3
"""So many may begin after the bound; the first one that ends in vain is the last."""


class Stop(Enum):
    """How far it is."""

    DONE = auto()
    """Nothing of the run is left to stop."""
    UNSTOPPABLE = auto()
    """The provider cannot: it goes on there."""
    UNKNOWN = auto()
    """Whether there is anything nobody can tell, or not how to reach it."""
    WAITING = auto()
    """Calls are under way; the draft says when to come back."""
    FAILED = auto()
    """The bound is over, and it was tried in vain: it may go on there."""


def stop(observation: Observation, draft: Draft, record: Record, *, remove: bool = False) -> Stop:
    """One more step towards the stop. `remove`: delete what cannot be cancelled, as nobody will look at it again."""
    view = observation.upstream
    capabilities = capabilities_of(observation, record)
    if record.stopped or not record.begun:
        if view.in_flight in UNHURRIED:
            draft.look_again(1.0)
            return Stop.WAITING
        return Stop.DONE
    _note_the_beginning(observation, draft, record)
    if view.in_flight in UNHURRIED:
        draft.look_again(60.0)
        return Stop.WAITING
    if capabilities is None or run_of(observation, record, draft.status) is None:  # written by another version
        return Stop.UNKNOWN
    if record.id is None:
        if named := adopted(observation):
            record.fields["id"] = named
            record.save(draft)
        else:
            fate = settle(observation, draft, record, capabilities)
            return {Fate.NOT_MADE: Stop.DONE, Fate.LOOKING: Stop.WAITING, Fate.UNKNOWN: Stop.UNKNOWN}[fate]
    if _over(observation):
        return Stop.DONE
    step = _step(record, can_cancel=capabilities.can_cancel, starts=capabilities.starts, remove=remove)
    if step is None:
        return Stop.UNSTOPPABLE
    failed = view.failure(step)
    if failed is not None and failed.failure is not None and failed.failure.kind is FailureKind.GONE:
        return Stop.DONE
    interrupt(observation, draft, record, step)
    return Stop.WAITING


def stop_in_time(observation: Observation, draft: Draft, record: Record, *, remove: bool = False) -> Stop:
    """As `stop`, for those who do not wait for ever: FAILED where the bound is over and this process has tried."""
    result = stop(observation, draft, record, remove=remove)
    if result is not Stop.WAITING:
        return result
    left = time_left(observation, record)
    if left > 0:
        draft.look_again(left)
        return Stop.WAITING
    wanted = any(isinstance(action, Call) for action in draft.actions)
    if not wanted and observation.upstream.in_flight is not None:
        return Stop.WAITING  # a call has an end of its own, and may be the one that stops it
    late = _late_attempts(record)
    if _tried(observation, record) or (wanted and late >= LATE_ATTEMPTS):
        draft.actions = [action for action in draft.actions if not isinstance(action, Call)]
        return Stop.FAILED
    if wanted:
        record.data["late"] = str(late + 1)
        record.save(draft)
    return Stop.WAITING


def time_left(observation: Observation, record: Record) -> float:
    """Seconds left of the bound; negative where it is over. A run that was to be cancelled before is deleted anew."""
    ages = (observation.finetune.deletion_time, record.fields.get("cancelTime"))
    known = [age for age in (seconds_since(each, observation.now) for each in ages) if age is not None]
    return observation.rules.cancel_bound - min(known, default=0.0)


def forget(draft: Draft, record: Record) -> None:
    """Nobody wants it stopped any more: who wants it later has the whole bound again."""
    if record.fields.get("cancelTime") or record.data.get("late"):
        record.fields.pop("cancelTime", None)
        record.data.pop("late", None)
        record.save(draft)


def _tried(observation: Observation, record: Record) -> bool:
    """Whether this process has made the call that is needed, and it has ended."""
    steps = (Step.FIND,) if record.id is None else (Step.CANCEL, Step.DELETE)
    result = (observation.upstream.results.get(step) for step in steps)
    return any(
        each is not None and (each.failure is None or each.failure.reason != Reason.CREDENTIALS_UNREADABLE)
        for each in result
    )


def _late_attempts(record: Record) -> int:
    text = record.data.get("late", "")
    return int(text) if text.isdigit() else 0


def _step(record: Record, *, can_cancel: bool, starts: bool, remove: bool) -> Step | None:
    """A shell that was never started costs nothing and is removed; a run is cancelled."""
    if starts and record.started is None and not record.data.get("starting"):
        return Step.DELETE
    if can_cancel:
        return Step.CANCEL
    return Step.DELETE if remove else None


def _over(observation: Observation) -> bool:
    poll_result = observation.upstream.poll_result
    result = observation.upstream.failure(Step.POLL)
    gone = result is not None and result.failure is not None and result.failure.kind is FailureKind.GONE
    return gone or (
        poll_result is not None and poll_result.state.stage in (Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED)
    )


def _note_the_beginning(observation: Observation, draft: Draft, record: Record) -> None:
    if not record.fields.get("cancelTime"):
        record.fields["cancelTime"] = stamp(observation.now)
        record.save(draft)
