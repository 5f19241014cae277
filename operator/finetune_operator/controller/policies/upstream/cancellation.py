"""`spec.cancel`, and a run that has taken longer than `spec.activeDeadlineSeconds`: stopped at the provider."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import CONTINUE, STOP, Draft
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.outcome import seen_state
from finetune_operator.controller.times import seconds_since, stamp
from finetune_operator.controller.upstream.record import Record, capabilities_of, record_of
from finetune_operator.controller.upstream.stop import Stop, forget, stop, time_left

AGAIN = "Set it to false and raise spec.run to run again."


def cancel(observation: Observation, draft: Draft) -> bool:
    """Stops the run and keeps the record."""
    spec = observation.finetune.spec
    if spec is None or not spec.cancel:
        return CONTINUE
    seen = seen_state(observation, draft)
    if seen is not None and seen.stage in (Stage.SUCCEEDED, Stage.FAILED) and spec.output is None:
        return CONTINUE
    return _end(observation, draft, Stage.CANCELLED, Reason.CANCELLED, f"Cancelled by spec.cancel. {AGAIN}")


def expire(observation: Observation, draft: Draft) -> bool:
    """The deadline counts from the start at the provider."""
    spec, record = observation.finetune.spec, record_of(draft)
    if spec is None or spec.active_deadline_seconds is None or record.started is None:
        return CONTINUE
    seen = seen_state(observation, draft)
    age = seconds_since(record.started, observation.now)
    if age is None or (seen is not None and seen.stage.terminal):
        return CONTINUE
    left = spec.active_deadline_seconds - age
    if left > 0:
        draft.look_again(left)
        return CONTINUE
    message = f"The run took longer than spec.activeDeadlineSeconds ({spec.active_deadline_seconds} s)."
    return _end(observation, draft, Stage.FAILED, Reason.DEADLINE_EXCEEDED, message)


def go_on(observation: Observation, draft: Draft) -> bool:
    """`spec.cancel` was taken back, or the deadline raised, before the run had stopped."""
    spec, seen = observation.finetune.spec, seen_state(observation, draft)
    if spec is not None and not spec.cancel and not (seen is not None and seen.stage.terminal):
        forget(draft, record_of(draft))
    return CONTINUE


def _end(observation: Observation, draft: Draft, stage: Stage, reason: str, message: str) -> bool:
    record = record_of(draft)
    result = stop(observation, draft, record)
    if result is Stop.WAITING:
        _wait(observation, draft, record)
        return STOP
    draft.requeue = None
    draft.reconciling = None
    draft.state = RunState(
        stage=stage,
        reason=reason,
        message=f"{message}{_remark(result, observation, record)}",
        completion_time=stamp(observation.now),
    )
    return STOP


def _wait(observation: Observation, draft: Draft, record: Record) -> None:
    draft.state = seen_state(observation, draft)
    words = record.fields.get("message")
    draft.reconciling = Verdict(True, Reason.PROGRESSING, "The run is being stopped at the provider.")
    left = time_left(observation, record)
    if left > 0:
        draft.look_again(left)
    else:
        message = f"The provider does not stop the run{f': {words}' if words else ''}; trying on."
        draft.stalled = Verdict(True, Reason.CANCEL_FAILED, message)


def _remark(result: Stop, observation: Observation, record: Record) -> str:
    capabilities = capabilities_of(observation, record)
    provider = capabilities.title if capabilities else "The provider"
    if result is Stop.UNSTOPPABLE:
        return f" {provider} cannot stop a run: {record.id} goes on there and is billed; its result is left there."
    if result is Stop.UNKNOWN:
        return f" Whether {provider} runs it is not known; look there for {record.fields.get('marker')}."
    return ""
