"""What the Job says of the run goes into the status."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.interpret import carried_parameters, interpret, settling
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.times import seconds_since

LONGEST_RECHECK = 300.0
"""Seconds between two looks at a pod that has been waiting for an hour or more."""


def read(observation: Observation, draft: Draft) -> Next:
    """Nothing where there is no Job of ours. A terminal state is the last word, and one that is near is waited for."""
    job = observation.job
    if job is None or not is_ours(job, observation.finetune):
        return Next.CONTINUE
    spec = observation.finetune.spec
    if settling(job) and not (spec is not None and spec.cancel):
        # The Job's next event says how it ended; to call it Pending until then would be one write more, and untrue.
        draft.unwritten = True
        draft.look_again(observation.rules.recheck_interval)
        return Next.STOP
    state = interpret(
        job,
        observation.pods,
        observation.events,
        observation.workload,
        volume_grace=observation.rules.volume_grace,
    )
    draft.state = state
    draft.status["job"] = {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    parameters = carried_parameters(job)
    if parameters is not None:
        draft.status["parameters"] = parameters
    if state.stage.terminal:
        _know(draft.status, observation.facts.get("checkpoint"), observation.facts.get("baseModelRevision"))
    else:
        _report(observation, draft)
    _copy(state, draft.status)
    if state.stage.terminal:
        if spec is not None and spec.ttl_seconds_after_finished is not None:
            draft.look_again(spec.ttl_seconds_after_finished)  # nothing else may ever happen to a finished run
        return Next.STOP
    if state.stage == Stage.PENDING:
        draft.reconciling = Verdict(True, Reason.PROGRESSING, state.message)
        draft.look_again(_recheck_after(job, observation))
    if state.stage == Stage.QUEUED and observation.workload is not None:
        draft.look_again(_recheck_after(job, observation))  # Kueue's words change without an event of the Job
    return Next.CONTINUE


def _recheck_after(job: dict[str, Any], observation: Observation) -> float:
    """Looking at a waiting pod costs the API server two lists: the longer it has waited, the less often."""
    age = seconds_since(job["metadata"].get("creationTimestamp"), observation.now) or 0.0
    return max(observation.rules.recheck_interval, min(age / 10, LONGEST_RECHECK))


def _copy(state: RunState, status: dict[str, Any]) -> None:
    if state.start_time is not None:
        status["startTime"] = state.start_time
    if state.attempts is not None:
        status["attempts"] = state.attempts
    _know(status, state.checkpoint, state.base_model_revision)
    if state.stage is Stage.SUCCEEDED and state.progress is not None and state.checkpoint is None:
        status.pop("checkpoint", None)  # the trainer says that there is none: those below the output go with the result
    if state.artifacts is not None:
        status["artifacts"] = list(state.artifacts)
    if state.progress is not None:
        status["progress"] = {**(status.get("progress") or {}), **state.progress}


def _know(status: dict[str, Any], checkpoint: dict[str, Any] | None, revision: str | None) -> None:
    """The newest checkpoint that anybody has told of: an ended pod's words are read again at every look."""
    if revision is not None:
        status["baseModelRevision"] = revision
    known = status.get("checkpoint")
    if checkpoint is None or (known is not None and _is_no_newer(checkpoint, known)):
        return
    status["checkpoint"] = checkpoint


def _is_no_newer(checkpoint: dict[str, Any], known: dict[str, Any]) -> bool:
    same = all(checkpoint.get(name) == known.get(name) for name in ("step", "uri"))
    return same or str(checkpoint.get("time") or "") < str(known.get("time") or "")


def _report(observation: Observation, draft: Draft) -> None:
    """Progress goes into the status at most once per interval: it is for people, and every write costs."""
    report, facts = observation.report, observation.facts
    if report is None:
        return
    shown = draft.status.get("progress") or {}
    if shown.get("lastUpdateTime") == report.get("lastUpdateTime"):
        return
    age = seconds_since(shown.get("lastUpdateTime"), observation.now)
    interval = observation.rules.progress_interval
    if age is None or age >= interval:
        draft.status["progress"] = dict(report)
        _know(draft.status, facts.get("checkpoint"), facts.get("baseModelRevision"))
    else:
        draft.look_again(interval - age)
