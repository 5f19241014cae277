"""`spec.run` raised: every other run ends and goes to the history, and the wanted one starts clean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Phase, Reason
from finetune_operator.api.status import MAX_HISTORY
from finetune_operator.backends.job.interpret import carried_parameters, condition, finished, interpret
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Action, Delete, Observation, Patch
from finetune_operator.controller.ownership import controller_of, is_ours, run_number
from finetune_operator.controller.policies.job import turns
from finetune_operator.controller.times import stamp

_RECORDED = ("startTime", "completionTime", "attempts", "job", "upstream", "parameters", "artifacts", "cost")


def supersede(observation: Observation, draft: Draft) -> Next:
    """Every unfinished Job of another run is ended, on each look and whatever the status says.

    A run may have come to a Job and to no status. It is recorded from its Job, and before that is ended: afterwards
    nobody could tell.
    """
    unrecorded = _unrecorded(observation)
    history = [*(_of_job(job, observation) for job in unrecorded), *_corrected(observation)]
    if history != list(observation.status.get("history") or ()):
        draft.status["history"] = _filed(history)
    if any(not finished(job) for job in unrecorded):
        return _record_first(observation, draft)
    for job in observation.other_jobs:
        draft.actions.extend(_leave(job, observation, recorded=job not in unrecorded))
    return Next.CONTINUE


def begin(observation: Observation, draft: Draft) -> Next:
    """Archive and reset where the status speaks of another run than the one that is wanted."""
    recorded = observation.status.get("run")
    if recorded is None or recorded == observation.finetune.run:
        return Next.CONTINUE
    draft.restart(_filed([_record(observation), *(draft.status.get("history") or ())]))
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
    jobs = _by_run(observation)
    return [job for run, job in jobs.items() if run > newest and run != told]


def _by_run(observation: Observation) -> dict[int, Object]:
    return {run_number(job, observation.finetune.name): job for job in observation.other_jobs}


def _leave(job: Object, observation: Observation, *, recorded: bool) -> Iterator[Action]:
    """Stop the Job, or let Kubernetes itself remove it in time: nobody here looks at it again."""
    metadata, spec = job["metadata"], observation.finetune.spec
    if "deletionTimestamp" in metadata:
        return
    if not finished(job):
        yield Delete(metadata["name"], metadata["uid"])
        return
    if run_number(job, observation.finetune.name) == observation.status.get("run"):
        recorded = is_terminal(observation.status)
    ttl = spec.ttl_seconds_after_finished if spec is not None else None
    if ttl is not None and recorded and "ttlSecondsAfterFinished" not in job["spec"]:
        operation = {"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": ttl}
        yield Patch(metadata["name"], metadata["uid"], (operation,))


# What became of a run


def _filed(records: Sequence[Object]) -> list[Object]:
    """The newest first, and no more than there is room for."""
    return sorted(records, key=lambda record: -int(record.get("run") or 0))[:MAX_HISTORY]


def _corrected(observation: Observation) -> Iterator[Object]:
    """A run that was to be stopped, and has ended before that could happen."""
    jobs = _by_run(observation)
    for record in observation.status.get("history") or ():
        job = jobs.get(int(record.get("run") or 0))
        if record.get("reason") == Reason.SUPERSEDED and job is not None and _ended_by_itself(job):
            yield {**record, **_of_job(job, observation)}
        else:
            yield record


def _record(observation: Observation) -> Object:
    """Of the run that the status speaks of."""
    status = observation.status
    record: Object = {"run": status["run"], "phase": status.get("phase")}
    record.update({field: status[field] for field in _RECORDED if field in status})
    record["loss"] = (status.get("progress") or {}).get("loss")
    job = _by_run(observation).get(status["run"])
    if is_terminal(status):
        record |= {"reason": status.get("reason"), "message": status.get("message")}
    elif job is not None and _ended_by_itself(job):
        record |= _of_job(job, observation)
    else:
        record |= _superseded(observation)
    return {key: value for key, value in record.items() if value is not None}


def _of_job(job: Object, observation: Observation) -> Object:
    """All that a run's Job, and its pods where they were looked at, can tell."""
    uid = job["metadata"]["uid"]
    state = interpret(job, [pod for pod in observation.pods or () if (controller_of(pod) or {}).get("uid") == uid])
    record: Object = {
        "run": run_number(job, observation.finetune.name),
        "startTime": state.start_time,
        "attempts": state.attempts,
        "job": {"name": job["metadata"]["name"], "uid": uid},
        "parameters": carried_parameters(job),
    }
    if _ended_by_itself(job):
        record |= {"phase": str(state.stage), "reason": str(state.reason), "message": state.message}
        record["completionTime"] = state.completion_time
        record["artifacts"] = list(state.artifacts) if state.artifacts is not None else None
        record["loss"] = (state.progress or {}).get("loss")
    else:
        record |= _superseded(observation)
    return {key: value for key, value in record.items() if value is not None}


def _ended_by_itself(job: Object) -> bool:
    """A Job that fails while it is being deleted has been stopped: its pods were ended."""
    deleting = "deletionTimestamp" in job["metadata"]
    return condition(job, "Complete") is not None or (finished(job) and not deleting)


def _superseded(observation: Observation) -> Object:
    return {
        "phase": str(Phase.CANCELLED),
        "reason": str(Reason.SUPERSEDED),
        "message": f"Stopped at {stamp(observation.now)}: spec.run was raised to {observation.finetune.run}.",
    }
