"""`spec.run` raised: the last run goes to the history, and the wanted one starts clean."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.job import new_run


def begin(observation: Observation, draft: Draft) -> Next:
    """As for a Job; what was observed is about the old run, so that everything else waits for the next look."""
    new_run.begin(observation, draft)
    recorded = observation.status.get("run")
    if recorded is None or recorded == observation.finetune.run:
        return Next.CONTINUE
    draft.state = RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_PREPARING, message="Preparing the run.")
    draft.look_again(0.0)
    return Next.STOP
