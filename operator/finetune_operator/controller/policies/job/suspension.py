"""`spec.suspend`: held back before the start, stopped at its next checkpoint after it, and let go on again."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.names import QUEUE_LABEL
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.interpret import SUSPENDED_BY_SPEC_ANNOTATION, finished
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation, Patch
from finetune_operator.controller.ownership import is_ours

_POINTER = "/metadata/annotations/" + SUSPENDED_BY_SPEC_ANNOTATION.replace("/", "~1")


def hold(observation: Observation, draft: Draft) -> Next:
    """Toggles the Job's own `suspend`, only on the user's word: what a queue has suspended stays the queue's."""
    spec, job = observation.finetune.spec, observation.job
    if spec is None:
        return Next.CONTINUE
    if job is None or not is_ours(job, observation.finetune):
        return _before_the_start(draft) if spec.suspend else Next.CONTINUE
    if finished(job):
        return Next.CONTINUE
    ours = SUSPENDED_BY_SPEC_ANNOTATION in (job["metadata"].get("annotations") or {})
    if spec.suspend and not ours:
        draft.actions.append(_patch(job, _suspend(job)))
    elif ours and not spec.suspend:
        draft.actions.append(_patch(job, _resume(job)))
    return Next.CONTINUE


def _before_the_start(draft: Draft) -> Next:
    draft.state = RunState(
        stage=Stage.SUSPENDED,
        reason=Reason.SUSPENDED_BY_SPEC,
        message="Held back by spec.suspend; set it to false to start.",
    )
    draft.reconciling = None
    return Next.STOP


def _patch(job: dict[str, Any], operations: list[dict[str, Any]]) -> Patch:
    return Patch(job["metadata"]["name"], job["metadata"]["uid"], tuple(operations))


def _suspend(job: dict[str, Any]) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = []
    if "annotations" not in job["metadata"]:  # empty: there are others, which the cache does not keep
        operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    operations.append({"op": "add", "path": _POINTER, "value": "true"})
    operations.append({"op": "add", "path": "/spec/suspend", "value": True})
    return operations


def _resume(job: dict[str, Any]) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = [{"op": "remove", "path": _POINTER}]
    if QUEUE_LABEL not in (job["metadata"].get("labels") or {}):
        # A queued Job is let go by its queue, which has taken over when we suspended it.
        operations.append({"op": "add", "path": "/spec/suspend", "value": False})
    return operations
