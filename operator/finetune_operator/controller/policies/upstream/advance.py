"""The next call of a run that is to go on: prepare, create, equip, start, poll; each only when what is before it is
done, and each billed one only on an attempt of our own that the API server has accepted by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.names import ADOPT_ANNOTATION, CREATE_AGAIN_ANNOTATION, FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import FailureKind
from finetune_operator.backends.provider_run import Capabilities, Step
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import CallResult, Finalize, Observation
from finetune_operator.controller.policies.upstream.outcome import say
from finetune_operator.controller.record import Attempt, Record, RunPhase
from finetune_operator.controller.times import stamp
from finetune_operator.controller.upstream.backoff import poll_every, poll_left, wait_left
from finetune_operator.controller.upstream.calls import LOST_AFTER, begin, call
from finetune_operator.controller.upstream.lost_create import Fate, adopted, may_create_again, settle
from finetune_operator.controller.upstream.run import capabilities_of, marker_of
from finetune_operator.controller.upstream.transfers import transfer_of
from finetune_operator.controller.upstream.vanished import VANISHED_AFTER, looked_for, vanished


def advance(observation: Observation, draft: Draft) -> Next:
    """The last policy: it always has the last word."""
    capabilities = capabilities_of(observation, draft.upstream)
    if capabilities is None or observation.finetune.spec is None:
        return Next.STOP
    if FINALIZER not in observation.finetune.finalizers and not draft.upstream.begun:
        draft.actions.append(Finalize(present=True))
        draft.unwritten = not draft.status.get("history")
        draft.look_again(0.0)
        return Next.STOP
    _identify(observation, draft)
    draft.status.setdefault("startTime", stamp(observation.now))
    if draft.upstream.id is None and (named := adopted(observation)):
        draft.upstream = draft.upstream.with_id(named)
    reached = draft.upstream.reached
    if reached is not RunPhase.STARTED:
        draft.state = _pending(_doing(draft.upstream, capabilities) + transfer_of(observation, draft))
        _trouble(observation, draft)
    _NEXT[reached](observation, draft, capabilities)
    return Next.STOP


def _identify(observation: Observation, draft: Draft) -> None:
    finetune = observation.finetune
    assert finetune.spec is not None
    backend = finetune.spec.backend
    draft.upstream = draft.upstream.identified(backend.kind, marker_of(finetune.uid, finetune.run), backend.wire)
    if "parameters" not in draft.status:
        draft.status["parameters"] = resolve_parameters(finetune.spec)


# Before there is an id


def _prepare(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    failed = observation.upstream.failure(Step.PREPARE)
    if observation.upstream.in_flight is not None:
        draft.look_again(LOST_AFTER)
    elif draft.upstream.prepared:
        _intend_to_create(observation, draft)
    elif failed is not None and _final(failed):
        _fail(draft, failed, capabilities)
    else:
        call(observation, draft, Step.PREPARE)


def _create(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    view, attempt = observation.upstream, draft.upstream.attempt
    if view.in_flight is not None:
        draft.look_again(LOST_AFTER)
        _still_unknown(observation, draft, capabilities)
    elif attempt is not None and view.claimed == attempt.text:
        begin(observation, draft, Step.CREATE)
    elif (refused := _refused(observation, draft.upstream)) is not None:
        _fail(draft, refused, capabilities)
    else:
        _settle(observation, draft, capabilities)


def _refused(observation: Observation, record: Record) -> CallResult | None:
    """The provider's final no to the last attempt."""
    result = observation.upstream.failure(Step.CREATE)
    attempt = record.attempt.time if record.attempt is not None else None
    if result is None or not _final(result) or (attempt is not None and result.time < attempt):
        return None
    return result


