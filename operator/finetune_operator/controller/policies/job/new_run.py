"""`spec.run` raised: the wanted run starts clean, and the last one is in the history."""

from __future__ import annotations

from finetune_operator.api.objects import Object
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.policies.job.history import (
    by_run,
    completed,
    ended_by_itself,
    filed,
    of_job,
    superseded,
)
from finetune_operator.controller.times import stamp

_RECORDED = ("startTime", "completionTime", "attempts", "job", "upstream", "parameters", "artifacts", "cost")


def begin(observation: Observation, draft: Draft) -> Next:
    """Archive and reset where the status speaks of another run than the one that is wanted."""
    recorded = observation.status.get("run")
    if recorded is None or recorded == observation.finetune.run:
        return Next.CONTINUE
    history = filed([_record(observation), *(draft.status.get("history") or ())])
    draft.restart(history, stamp(observation.now))
    return Next.CONTINUE


def _record(observation: Observation) -> Object:
    """Of the run that the status speaks of."""
    status = observation.status
    record: Object = {"run": status["run"], "phase": status.get("phase")}
    record.update({field: status[field] for field in _RECORDED if field in status})
    record["loss"] = (status.get("progress") or {}).get("loss")
    job = by_run(observation).get(status["run"])
    if is_terminal(status):
        record |= {"reason": status.get("reason"), "message": status.get("message")}
    elif job is not None and ended_by_itself(job):
        record = completed(record, of_job(job, observation))
    else:
        record |= superseded(observation)
    return {key: value for key, value in record.items() if value is not None}
