"""A Job whose pod starts within moments is one status write, not two."""

from __future__ import annotations

from finetune_operator.api.reasons import Phase
from finetune_operator.backends.run_state import Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation, delay_of
from finetune_operator.controller.times import seconds_since


def wait(observation: Observation, draft: Draft) -> Next:
    """Hold news of a young Job back while it is `Pending`: in a burst, waiting Job creations go before it."""
    state, job = draft.state, observation.job
    told = observation.status
    untold = told.get("phase") in (None, Phase.PENDING) and told.get("run") in (None, observation.finetune.run)
    if job is None or state is None or state.stage != Stage.PENDING or state.troubled or not untold:
        return Next.CONTINUE
    age = seconds_since(job["metadata"].get("creationTimestamp"), observation.now)
    delay = delay_of(observation.rules, in_a_burst=observation.burst)
    if age is not None and 0 <= age < delay:  # negative: the clocks differ, and waiting would have no end
        draft.unwritten = True
        draft.look_again(delay - age)
    return Next.CONTINUE
