"""`spec.run` raised while the last run goes on at a provider: that one is stopped first, within the cancel bound."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Announcement, Finalize, Observation
from finetune_operator.controller.policies.upstream.leftover import leftover
from finetune_operator.controller.record import Record
from finetune_operator.controller.upstream.run import belongs
from finetune_operator.controller.upstream.stop import Stop, stop_in_time


def make_way(observation: Observation, draft: Draft) -> Next:
    """The status goes on speaking of the old run until it is stopped."""
    recorded = observation.status.get("run")
    changed = recorded is not None and recorded != observation.finetune.run
    if changed and Record.read(observation.status).live and not is_terminal(observation.status):
        result = stop_in_time(observation, draft)
        if result is Stop.WAITING:
            draft.settled = True
            return Next.STOP
        if result is not Stop.DONE:
            _warn(observation, draft)
    if belongs(observation.finetune) or FINALIZER not in observation.finetune.finalizers:
        return Next.CONTINUE
    # The next run is a Job: nothing upstream is left to answer for.
    draft.actions.append(Finalize(present=False))
    draft.unwritten = True
    draft.look_again(0.0)
    return Next.STOP


def _warn(observation: Observation, draft: Draft) -> None:
    words = draft.upstream.message
    draft.announcement = Announcement(
        Reason.CANCEL_FAILED,
        f"Run {observation.status.get('run')}: {leftover(observation, draft.upstream)}; "
        f"it could not be stopped{f' ({words})' if words else ''}.",
        last_word=True,
        left_at=draft.upstream.provider,
    )
