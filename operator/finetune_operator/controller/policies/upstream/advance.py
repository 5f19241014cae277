"""The next call of a run that is to go on: prepare, create, equip, start, poll; each only when what is before it is
done, and each billed one only on an attempt of our own that the API server has accepted by compare-and-swap."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.names import ADOPT_ANNOTATION, CREATE_AGAIN_ANNOTATION, FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import Failure, FailureKind
from finetune_operator.backends.provider_run import Capabilities, Step
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import STOP, Draft
from finetune_operator.controller.model import CallResult, Finalize, Observation
from finetune_operator.controller.policies.upstream.outcome import VANISHED_AFTER, say
from finetune_operator.controller.times import stamp
from finetune_operator.controller.upstream.backoff import poll_every, poll_left, wait_left
from finetune_operator.controller.upstream.calls import LOST_AFTER, begin, call
from finetune_operator.controller.upstream.lost_create import Fate, adopted, may_create_again, settle
from finetune_operator.controller.upstream.record import (
    Record,
    attempt_number,
    attempt_text,
    attempt_time,
    capabilities_of,
    marker_of,
    record_of,
)


def advance(observation: Observation, draft: Draft) -> bool:
    """The last policy: it always has the last word."""
    record = record_of(draft)
    capabilities = capabilities_of(observation, record)
    if capabilities is None or observation.finetune.spec is None:
        return STOP
    if FINALIZER not in observation.finetune.finalizers and not record.begun:
        draft.actions.append(Finalize(present=True))
        draft.unwritten = not draft.status.get("history")
        draft.look_again(0.0)
        return STOP
    _identify(observation, draft, record)
    if record.id is None and (named := adopted(observation)):
        record.fields["id"] = named
    if record.started is None:
        draft.state = _pending(_doing(record, capabilities))
        _trouble(observation, draft, record)
    if record.id is None:
        _towards_an_id(observation, draft, record, capabilities)
    elif record.started is None:
        _towards_a_start(observation, draft, record, capabilities)
    else:
        _watch(observation, draft, record)
    record.save(draft)
    return STOP


def _identify(observation: Observation, draft: Draft, record: Record) -> None:
    finetune = observation.finetune
    assert finetune.spec is not None
    record.fields.setdefault("provider", finetune.spec.backend.kind)
    if "marker" not in record.fields:
        record.fields["marker"] = marker_of(finetune.uid, finetune.run)
    if "backend" not in record.data:
        member = finetune.spec.backend.wire()
        record.data["backend"] = json.dumps(member, separators=(",", ":"), sort_keys=True)
    if "parameters" not in draft.status:
        draft.status["parameters"] = resolve_parameters(finetune.spec)


# Before there is an id


def _towards_an_id(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    view, attempt = observation.upstream, record.data.get("attempt")
    if view.in_flight is not None:
        draft.look_again(LOST_AFTER)
        _still_unknown(observation, draft, record, capabilities)
    elif attempt is None:
        _prepare(observation, draft, record, capabilities)
    elif view.claimed == attempt:
        begin(observation, draft, record, Step.CREATE)
    elif (refused := _refused(observation, record)) is not None:
        _fail(draft, refused, capabilities)
    else:
        _settle(observation, draft, record, capabilities)


def _prepare(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    failed = observation.upstream.failure(Step.PREPARE)
    if record.data.get("prepared"):
        _intend(observation, draft, record, "attempt")
    elif failed is not None and _final(failed.failure):
        _fail(draft, failed, capabilities)
    else:
        call(observation, draft, record, Step.PREPARE)


def _refused(observation: Observation, record: Record) -> CallResult | None:
    """The provider's final no to the last attempt."""
    result = observation.upstream.failure(Step.CREATE)
    attempt = attempt_time(record.data.get("attempt", ""))
    if result is None or not _final(result.failure) or (attempt is not None and result.time < attempt):
        return None
    return result


