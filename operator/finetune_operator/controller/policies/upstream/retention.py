"""A finished run stays finished, and nothing upstream is left to answer for: the finalizer goes."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import CONTINUE, STOP, Draft
from finetune_operator.controller.model import Finalize, Observation


def keep_finished(observation: Observation, draft: Draft) -> bool:
    """Never trains twice, whatever happens at the provider afterwards."""
    if observation.status.get("run") != observation.finetune.run or not is_terminal(observation.status):
        return CONTINUE
    history = {name: value for name, value in draft.status.items() if name == "history"}
    draft.status = {**observation.status, **history}
    draft.settled = True
    if FINALIZER in observation.finetune.finalizers:
        draft.actions.append(Finalize(present=False))
    return STOP
