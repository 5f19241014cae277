"""A Job of ours whose owner reference somebody has removed: it is ours again, before anything else is said of it."""

from __future__ import annotations

from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation, Patch
from finetune_operator.controller.ownership import is_orphan_of


def adopt(observation: Observation, draft: Draft) -> Next:
    """Put the reference back, as Kubernetes' own controllers do: without it the Job would outlive its FineTune."""
    job, finetune = observation.job, observation.finetune
    if job is None or not is_orphan_of(job, finetune) or "deletionTimestamp" in job["metadata"]:
        return Next.CONTINUE
    metadata = job["metadata"]
    others = metadata.get("ownerReferences") or ()
    operations = (
        # Somebody else may have adopted it meanwhile, and a Job has one controller.
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/ownerReferences", "value": [*others, finetune.owner_reference()]},
    )
    draft.actions.append(Patch(metadata["name"], metadata["uid"], operations))
    draft.unwritten = True
    return Next.STOP
