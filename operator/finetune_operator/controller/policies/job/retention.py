"""A finished run stays finished, whatever happens to its children; they go when their time is up."""

from __future__ import annotations

from finetune_operator.api.reasons import Phase
from finetune_operator.backends.job.interpret import finished
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Delete, Observation
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.policies.job.sidecars import SIDECAR_GRACE
from finetune_operator.controller.times import seconds_since


def keep_finished(observation: Observation, draft: Draft) -> Next:
    """Never trains twice: a Job that is missing after the end is not created again."""
    if draft.status.get("run") != observation.finetune.run or not is_terminal(draft.status):
        return Next.CONTINUE
    draft.settled = True
    if not _stop_stray(observation, draft):
        _expire(observation, draft)
    return Next.STOP


def _stop_stray(observation: Observation, draft: Draft) -> bool:
    """A Job whose creation was on its way when the run ended, or whose pod a sidecar holds: it would go on unseen.

    Where the run has ended by itself, only a Job that has just been read is believed to be at work.
    """
    job = observation.job
    if job is None or not is_ours(job, observation.finetune):
        return False
    metadata = job["metadata"]
    if finished(job) or "deletionTimestamp" in metadata:
        return False
    if draft.status.get("phase") != Phase.CANCELLED:
        if not observation.job_is_live:
            return False
        age = seconds_since(draft.status.get("completionTime"), observation.now)
        if age is not None and 0 <= age < SIDECAR_GRACE:
            draft.look_again(SIDECAR_GRACE - age)
            return True
    draft.actions.append(Delete(metadata["name"], metadata["uid"]))
    return True


def _expire(observation: Observation, draft: Draft) -> None:
    spec, job = observation.finetune.spec, observation.job
    age = seconds_since(draft.status.get("completionTime"), observation.now)
    if spec is None or spec.ttl_seconds_after_finished is None or age is None or job is None:
        return
    metadata = job["metadata"]
    if not is_ours(job, observation.finetune) or "deletionTimestamp" in metadata:
        return
    remaining = spec.ttl_seconds_after_finished - age
    if remaining > 0:
        draft.look_again(remaining)
    else:
        draft.actions.append(Delete(metadata["name"], metadata["uid"]))
