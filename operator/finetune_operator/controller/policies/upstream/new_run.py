"""`spec.run` raised while the last run goes on at a provider: that one is stopped first, within the cancel bound."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import CONTINUE, STOP, Draft
from finetune_operator.controller.model import Announcement, Finalize, Observation
from finetune_operator.controller.policies.job import new_run, turns
from finetune_operator.controller.policies.upstream.leftover import leftover
from finetune_operator.controller.upstream.record import Record, belongs, is_live, record_of
from finetune_operator.controller.upstream.stop import Stop, stop_in_time


def make_way(observation: Observation, draft: Draft) -> bool:
    """The status goes on speaking of the old run until it is stopped."""
    recorded = observation.status.get("run")
    changed = recorded is not None and recorded != observation.finetune.run
    if changed and is_live(observation.status) and not is_terminal(observation.status):
        record = record_of(draft)
        result = stop_in_time(observation, draft, record)
        if result is Stop.WAITING:
            draft.settled = True
            return STOP
        if result is not Stop.DONE:
            _warn(observation, draft, record)
    if belongs(observation.finetune) or FINALIZER not in observation.finetune.finalizers:
        return CONTINUE
    # The next run is a Job: nothing upstream is left to answer for.
    draft.actions.append(Finalize(present=False))
    draft.unwritten = True
    draft.look_again(0.0)
    return STOP


def begin(observation: Observation, draft: Draft) -> bool:
    """As for a Job; what was observed is about the old run, so that everything else waits for the next look."""
    new_run.begin(observation, draft)
    recorded = observation.status.get("run")
    if recorded is None or recorded == observation.finetune.run:
        return CONTINUE
    draft.state = RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_PREPARING, message="Preparing the run.")
    draft.look_again(0.0)
    return STOP


def take_turns(observation: Observation, draft: Draft) -> bool:
    """As for a Job, until there may be something at the provider: from then on the calls have the word."""
    return CONTINUE if record_of(draft).begun else turns.wait(observation, draft)


def _warn(observation: Observation, draft: Draft, record: Record) -> None:
    words = record.fields.get("message")
    draft.announcement = Announcement(
        Reason.CANCEL_FAILED,
        f"Run {observation.status.get('run')}: {leftover(observation, record)}; "
        f"it could not be stopped{f' ({words})' if words else ''}.",
        last_word=True,
    )
