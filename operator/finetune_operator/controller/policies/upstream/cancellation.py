"""`spec.cancel`: the run is stopped at the provider, and its record stays."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.upstream.ending import end
from finetune_operator.controller.policies.upstream.outcome import seen_state

AGAIN = "Set it to false and raise spec.run to run again."


def cancel(observation: Observation, draft: Draft) -> Next:
    """A run that has ended by itself has nothing to stop, unless its weights are still to be stored."""
    spec = observation.finetune.spec
    if not observation.finetune.cancel:
        return Next.CONTINUE
    seen = seen_state(observation, draft)
    if seen is not None and seen.stage in (Stage.SUCCEEDED, Stage.FAILED) and (spec is None or spec.output is None):
        return Next.CONTINUE
    return end(observation, draft, Stage.CANCELLED, Reason.CANCELLED, f"Cancelled by spec.cancel. {AGAIN}")
