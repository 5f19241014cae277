"""A FineTune that is being deleted: its run is stopped first, within the cancel bound; `Orphan` leaves it."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import CONTINUE, STOP, Draft
from finetune_operator.controller.model import Announcement, Finalize, Observation
from finetune_operator.controller.policies.upstream.record import Record, record_of, traits_of
from finetune_operator.controller.policies.upstream.stopping import Stop, overdue, stop


def leave(observation: Observation, draft: Draft) -> bool:
    """Nothing new is begun; the finalizer goes when nothing is left to stop, or when the time for it is up."""
    finetune = observation.finetune
    if not finetune.deleting:
        return CONTINUE
    draft.unwritten = True
    if FINALIZER not in finetune.finalizers:
        return STOP
    record = record_of(draft)
    orphan = finetune.spec is not None and finetune.spec.deletion_policy == "Orphan"
    if orphan or is_terminal(draft.status):
        return _let_go(draft)
    result = stop(observation, draft, record, remove=True)
    if result is Stop.DONE:
        return _let_go(draft)
    left = overdue(observation, record)
    if result is Stop.WAITING and left > 0:
        draft.look_again(left)
        return STOP
    draft.actions.clear()
    draft.announcement = Announcement(Reason.CANCEL_FAILED, _warning(observation, record))
    return _let_go(draft)


def _let_go(draft: Draft) -> bool:
    draft.actions.append(Finalize(present=False))
    draft.requeue = None
    return STOP


def _warning(observation: Observation, record: Record) -> str:
    traits = traits_of(observation, record)
    provider = traits.title if traits else record.provider()
    if record.id is None:
        marker = record.fields.get("marker")
        return f"Whether {provider} runs this fine-tune is not known; look there for {marker}, it may be billed."
    words = record.fields.get("message")
    why = f" ({words})" if words else ""
    return f"{provider} may still run {record.id} and bill it: it was not cancelled in time{why}."
