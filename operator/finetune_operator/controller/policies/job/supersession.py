"""`spec.run` raised: every other run ends, and goes to the history."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.interpret import finished
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Delete, Observation
from finetune_operator.controller.ownership import is_ours, run_number
from finetune_operator.controller.policies.job import turns
from finetune_operator.controller.policies.job.changes import change
from finetune_operator.controller.policies.job.history import by_run, completed, ended_by_itself, filed, of_job


def supersede(observation: Observation, draft: Draft) -> Next:
    """Every unfinished Job of another run is ended, on each look and whatever the status says.

    A run may have come to a Job and to no status. It is recorded from its Job, and before that is ended: afterwards
    nobody could tell.
    """
    unrecorded = _unrecorded(observation)
    history = [*(of_job(job, observation) for job in unrecorded), *_corrected(observation)]
    if history != list(observation.status.get("history") or ()):
        draft.status["history"] = filed(history)
    if any(not finished(job) for job in unrecorded):
        return _record_first(observation, draft)
    for job in observation.other_jobs:
        _leave(job, observation, draft, recorded=job not in unrecorded)
    return Next.CONTINUE


def _record_first(observation: Observation, draft: Draft) -> Next:
    """One write, and at once the next look: it finds the record, and ends the Job."""
    job = observation.job
    if observation.status or (job is not None and is_ours(job, observation.finetune)):
        draft.settled = True
    else:
        turns.say(turns.waits_for(observation) or "", draft)
    draft.look_again(0.0)
    return Next.STOP


def _unrecorded(observation: Observation) -> list[Object]:
    """Jobs of runs that neither the status nor the history speaks of. What is older has fallen off the history."""
    history = observation.status.get("history") or ()
    newest = max((int(record.get("run") or 0) for record in history), default=0)
    told = observation.status.get("run")
    jobs = by_run(observation)
    return [job for run, job in jobs.items() if run > newest and run != told]


def _leave(job: Object, observation: Observation, draft: Draft, *, recorded: bool) -> None:
    """Stop the Job, or let Kubernetes itself remove it in time: nobody here looks at it again."""
    metadata, spec = job["metadata"], observation.finetune.spec
    if "deletionTimestamp" in metadata:
        return
    if not finished(job):
        draft.actions.append(Delete(metadata["name"], metadata["uid"]))
        return
    if run_number(job, observation.finetune.name) == observation.status.get("run"):
        recorded = is_terminal(observation.status)
    ttl = spec.ttl_seconds_after_finished if spec is not None else None
    if ttl is not None and recorded and "ttlSecondsAfterFinished" not in job["spec"]:
        operation = {"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": ttl}
        change(f"ttlSecondsAfterFinished ({metadata['name']})", job, [operation], observation, draft)


def _corrected(observation: Observation) -> Iterator[Object]:
    """A run that was to be stopped, and has ended before that could happen."""
    jobs = by_run(observation)
    for record in observation.status.get("history") or ():
        job = jobs.get(int(record.get("run") or 0))
        if record.get("reason") == Reason.SUPERSEDED and job is not None and ended_by_itself(job):
            yield completed(record, of_job(job, observation))
        else:
            yield record
