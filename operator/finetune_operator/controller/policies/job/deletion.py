"""What is being deleted gets nothing new."""

from __future__ import annotations

from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Observation


def leave_alone(observation: Observation, draft: Draft) -> Next:
    """A Job run has no finalizer: the garbage collector takes its children by their owner references."""
    if not observation.finetune.deleting:
        return Next.CONTINUE
    draft.unwritten = True
    return Next.STOP
