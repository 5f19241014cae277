"""A Job of ours whose owner reference somebody has removed: it is ours again, before anything else is said of it."""

from __future__ import annotations

from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import OWNERS, Observation
from finetune_operator.controller.ownership import is_orphan_of
from finetune_operator.controller.policies.job.changes import change


def adopt(observation: Observation, draft: Draft) -> Next:
    """Put the reference back, as Kubernetes' own controllers do: without it the Job would outlive its FineTune."""
    job, finetune = observation.job, observation.finetune
    if job is None or not is_orphan_of(job, finetune) or "deletionTimestamp" in job["metadata"]:
        return Next.CONTINUE
    operation = {"op": "add", "path": f"/metadata/{OWNERS}", "value": [finetune.owner_reference()]}
    change(OWNERS, job, [operation], observation, draft)
    if not draft.actions:
        return Next.CONTINUE  # somebody takes it off again and again: what follows says whose the Job is
    draft.unwritten = True
    return Next.STOP
