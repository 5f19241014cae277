"""A finished run stays finished, and nothing upstream is left to answer for: the finalizer goes."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Finalize, Observation


def keep_finished(observation: Observation, draft: Draft) -> Next:
    """Never trains twice, whatever happens at the provider afterwards."""
    if observation.status.get("run") != observation.finetune.run or not is_terminal(observation.status):
        return Next.CONTINUE
    draft.settled = True
    if FINALIZER in observation.finetune.finalizers:
        draft.actions.append(Finalize(present=False))
    return Next.STOP
