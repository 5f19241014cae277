"""`spec.run` raised while the last run goes on at a provider: that one is stopped first, within the cancel bound."""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.reasons import Reason
from finetune_operator.backends.protocol import RunState, Stage
from finetune_operator.controller.conditions import is_terminal
from finetune_operator.controller.draft import CONTINUE, STOP, Draft
from finetune_operator.controller.model import Announcement, Call, Finalize, Observation
from finetune_operator.controller.policies import runs, turns
from finetune_operator.controller.policies.upstream.record import belongs, is_live, record_of, traits_of
from finetune_operator.controller.policies.upstream.stopping import Stop, overdue, stop


def make_way(observation: Observation, draft: Draft) -> bool:
    """The status goes on speaking of the old run until it is stopped."""
    recorded = observation.status.get("run")
    changed = recorded is not None and recorded != observation.finetune.run
    if changed and is_live(observation.status) and not is_terminal(observation.status):
        record = record_of(draft)
        result = stop(observation, draft, record)
        left = overdue(observation, record)
        if result is Stop.WAITING and left > 0:
            draft.settled = True
            draft.look_again(left)
            return STOP
        draft.actions = [action for action in draft.actions if not isinstance(action, Call)]
        if result is not Stop.DONE:
            _warn(observation, draft)
    if belongs(observation.finetune) or FINALIZER not in observation.finetune.finalizers:
        return CONTINUE
    # The next run is a Job: nothing upstream is left to answer for.
    draft.actions.append(Finalize(present=False))
    draft.unwritten = True
    draft.look_again(0.0)
    return STOP


def begin(observation: Observation, draft: Draft) -> bool:
    """As for a Job; what was observed is about the old run, so that everything else waits for the next look."""
    runs.begin(observation, draft)
    recorded = observation.status.get("run")
    if recorded is None or recorded == observation.finetune.run:
        return CONTINUE
    draft.state = RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_PREPARING, message="Preparing the run.")
    draft.look_again(0.0)
    return STOP


def take_turns(observation: Observation, draft: Draft) -> bool:
    """As for a Job, until there may be something at the provider: from then on the calls have the word."""
    return CONTINUE if record_of(draft).begun else turns.wait(observation, draft)


def _warn(observation: Observation, draft: Draft) -> None:
    record = record_of(draft)
    traits = traits_of(observation, record)
    provider = traits.title if traits else record.provider()
    draft.announcement = Announcement(
        Reason.CANCEL_FAILED,
        f"Run {observation.status.get('run')} ({record.id or record.fields.get('marker')}) may go on at {provider} "
        "and be billed: it could not be stopped.",
    )