def _settle(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    result = observation.upstream.failure(Step.CREATE)
    found = settle(observation, draft.upstream, capabilities)
    if found.fate is Fate.NOT_MADE:
        left = wait_left(observation, result) if result is not None else 0.0
        if left > 0:
            draft.look_again(left)
        else:
            _intend_to_create(observation, draft)
    elif found.fate is Fate.UNKNOWN:
        _unknown(observation, draft, capabilities)
    else:
        if found.due > 0:
            draft.look_again(found.due)
        else:
            call(observation, draft, Step.FIND)
        _still_unknown(observation, draft, capabilities)


def _still_unknown(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    """What the status says stays while it is looked at once more."""
    stalled: Mapping[str, str] = next(
        (each for each in observation.status.get("conditions") or () if each["type"] == "Stalled"), {}
    )
    asked_again = observation.upstream.in_flight is Step.CREATE or observation.upstream.claimed is not None
    if stalled.get("reason") == Reason.CREATE_UNKNOWN and not asked_again:
        _say_unknown(observation, draft, capabilities)


def _unknown(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    if may_create_again(observation, draft.upstream):
        draft.upstream = draft.upstream.created_again(observation.finetune.run)
        _intend_to_create(observation, draft)
        return
    _say_unknown(observation, draft, capabilities)
    # A run that the listing shows late is still taken over.
    call_later = observation.rules.poll_interval * 10
    looked = observation.upstream.results.get(Step.FIND)
    if looked is None or (observation.now - looked.time).total_seconds() >= call_later:
        call(observation, draft, Step.FIND)
    else:
        draft.look_again(call_later - (observation.now - looked.time).total_seconds())


def _say_unknown(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    record = draft.upstream
    message = (
        f"Whether {capabilities.title} has taken this run is not known, and a second create may be billed too. Look "
        f"there for {record.marker}. If it is there, annotate this FineTune with "
        f"{ADOPT_ANNOTATION}=<its id>; if it is not, with "
        f'{CREATE_AGAIN_ANNOTATION}="{observation.finetune.run}".'
    )
    draft.state = _pending(message, troubled=True)
    draft.stalled = Verdict(True, Reason.CREATE_UNKNOWN, message)
    draft.reconciling = None


# Between the id and the start


def _start(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    view, attempt = observation.upstream, draft.upstream.starting
    if view.in_flight is not None:
        draft.look_again(LOST_AFTER)
    elif attempt is not None and view.claimed == attempt.text:
        begin(observation, draft, Step.START)
    elif (gone := vanished(observation, draft.upstream)) is not None:
        _give_up(gone, observation, draft, capabilities)
    elif (due := _look_due(observation, draft.upstream)) is not None:
        if due > 0:
            draft.look_again(due)
        else:
            call(observation, draft, Step.POLL)
    elif view.poll_result is not None and view.poll_result.startable:
        _make_ready(observation, draft, capabilities)
    else:  # it says something that nobody knows
        if view.poll_result is not None and view.poll_result.state.uncertain:
            words = view.poll_result.state.message
            unknown = Reason.UPSTREAM_STATE_UNKNOWN
            draft.state = RunState(stage=Stage.PENDING, reason=unknown, message=words, troubled=True)
        _poll_when_due(observation, draft)


def _look_due(observation: Observation, record: Record) -> float | None:
    """Seconds until it must be looked at before a (next) start; None where it has been.

    A start whose answer was lost, or that another process may have made, is over after the time that a call can take.
    """
    tried = observation.upstream.results.get(Step.START)
    since, wait = record.starting.time if record.starting is not None else None, observation.rules.upstream_timeout
    if tried is not None:
        lost = tried.failure is not None and tried.failure.kind is FailureKind.AMBIGUOUS
        since, wait = tried.time, (min(wait, observation.rules.poll_interval) if lost else 0.0)
    seen = observation.upstream.polled_at
    if seen is None or (since is not None and seen < since):
        return 0.0
    if since is None or (seen - since).total_seconds() >= wait:
        return None
    return max(0.0, wait - (observation.now - since).total_seconds())


def _make_ready(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    view = observation.upstream
    started = view.failure(Step.START)
    equipped = view.failure(Step.EQUIP)
    if started is not None and _final(started):
        _fail(draft, started, capabilities)
    elif not capabilities.equips or draft.upstream.equipped:
        left = wait_left(observation, started) if started is not None else 0.0
        if left > 0:
            draft.look_again(left)
        else:
            _intend_to_start(observation, draft)
    elif equipped is not None and _final(equipped):
        _fail(draft, equipped, capabilities)
    else:
        call(observation, draft, Step.EQUIP)


def _give_up(gone: CallResult, observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    """The provider does not know it, and a look by its marker was in vain."""
    if looked_for(observation, draft.upstream):
        _fail(draft, gone, capabilities)
    else:
        call(observation, draft, Step.FIND)


# Where the record contradicts itself: never a billed call, but on a person's word


def _clear_up(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    if draft.upstream.id is not None:
        _clear_up_start(observation, draft, capabilities)
    elif observation.upstream.in_flight is not None:
        draft.look_again(LOST_AFTER)
        _still_unknown(observation, draft, capabilities)
    else:
        _settle(observation, draft, capabilities)


def _clear_up_start(observation: Observation, draft: Draft, capabilities: Capabilities) -> None:
    _say_in_doubt(draft, capabilities)
    if observation.upstream.in_flight is not None:
        draft.look_again(LOST_AFTER)
    elif (gone := vanished(observation, draft.upstream)) is not None:
        _give_up(gone, observation, draft, capabilities)
    else:
        _poll_when_due(observation, draft)


def _say_in_doubt(draft: Draft, capabilities: Capabilities) -> None:
    record = draft.upstream
    assert record.doubt is not None
    message = (
        f"{record.doubt.value}: whether {capabilities.title} has started {record.id} is not known, and a second start "
        "may be billed too. This run goes on when it runs there; start it there, or raise spec.run for another one."
    )
    draft.state = _pending(message, troubled=True)
    draft.stalled = Verdict(True, Reason.CREATE_UNKNOWN, message)


# After the start


def _watch(observation: Observation, draft: Draft, _: Capabilities) -> None:
    if observation.upstream.in_flight is not None:
        draft.look_again(LOST_AFTER)
        return
    if vanished(observation, draft.upstream) is not None:
        call(observation, draft, Step.FIND)  # before it is believed: the id itself may be wrong
        return
    started, seen = observation.upstream.results.get(Step.START), observation.upstream.polled_at
    just_started = started is not None and (seen is None or seen < started.time)
    left = poll_left(observation)
    if left > 0 and not (just_started and observation.upstream.failure(Step.POLL) is None):
        draft.look_again(left)
    else:
        begin(observation, draft, Step.POLL, rest=poll_every(observation))


# What they share


def _poll_when_due(observation: Observation, draft: Draft) -> None:
    left = poll_left(observation)
    if left > 0:
        draft.look_again(left)
    else:
        begin(observation, draft, Step.POLL)


def _intend_to_create(observation: Observation, draft: Draft) -> None:
    draft.upstream = draft.upstream.to_be_created(observation.now)
    _claim(draft, draft.upstream.attempt)


def _intend_to_start(observation: Observation, draft: Draft) -> None:
    draft.upstream = draft.upstream.to_be_started(observation.now)
    _claim(draft, draft.upstream.starting)


def _claim(draft: Draft, attempt: Attempt | None) -> None:
    """The call itself comes when the write has landed on exactly what was seen here."""
    assert attempt is not None
    draft.claim = attempt.text
    draft.look_again(0.0)


def _final(result: CallResult) -> bool:
    """A no that stays one. A 404 for something that was there must come as often as it must come to a poll."""
    if result.failure is None or result.failure.kind is not FailureKind.GONE:
        return result.failure is not None and result.failure.kind is FailureKind.PERMANENT
    return result.step is Step.CREATE or result.failures >= VANISHED_AFTER


def _pending(message: str, *, troubled: bool = False) -> RunState:
    return RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_PREPARING, message=message, troubled=troubled)


def _doing(record: Record, capabilities: Capabilities) -> str:
    if record.id is not None:
        return f"Getting {record.id} ready at {capabilities.title}."
    return f"Creating the run at {capabilities.title}." if record.begun else "Preparing the run."


def _trouble(observation: Observation, draft: Draft) -> None:
    """What failed last; while a run is looked for, that its create was not answered."""
    last = observation.upstream.last
    if last is not None and last.failure is None and last.step is Step.FIND and draft.upstream.id is None:
        last = observation.upstream.results.get(Step.CREATE)
    if last is not None and last.failure is not None:
        say(last, last.failure, draft)


def _fail(draft: Draft, result: CallResult, capabilities: Capabilities) -> None:
    failure = result.failure
    assert failure is not None
    closed = result.step is Step.CREATE and (
        failure.kind is FailureKind.GONE or failure.reason == Reason.PROVIDER_RETIRED
    )
    reason, message = failure.reason, failure.message
    if closed:
        reason = Reason.PROVIDER_RETIRED
        since = f" ({capabilities.retired})" if capabilities.retired else ""
        message = (
            f"{capabilities.title} has closed the endpoint that creates fine-tunes{since}: {failure.message}. "
            "The same recipe runs on your own devices with backend.job."
        )
    draft.end(
        RunState(stage=Stage.FAILED, reason=reason, message=message, troubled=True, completion_time=stamp(result.time))
    )


_NEXT: Mapping[RunPhase, Callable[[Observation, Draft, Capabilities], None]] = {
    RunPhase.NOTHING: _prepare,
    RunPhase.PREPARING: _prepare,
    RunPhase.CREATING: _create,
    RunPhase.CREATED: _start,
    RunPhase.STARTING: _start,
    RunPhase.STARTED: _watch,
    RunPhase.IN_DOUBT: _clear_up,
}
"""By what the record has reached; nothing has reached STOPPED."""
