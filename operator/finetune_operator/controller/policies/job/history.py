"""What became of a run, as `status.history` keeps it: what the rules of raised runs share."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Phase, Reason
from finetune_operator.api.status import MAX_HISTORY
from finetune_operator.backends.job.interpret import carried_parameters, condition, finished, interpret
from finetune_operator.controller.model import Observation
from finetune_operator.controller.ownership import controller_of, run_number
from finetune_operator.controller.times import stamp


def filed(records: Sequence[Object]) -> list[Object]:
    """The newest first, and no more than there is room for."""
    return sorted(records, key=lambda record: -int(record.get("run") or 0))[:MAX_HISTORY]


def by_run(observation: Observation) -> dict[int, Object]:
    """The Jobs of other runs."""
    return {run_number(job, observation.finetune.name): job for job in observation.other_jobs}


def of_job(job: Object, observation: Observation) -> Object:
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
    if ended_by_itself(job):
        record |= {"phase": str(state.stage), "reason": str(state.reason), "message": state.message}
        record["completionTime"] = state.completion_time
        record["artifacts"] = list(state.artifacts) if state.artifacts is not None else None
        record["loss"] = (state.progress or {}).get("loss")
    else:
        record |= superseded(observation)
    return {key: value for key, value in record.items() if value is not None}


def completed(record: Object, told: Object) -> Object:
    """A record with what the run's last Job tells; what the run had before that Job stays."""
    kept = {"startTime": record.get("startTime") or told.get("startTime")}
    kept["attempts"] = max(int(record.get("attempts") or 0), int(told.get("attempts") or 0)) or None
    return {**record, **told, **{name: value for name, value in kept.items() if value is not None}}


def ended_by_itself(job: Object) -> bool:
    """A Job that fails while it is being deleted has been stopped: its pods were ended."""
    deleting = "deletionTimestamp" in job["metadata"]
    return condition(job, "Complete") is not None or (finished(job) and not deleting)


def superseded(observation: Observation) -> Object:
    """Of a run that was ended for the next one."""
    return {
        "phase": str(Phase.CANCELLED),
        "reason": str(Reason.SUPERSEDED),
        "message": f"Stopped at {stamp(observation.now)}: spec.run was raised to {observation.finetune.run}.",
    }
