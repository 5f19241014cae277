"""Runs take turns: none starts while another one is at work. Two pods must never write one output."""

from __future__ import annotations

from dataclasses import replace

from finetune_operator.api.names import RUN_LABEL
from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.job.interpret import finished
from finetune_operator.backends.job.waits import WAY_OUT, lost_node, overdue
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import FineTune, Observation
from finetune_operator.controller.ownership import is_ours, run_number

_OFTEN = 2.0
"""Seconds between two looks at pods whose Job is gone: no event of a Job tells of their end."""


def wait(observation: Observation, draft: Draft) -> Next:
    """Nothing is created while a Job of another run has not ended, or a pod of any run outlives its Job."""
    if observation.job is not None and is_ours(observation.job, observation.finetune):
        return Next.CONTINUE
    message = waits_for(observation)
    if message is None:
        return Next.CONTINUE
    say(message, draft)
    pod = _at_work(observation)
    if pod is not None and draft.state is not None and _is_lost(pod, observation):
        # Two pods must never write one output, so that there is no time after which it is no longer waited for.
        draft.state = replace(draft.state, reason=Reason.NODE_LOST, message=f"{message} {WAY_OUT}.", troubled=True)
    # The end of a Job that is being deleted is an event.
    draft.look_again(observation.rules.recheck_interval if _unfinished(observation) else _OFTEN)
    return Next.STOP


def _is_lost(pod: Object, observation: Observation) -> bool:
    return lost_node(pod) is not None or overdue(pod, observation.now)


def say(message: str, draft: Draft) -> None:
    """What is being waited for."""
    draft.state = RunState(stage=Stage.PENDING, reason=Reason.PENDING, message=message)
    draft.reconciling = Verdict(True, Reason.PROGRESSING, message)


def waits_for(observation: Observation) -> str | None:
    """Whose end is waited for, in a sentence; None: nobody's."""
    finetune = observation.finetune
    if pod := _at_work(observation):
        name, run = pod["metadata"]["name"], _run_of_pod(pod, finetune)
        if run == finetune.run:
            return f"The Job was deleted from outside; waiting for its pod {name} to end before the next one starts."
        what = f"its pod {name} has its grace period to save a checkpoint"
    elif job := _unfinished(observation):
        run, what = run_number(job, finetune.name), f"its Job {job['metadata']['name']} is being removed"
    else:
        return None
    return f"Run {finetune.run} starts when run {run} has ended: {what}."


def _unfinished(observation: Observation) -> Object | None:
    return next((job for job in observation.other_jobs if not finished(job)), None)


def _at_work(observation: Observation) -> Object | None:
    for pod in observation.pods or ():
        if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            return pod
    return None


def _run_of_pod(pod: Object, finetune: FineTune) -> int:
    label = str((pod["metadata"].get("labels") or {}).get(RUN_LABEL, ""))
    return int(label) if label.isdecimal() else finetune.run
