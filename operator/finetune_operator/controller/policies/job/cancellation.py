"""`spec.cancel`: the run ends, the record stays."""

from __future__ import annotations

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Delete, Observation
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.times import stamp


def stop(observation: Observation, draft: Draft) -> Next:
    """Delete the Job, whose pod saves a checkpoint within its grace period; then the run is Cancelled."""
    if not observation.finetune.cancel:
        return Next.CONTINUE
    job = observation.job
    if job is not None and is_ours(job, observation.finetune) and "deletionTimestamp" not in job["metadata"]:
        draft.actions.append(Delete(job["metadata"]["name"], job["metadata"]["uid"]))
    draft.end(
        RunState(
            stage=Stage.CANCELLED,
            reason=Reason.CANCELLED,
            message="Cancelled by spec.cancel. Set it to false and raise spec.run to run again.",
            completion_time=stamp(observation.now),
        )
    )
    return Next.STOP
