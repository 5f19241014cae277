"""A FineTune that is being deleted: its run is stopped first, within the cancel bound; `Orphan` leaves it."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Announcement, Observation
from finetune_operator.controller.policies.upstream.leftover import leftover, never_started
from finetune_operator.controller.record import Record
from finetune_operator.controller.upstream.run import capabilities_of
from finetune_operator.controller.upstream.stop import Stop, stop_in_time


def leave(observation: Observation, draft: Draft) -> Next:
    """Nothing new is begun; the finalizer goes when nothing is left to stop, or when that was tried in vain."""
    finetune = observation.finetune
    if not finetune.deleting:
        return Next.CONTINUE
    draft.unwritten = True
    if FINALIZER not in finetune.finalizers:
        return Next.STOP
    orphan = finetune.spec is not None and finetune.spec.deletion_policy == "Orphan"
    if orphan or (is_terminal(draft.status) and not _is_left(observation, draft.upstream)):
        draft.let_go()
        return Next.STOP
    result = stop_in_time(observation, draft, remove=True)
    if result is Stop.WAITING:
        # The status as it is, but for when it was begun to be stopped: a restart must know that.
        draft.unwritten, draft.settled = False, True
        return Next.STOP
    if result is not Stop.DONE and not is_terminal(draft.status):
        draft.announcement = Announcement(
            Reason.CANCEL_FAILED,
            _warning(observation, draft.upstream),
            last_word=True,
            left_at=draft.upstream.provider,
        )
    draft.let_go()
    return Next.STOP


def _is_left(observation: Observation, record: Record) -> bool:
    """Of a run that has ended: what was made for it and never started."""
    capabilities = capabilities_of(observation, record)
    return capabilities is not None and never_started(record, capabilities)


def _warning(observation: Observation, record: Record) -> str:
    what = leftover(observation, record)
    if record.id is None:
        return f"{what}; it may be billed."
    words = record.message
    return f"{what}: it was not cancelled in time{f' ({words})' if words else ''}."
