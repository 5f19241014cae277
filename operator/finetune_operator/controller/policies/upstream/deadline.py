"""A run that has taken longer than `spec.activeDeadlineSeconds` is stopped at the provider."""

from __future__ import annotations

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.backends.run_state import Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.ending import end
from finetune_operator.controller.policies.upstream.outcome import seen_state
from finetune_operator.controller.times import seconds_since


def expire(observation: Observation, draft: Draft) -> Next:
    """The deadline counts from `status.startTime`, whether the provider has started the run or not.

    While `spec.suspend` holds the run back before its start, and for as long as it has, it does not count.
    """
    spec = observation.finetune.spec
    age = seconds_since(draft.status.get("startTime"), observation.now)
    if spec is None or age is None or draft.status.get("run") != observation.finetune.run:
        return Next.CONTINUE
    if draft.upstream.started is None and spec.suspend:
        return Next.CONTINUE
    _count_suspension(observation, draft)
    seen = seen_state(observation, draft)
    if spec.active_deadline_seconds is None or (seen is not None and seen.stage.terminal):
        return Next.CONTINUE
    left = spec.active_deadline_seconds - (age - draft.upstream.held)
    if left > 0:
        draft.look_again(left)
        return Next.CONTINUE
    message = f"The run took longer than spec.activeDeadlineSeconds ({spec.active_deadline_seconds} s)."
    return end(observation, draft, Stage.FAILED, Reason.DEADLINE_EXCEEDED, message)


def _count_suspension(observation: Observation, draft: Draft) -> None:
    """Once: in the write that says that the run is suspended no longer."""
    for condition in observation.status.get("conditions") or ():
        held = (condition.get("type"), condition.get("status")) == (ConditionType.SUSPENDED, "True")
        if held and condition.get("reason") == Reason.SUSPENDED_BY_SPEC:
            since = seconds_since(condition.get("lastTransitionTime"), observation.now)
            draft.upstream = draft.upstream.held_back(max(0.0, since or 0.0))
