"""`spec.run` raised: the last run goes to the history, and the next one starts clean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import MAX_HISTORY
from finetune_operator.backends.job.interpret import finished, interpret
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import CONTINUE, Draft
from finetune_operator.controller.model import Action, Delete, Observation, Patch
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.times import stamp

_RECORDED = ("startTime", "completionTime", "attempts", "job", "upstream", "parameters", "artifacts", "cost")


def begin(observation: Observation, draft: Draft) -> bool:
    """Archive and reset where the status speaks of another run than the one that is wanted."""
    recorded = observation.status.get("run")
    if recorded is None or recorded == observation.finetune.run:
        return CONTINUE
    draft.status = {"history": [_record(observation), *(observation.status.get("history") or ())][:MAX_HISTORY]}
    draft.actions.extend(_leave(observation))
    return CONTINUE


def _leave(observation: Observation) -> Iterator[Action]:
    """Stop the last run's Job, or let Kubernetes itself remove it in time: nobody here looks at it again."""
    previous, spec = observation.previous_job, observation.finetune.spec
    if previous is None or not is_ours(previous, observation.finetune):
        return
    metadata = previous["metadata"]
    if "deletionTimestamp" in metadata:
        return
    if not finished(previous):
        yield Delete(metadata["name"], metadata["uid"])
        return
    ttl = spec.ttl_seconds_after_finished if spec is not None else None
    if ttl is not None and is_terminal(observation.status) and "ttlSecondsAfterFinished" not in previous["spec"]:
        operation = {"op": "add", "path": "/spec/ttlSecondsAfterFinished", "value": ttl}
        yield Patch(metadata["name"], metadata["uid"], (operation,))


def _record(observation: Observation) -> dict[str, Any]:
    status = observation.status
    record: dict[str, Any] = {"run": status["run"], "phase": status.get("phase"), **_how_it_ended(observation)}
    record.update({field: status[field] for field in _RECORDED if field in status})
    record["loss"] = (status.get("progress") or {}).get("loss")
    return {key: value for key, value in record.items() if value is not None}


def _how_it_ended(observation: Observation) -> Mapping[str, Any]:
    status = observation.status
    if is_terminal(status):
        return {"reason": status.get("reason"), "message": status.get("message")}
    job = observation.previous_job
    if job is not None and finished(job):
        state = interpret(job)
        return {"phase": str(state.stage), "reason": str(state.reason), "message": state.message}
    return {
        "phase": "Cancelled",
        "reason": str(Reason.SUPERSEDED),
        "message": f"Stopped at {stamp(observation.now)}: spec.run was raised to {observation.finetune.run}.",
    }
