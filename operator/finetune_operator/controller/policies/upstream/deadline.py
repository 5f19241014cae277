"""A run that has taken longer than `spec.activeDeadlineSeconds` is stopped at the provider."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.ending import end
from finetune_operator.controller.policies.upstream.outcome import seen_state
from finetune_operator.controller.times import seconds_since


def expire(observation: Observation, draft: Draft) -> Next:
    """The deadline counts from the start at the provider."""
    spec, started = observation.finetune.spec, draft.upstream.started
    if spec is None or spec.active_deadline_seconds is None or started is None:
        return Next.CONTINUE
    seen = seen_state(observation, draft)
    age = seconds_since(started, observation.now)
    if age is None or (seen is not None and seen.stage.terminal):
        return Next.CONTINUE
    left = spec.active_deadline_seconds - age
    if left > 0:
        draft.look_again(left)
        return Next.CONTINUE
    message = f"The run took longer than spec.activeDeadlineSeconds ({spec.active_deadline_seconds} s)."
    return end(observation, draft, Stage.FAILED, Reason.DEADLINE_EXCEEDED, message)
