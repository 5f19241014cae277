"""A pod that another container holds after its trainer has ended is ended: its devices are for the next attempt."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.diagnose import finished_at, newest_alive
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Delete, Observation
from finetune_operator.controller.times import seconds_since

SIDECAR_GRACE: Final = 10.0
"""Seconds that the other containers have to end by themselves."""


def release(observation: Observation, draft: Draft) -> Next:
    """The Job is deleted and created again: only so does its pod end. `backoffLimit` counts as ever."""
    job, state, spec = observation.job, draft.state, observation.finetune.spec
    if job is None or state is None or state.reason != Reason.SIDECAR_RUNNING or "deletionTimestamp" in job["metadata"]:
        return Next.CONTINUE
    pod = newest_alive(observation.pods or ())
    age = seconds_since(finished_at(pod), observation.now) if pod is not None else None
    if age is not None and age < SIDECAR_GRACE:
        draft.look_again(SIDECAR_GRACE - age)
        return Next.CONTINUE
    limit = spec.backend.job.backoff_limit if spec is not None and spec.backend.job is not None else 0
    tries = int(draft.status.get("attempts") or 0) - int(draft.status.get("disruptions") or 0)
    if tries > limit:
        message = f"Failed after {tries} attempts: {state.message}"
        draft.end(RunState(stage=Stage.FAILED, reason=Reason.BACKOFF_LIMIT_EXCEEDED, message=message, troubled=True))
        draft.look_again(SIDECAR_GRACE)
        return Next.STOP
    draft.actions.append(Delete(job["metadata"]["name"], job["metadata"]["uid"]))
    return Next.CONTINUE
