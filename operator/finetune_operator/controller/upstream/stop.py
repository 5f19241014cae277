"""Getting a run at a provider to stop, whoever wants it: `spec.cancel`, a deadline, a raised run, a deletion.

The last two do not wait for ever (`stop_in_time`). Their bound is for trying: it counts from the first attempt, which
the status remembers, and however long ago that was, this process tries too before it gives up. An operator that is
ended in the middle of each attempt would try for ever: attempts that begin after the bound are counted, and are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import FailureKind
from finetune_operator.backends.provider_run import Capabilities, Step
from finetune_operator.backends.run_state import Stage
from finetune_operator.controller.draft import Draft
from finetune_operator.controller.model import Observation
from finetune_operator.controller.record import Record
from finetune_operator.controller.times import seconds_since
from finetune_operator.controller.upstream.calls import LOST_AFTER, UNHURRIED, begin, due
from finetune_operator.controller.upstream.lost_create import Fate, adopted, settle
from finetune_operator.controller.upstream.run import capabilities_of, run_of
from finetune_operator.controller.upstream.vanished import looked_for, vanished

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


def stop(observation: Observation, draft: Draft, *, remove: bool = False) -> Stop:
    """One more step towards the stop. `remove`: delete what cannot be cancelled, as nobody will look at it again."""
    way = _way(observation, draft, remove=remove)
    _go(way, observation, draft)
    return way.result


def stop_in_time(observation: Observation, draft: Draft, *, remove: bool = False) -> Stop:
    """As `stop`, for those who do not wait for ever: FAILED where the bound is over and this process has tried."""
    way = _way(observation, draft, remove=remove)
    if way.result is not Stop.WAITING:
        return way.result
    left = time_left(observation, draft.upstream)
    wanted = way.step is not None and way.wait <= 0
    # A call in flight has an end of its own, and may be the one that stops it.
    if left <= 0 and (wanted or observation.upstream.in_flight is None):
        late = draft.upstream.late
        if _tried(observation, draft.upstream) or (wanted and late >= LATE_ATTEMPTS):
            return Stop.FAILED
        if wanted:
            draft.upstream = draft.upstream.stop_begun_late()
    elif left > 0:
        draft.look_again(left)
    _go(way, observation, draft)
    return Stop.WAITING


@dataclass(frozen=True, slots=True)
class _Way:
    """How far the stop is; while WAITING, the call that it needs next, and the seconds until that may begin."""

    result: Stop
    step: Step | None = None
    wait: float = 0.0


def _way(observation: Observation, draft: Draft, *, remove: bool) -> _Way:
    in_flight, record = observation.upstream.in_flight, draft.upstream
    if not record.live:
        return _Way(Stop.WAITING, wait=1.0) if in_flight in UNHURRIED else _Way(Stop.DONE)
    draft.upstream = record = record.stop_begun(observation.now)
    if in_flight in UNHURRIED:
        return _Way(Stop.WAITING, wait=LOST_AFTER)
    capabilities = capabilities_of(observation, record)
    if capabilities is None or run_of(observation, record, draft.status) is None:  # written by another version
        return _Way(Stop.UNKNOWN)
    if record.id is None:
        named = adopted(observation)
        if named is None:
            return _look_for_it(observation, record, capabilities)
        draft.upstream = record = record.with_id(named)
    if vanished(observation, record) is not None and not looked_for(observation, record):
        return _Way(Stop.WAITING, Step.FIND, due(observation, Step.FIND, urgent=True))
    if _over(observation, record):
        return _Way(Stop.DONE)
    unstarted = capabilities.starts and _surely_not_started(observation, record)
    step = _step(can_cancel=capabilities.can_cancel, unstarted=unstarted, remove=remove)
    if step is None:
        return _Way(Stop.UNSTOPPABLE)
    return _Way(Stop.WAITING, step, due(observation, step, urgent=True))


def _look_for_it(observation: Observation, record: Record, capabilities: Capabilities) -> _Way:
    found = settle(observation, record, capabilities)
    if found.fate is not Fate.LOOKING:
        return _Way(Stop.DONE if found.fate is Fate.NOT_MADE else Stop.UNKNOWN)
    return _Way(Stop.WAITING, Step.FIND, found.due or due(observation, Step.FIND))


def _go(way: _Way, observation: Observation, draft: Draft) -> None:
    if way.result is not Stop.WAITING:
        return
    if way.step is not None and way.wait <= 0:
        begin(observation, draft, way.step)
    else:
        draft.look_again(way.wait)


def time_left(observation: Observation, record: Record) -> float:
    """Seconds left of the bound; negative where it is over. A run that was to be cancelled before is deleted anew."""
    ages = (observation.finetune.deletion_time, record.cancel_time)
    known = [age for age in (seconds_since(each, observation.now) for each in ages) if age is not None]
    return observation.rules.cancel_bound - min(known, default=0.0)


def _tried(observation: Observation, record: Record) -> bool:
    """Whether this process has made the call that is needed, and it has ended."""
    steps = (Step.FIND,) if record.id is None else (Step.CANCEL, Step.DELETE)
    result = (observation.upstream.results.get(step) for step in steps)
    return any(
        each is not None and (each.failure is None or each.failure.reason != Reason.CREDENTIALS_UNREADABLE)
        for each in result
    )


def _step(*, can_cancel: bool, unstarted: bool, remove: bool) -> Step | None:
    """A shell that was never started costs nothing and is removed; a run is cancelled."""
    if unstarted:
        return Step.DELETE
    if can_cancel:
        return Step.CANCEL
    return Step.DELETE if remove else None


def _surely_not_started(observation: Observation, record: Record) -> bool:
    """It was never tried; or the provider has refused it, and has been seen not to have begun since."""
    if record.started is not None or record.starting is None:
        return record.started is None
    view, tried = observation.upstream, observation.upstream.failure(Step.START)
    if tried is None or tried.failure is None or tried.failure.kind is FailureKind.AMBIGUOUS:
        return False
    since, seen = record.starting.time, view.polled_at
    looked = seen is not None and seen >= tried.time and since is not None and tried.time >= since
    return looked and view.poll_result is not None and view.poll_result.startable


def _over(observation: Observation, record: Record) -> bool:
    poll_result = observation.upstream.poll_result
    return vanished(observation, record) is not None or (
        poll_result is not None and poll_result.state.stage in (Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED)
    )
