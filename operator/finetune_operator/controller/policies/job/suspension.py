"""`spec.suspend`: held back before the start, stopped at its next checkpoint after it, and let go on again.

A Job that Kueue has a Workload of is Kueue's to start and to stop: suspended beside it, it would be started again. So
its Workload is deactivated, and Kueue does the rest; a Workload that somebody else has deactivated stays so.
"""

from __future__ import annotations

from finetune_operator.api.names import QUEUE_LABEL
from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.interpret import SUSPENDED_BY_SPEC_ANNOTATION, finished
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Admission, Observation
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.policies.job.changes import change

_POINTER = "/metadata/annotations/" + SUSPENDED_BY_SPEC_ANNOTATION.replace("/", "~1")
SOON = 1.0
"""Seconds until the mark is taken off a Job whose Workload has been activated: nothing tells of that."""
_PLAIN, _DEACTIVATED = "true", "workload-deactivated"
"""Values of the annotation; the latter where the Workload is to be activated again."""


def hold(observation: Observation, draft: Draft) -> Next:
    """Toggles the Job's own `suspend`, only on the user's word: what a queue has suspended stays the queue's."""
    job, suspend = observation.job, observation.finetune.suspend
    if job is None or not is_ours(job, observation.finetune):
        return _before_the_start(draft) if suspend else Next.CONTINUE
    if finished(job) or "deletionTimestamp" in job["metadata"]:
        return Next.CONTINUE
    if suspend:
        _hold(job, observation, draft)
    elif _mark(job) is not None:
        _let_go(job, observation, draft)
    return Next.CONTINUE


def _before_the_start(draft: Draft) -> Next:
    draft.state = RunState(
        stage=Stage.SUSPENDED,
        reason=Reason.SUSPENDED_BY_SPEC,
        message="Held back by spec.suspend; set it to false to start.",
    )
    draft.reconciling = None
    return Next.STOP


def _mark(job: Object) -> str | None:
    mark = (job["metadata"].get("annotations") or {}).get(SUSPENDED_BY_SPEC_ANNOTATION)
    return None if mark is None else str(mark)


def _active(workload: Object | None) -> bool:
    return workload is not None and (workload.get("spec") or {}).get("active") is not False


def _hold(job: Object, observation: Observation, draft: Draft) -> None:
    """The mark comes first: whoever lets the run go on must know what was done."""
    workload, held = observation.workload, bool(job["spec"].get("suspend"))
    if _active(workload):
        if _mark(job) != _DEACTIVATED:
            change("suspend", job, _marking(job, _DEACTIVATED), observation, draft)
        elif workload is not None:
            draft.actions.append(_admission(workload, active=False))
            draft.look_again(observation.rules.recheck_interval)
    elif _mark(job) is None or not held:
        operations = [*_marking(job, _mark(job) or _PLAIN), {"op": "add", "path": "/spec/suspend", "value": True}]
        change("suspend", job, operations, observation, draft)


def _let_go(job: Object, observation: Observation, draft: Draft) -> None:
    """A queued Job is let go by its queue, which has taken over when we suspended it."""
    workload = observation.workload
    if workload is not None and _mark(job) == _DEACTIVATED and not _active(workload):
        draft.actions.append(_admission(workload, active=True))
        draft.look_again(SOON)
        return
    operations: list[Object] = [{"op": "remove", "path": _POINTER}]
    queued = QUEUE_LABEL in (job["metadata"].get("labels") or {}) and observation.kueue is not False
    if workload is None and not queued:
        operations.append({"op": "add", "path": "/spec/suspend", "value": False})
    change("suspend", job, operations, observation, draft)


def _admission(workload: Object, *, active: bool) -> Admission:
    metadata = workload["metadata"]
    return Admission(str(workload.get("apiVersion")), metadata["name"], metadata["uid"], active)


def _marking(job: Object, value: str) -> list[Object]:
    operations: list[Object] = []
    if "annotations" not in job["metadata"]:  # empty in the cache: there are others than ours
        operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    operations.append({"op": "add", "path": _POINTER, "value": value})
    return operations