def _settle(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    result = observation.upstream.failure(Step.CREATE)
    fate = settle(observation, draft, record, capabilities)
    if fate is Fate.NOT_MADE:
        left = wait_left(observation, result) if result is not None else 0.0
        if left > 0:
            draft.look_again(left)
        else:
            _intend(observation, draft, record, "attempt")
    elif fate is Fate.UNKNOWN:
        _unknown(observation, draft, record, capabilities)
    else:
        _still_unknown(observation, draft, record, capabilities)


def _still_unknown(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    """What the status says stays while it is looked at once more."""
    stalled: Mapping[str, str] = next(
        (each for each in observation.status.get("conditions") or () if each["type"] == "Stalled"), {}
    )
    asked_again = observation.upstream.in_flight is Step.CREATE or observation.upstream.claimed is not None
    if stalled.get("reason") == Reason.CREATE_UNKNOWN and not asked_again:
        _say_unknown(observation, draft, record, capabilities)


def _unknown(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    if may_create_again(observation, record):
        record.data["again"] = str(observation.finetune.run)
        _intend(observation, draft, record, "attempt")
        return
    _say_unknown(observation, draft, record, capabilities)
    # A run that the listing shows late is still taken over.
    call_later = observation.rules.poll_interval * 10
    looked = observation.upstream.results.get(Step.FIND)
    if looked is None or (observation.now - looked.time).total_seconds() >= call_later:
        call(observation, draft, record, Step.FIND)
    else:
        draft.look_again(call_later - (observation.now - looked.time).total_seconds())


def _say_unknown(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    message = (
        f"Whether {capabilities.title} has taken this run is not known, and a second create may be billed too. Look "
        f"there for {record.fields.get('marker')}. If it is there, annotate this FineTune with "
        f"{ADOPT_ANNOTATION}=<its id>; if it is not, with "
        f'{CREATE_AGAIN_ANNOTATION}="{observation.finetune.run}".'
    )
    draft.state = _pending(message, troubled=True)
    draft.stalled = Verdict(True, Reason.CREATE_UNKNOWN, message)
    draft.reconciling = None


# Between the id and the start


def _towards_a_start(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    view, attempt = observation.upstream, record.data.get("starting")
    if view.in_flight is not None:
        draft.look_again(LOST_AFTER)
    elif view.claimed is not None and view.claimed == attempt:
        begin(observation, draft, record, Step.START)
    elif _vanished(observation):
        _fail(draft, view.results[Step.POLL], capabilities)
    elif (due := _look_due(observation, record)) is not None:
        if due > 0:
            draft.look_again(due)
        else:
            call(observation, draft, record, Step.POLL)
    elif view.poll_result is not None and view.poll_result.startable:
        _make_ready(observation, draft, record, capabilities)
    else:  # it says something that nobody knows
        _poll_when_due(observation, draft, record)


def _look_due(observation: Observation, record: Record) -> float | None:
    """Seconds until it must be looked at before a (next) start; None where it has been.

    A start whose answer was lost, or that another process may have made, is over after the time that a call can take.
    """
    tried = observation.upstream.results.get(Step.START)
    since, wait = attempt_time(record.data.get("starting", "")), observation.rules.upstream_timeout
    if tried is not None:
        lost = tried.failure is not None and tried.failure.kind is FailureKind.AMBIGUOUS
        since, wait = tried.time, (min(wait, observation.rules.poll_interval) if lost else 0.0)
    seen = observation.upstream.polled_at
    if seen is None or (since is not None and seen < since):
        return 0.0
    if since is None or (seen - since).total_seconds() >= wait:
        return None
    return max(0.0, wait - (observation.now - since).total_seconds())


def _make_ready(observation: Observation, draft: Draft, record: Record, capabilities: Capabilities) -> None:
    view = observation.upstream
    started = view.failure(Step.START)
    equipped = view.failure(Step.EQUIP)
    if started is not None and _final(started.failure):
        _fail(draft, started, capabilities)
    elif not capabilities.equips or record.data.get("equipped"):
        left = wait_left(observation, started) if started is not None else 0.0
        if left > 0:
            draft.look_again(left)
        else:
            _intend(observation, draft, record, "starting")
    elif equipped is not None and _final(equipped.failure):
        _fail(draft, equipped, capabilities)
    else:
        call(observation, draft, record, Step.EQUIP)


def _vanished(observation: Observation) -> bool:
    result = observation.upstream.failure(Step.POLL)
    gone = result is not None and result.failure is not None and result.failure.kind is FailureKind.GONE
    return gone and result is not None and result.failures >= VANISHED_AFTER


# After the start


def _watch(observation: Observation, draft: Draft, record: Record) -> None:
    if observation.upstream.in_flight is not None:
        draft.look_again(LOST_AFTER)
        return
    started, seen = observation.upstream.results.get(Step.START), observation.upstream.polled_at
    just_started = started is not None and (seen is None or seen < started.time)
    left = poll_left(observation)
    if left > 0 and not (just_started and observation.upstream.failure(Step.POLL) is None):
        draft.look_again(left)
    else:
        begin(observation, draft, record, Step.POLL, rest=poll_every(observation))


# What they share


def _poll_when_due(observation: Observation, draft: Draft, record: Record) -> None:
    left = poll_left(observation)
    if left > 0:
        draft.look_again(left)
    else:
        begin(observation, draft, record, Step.POLL)


def _intend(observation: Observation, draft: Draft, record: Record, name: str) -> None:
    """Record an attempt; the call itself comes when the write has landed on exactly what was seen here."""
    text = attempt_text(attempt_number(record.data.get(name)) + 1, observation.now)
    record.data[name] = text
    record.fields.setdefault("intentTime", stamp(observation.now))
    draft.claim = text
    draft.look_again(0.0)


def _final(failure: Failure | None) -> bool:
    return failure is not None and failure.kind in (FailureKind.PERMANENT, FailureKind.GONE)


def _pending(message: str, *, troubled: bool = False) -> RunState:
    return RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_PREPARING, message=message, troubled=troubled)


def _doing(record: Record, capabilities: Capabilities) -> str:
    if record.id is not None:
        return f"Getting {record.id} ready at {capabilities.title}."
    return f"Creating the run at {capabilities.title}." if record.data.get("attempt") else "Preparing the run."


def _trouble(observation: Observation, draft: Draft, record: Record) -> None:
    """What failed last; while a run is looked for, that its create was not answered."""
    last = observation.upstream.last
    if last is not None and last.failure is None and last.step is Step.FIND and record.id is None:
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
    draft.state = RunState(
        stage=Stage.FAILED, reason=reason, message=message, troubled=True, completion_time=stamp(result.time)
    )
    draft.stalled = draft.reconciling = None
    draft.requeue = None
