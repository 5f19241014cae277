"""A finished run stays finished; what was made for it and never started is removed; then the finalizer goes."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.provider_run import Step
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Announcement, Finalize, Observation
from finetune_operator.controller.policies.upstream.leftover import never_started
from finetune_operator.controller.upstream.calls import call
from finetune_operator.controller.upstream.run import capabilities_of

REMOVALS = 5
"""So often in a row the provider may fail to remove it; it costs nothing but a place in the account."""


def keep_finished(observation: Observation, draft: Draft) -> Next:
    """Never trains twice, whatever happens at the provider afterwards."""
    if observation.status.get("run") != observation.finetune.run or not is_terminal(observation.status):
        return Next.CONTINUE
    draft.settled = True
    if FINALIZER in observation.finetune.finalizers and not _removing(observation, draft):
        draft.actions.append(Finalize(present=False))
    return Next.STOP


def _removing(observation: Observation, draft: Draft) -> bool:
    """Whether an empty run is still to be removed: it would count against what the account may hold."""
    capabilities = capabilities_of(observation, draft.upstream)
    if capabilities is None or not never_started(draft.upstream, capabilities):
        return False
    if observation.upstream.success(Step.DELETE) is not None:
        return False
    failed = observation.upstream.failure(Step.DELETE)
    if failed is not None and failed.failures >= REMOVALS:
        words = failed.failure.message if failed.failure is not None else ""
        message = f"{capabilities.title} keeps {draft.upstream.id}, which was never started and is not billed: {words}"
        draft.announcement = Announcement(Reason.CANCEL_FAILED, message, last_word=True)
        draft.unwritten = True
        return False
    call(observation, draft, Step.DELETE)
    return True
