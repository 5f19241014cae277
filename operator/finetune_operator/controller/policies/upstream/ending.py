"""Ends a run at a provider and keeps its record: what `spec.cancel` and a deadline share."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.outcome import seen_state
from finetune_operator.controller.record import Record
from finetune_operator.controller.times import stamp
from finetune_operator.controller.upstream.run import capabilities_of
from finetune_operator.controller.upstream.stop import Stop, stop, time_left


def end(observation: Observation, draft: Draft, stage: Stage, reason: str, message: str) -> Next:
    """Stop it; once it has stopped, or cannot be, this is how it has ended."""
    result = stop(observation, draft)
    if result is Stop.WAITING:
        _wait(observation, draft)
        return Next.STOP
    remark = _remark(result, observation, draft.upstream)
    draft.end(
        RunState(stage=stage, reason=reason, message=f"{message}{remark}", completion_time=stamp(observation.now))
    )
    return Next.STOP


def _wait(observation: Observation, draft: Draft) -> None:
    draft.state = seen_state(observation, draft)
    words = draft.upstream.message
    draft.reconciling = Verdict(True, Reason.PROGRESSING, "The run is being stopped at the provider.")
    left = time_left(observation, draft.upstream)
    if left > 0:
        draft.look_again(left)
    else:
        message = f"The provider does not stop the run{f': {words}' if words else ''}; retrying."
        draft.stalled = Verdict(True, Reason.CANCEL_FAILED, message)


def _remark(result: Stop, observation: Observation, record: Record) -> str:
    capabilities = capabilities_of(observation, record)
    provider = capabilities.title if capabilities else "The provider"
    if result is Stop.UNSTOPPABLE:
        return f" {provider} cannot stop a run: {record.id} goes on there and is billed; its result is left there."
    if result is Stop.UNKNOWN:
        return f" Whether {provider} runs it is not known; look there for {record.marker}."
    return ""
