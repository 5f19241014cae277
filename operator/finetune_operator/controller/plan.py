"""`plan(observation) -> decision`: the whole of what the operator does, as one ordered list of policies.

The list reads as the operator's specification. Each policy is a pure function in a file of its own; the first that
answers Next.STOP has the last word. Deciding again on the result of a decision changes nothing.
"""

from __future__ import annotations

from finetune_operator.api.names import FINALIZER
from finetune_operator.api.objects import Object
from finetune_operator.api.reasons import ConditionType
from finetune_operator.controller.conditions import MESSAGE_LIMIT, accepted, conditions_of, phase_of, render
from finetune_operator.controller.draft import Draft, Next, Policy
from finetune_operator.controller.model import Announcement, Decision, Observation
from finetune_operator.controller.policies.job import (
    acceptance,
    cancellation,
    children,
    deletion,
    new_run,
    outcome,
    pending_delay,
    retention,
    supersession,
    suspension,
    turns,
)
from finetune_operator.controller.policies.upstream import acceptance as upstream_acceptance
from finetune_operator.controller.policies.upstream import advance, call_results, deadline, resumption
from finetune_operator.controller.policies.upstream import cancellation as upstream_cancellation
from finetune_operator.controller.policies.upstream import deletion as upstream_deletion
from finetune_operator.controller.policies.upstream import new_run as upstream_new_run
from finetune_operator.controller.policies.upstream import outcome as upstream_outcome
from finetune_operator.controller.policies.upstream import retention as upstream_retention
from finetune_operator.controller.policies.upstream import supersession as upstream_supersession
from finetune_operator.controller.policies.upstream import suspension as upstream_suspension
from finetune_operator.controller.policies.upstream import turns as upstream_turns
from finetune_operator.controller.record import Record
from finetune_operator.controller.times import stamp
from finetune_operator.controller.upstream.run import belongs

POLICIES: tuple[Policy, ...] = (
    deletion.leave_alone,  # what is being deleted gets nothing new; its children go with it
    supersession.supersede,  # every Job of another run is ended, on each look, and its run is on record
    new_run.begin,  # a raised run archives the last one and starts clean
    retention.keep_finished,  # a finished run stays finished; only its children expire
    outcome.read,  # what the Job says of the run, if there is one
    cancellation.stop,  # spec.cancel ends the run and keeps the record
    acceptance.check,  # a spec that cannot run says why and waits for a better one
    suspension.hold,  # spec.suspend holds the run back, before its start and during it
    turns.wait,  # no run starts while another one is at work
    children.ensure,  # exactly one Job, created once, and never a stranger's
    pending_delay.wait,  # a Job that starts within moments is one status write, not two
)

UPSTREAM_POLICIES: tuple[Policy, ...] = (
    call_results.read,  # what the calls have taught: the id, the start, the provider's words
    upstream_deletion.leave,  # a deletion stops the run first, within bounds; Orphan leaves it
    supersession.supersede,  # an earlier run may have been a Job: it is ended, on each look, and recorded
    upstream_retention.keep_finished,  # a finished run stays finished, and lets the FineTune go
    upstream_supersession.make_way,  # a raised run stops the last one first,
    upstream_new_run.begin,  # archives it, and starts clean
    upstream_cancellation.cancel,  # spec.cancel ends the run and keeps the record
    deadline.expire,  # so does its deadline
    resumption.go_on,  # whoever takes that back before it has happened takes it back whole
    upstream_acceptance.check,  # a spec that cannot run says why and waits for a better one
    upstream_outcome.read,  # what the provider says of the run, once it has started
    upstream_suspension.hold,  # spec.suspend holds the billed call back
    upstream_turns.wait,  # no run starts while another one is at work
    advance.advance,  # the next call: prepare, create once, start once, poll
)


def policies_of(observation: Observation) -> tuple[Policy, ...]:
    """Runs at a provider have rules of their own; so has what is left of one when the next run is a Job."""
    upstream = belongs(observation.finetune) or FINALIZER in observation.finetune.finalizers
    return UPSTREAM_POLICIES if upstream else POLICIES


def plan(observation: Observation) -> Decision:
    """What to do about one FineTune, given everything that matters and nothing else."""
    record = Record.read(observation.status)
    verdict = accepted(observation.finetune.spec)
    draft = Draft(status=dict(observation.status), upstream=record, accepted=verdict)
    for policy in policies_of(observation):
        if policy(observation, draft) is Next.STOP:
            break
    if draft.upstream is not record and draft.upstream != record:
        _write(draft)
    return _conclude(observation, draft)


def _write(draft: Draft) -> None:
    """The record, into the status: here, and nowhere else."""
    draft.status.pop("upstream", None)
    if fields := draft.upstream.wire():
        draft.status["upstream"] = fields


def _conclude(observation: Observation, draft: Draft) -> Decision:
    status = None
    announcement = draft.announcement
    if not draft.unwritten:
        written = _status(observation, draft)
        if written != observation.status:
            status = written
            announcement = announcement or _announce(observation, draft)
    return Decision(
        actions=tuple(draft.actions),
        status=status,
        requeue=0.0 if status is not None and _over(observation, draft) else draft.requeue,
        announcement=announcement if status or draft.unwritten else None,
        claim=draft.claim if status else None,
    )


def _over(observation: Observation, draft: Draft) -> bool:
    """The run has just ended, and the finalizer is still there: our own write does not wake us."""
    result = draft.state is not None and draft.state.stage.terminal
    return result and FINALIZER in observation.finetune.finalizers


def _status(observation: Observation, draft: Draft) -> Object:
    finetune = observation.finetune
    status = draft.status
    status["observedGeneration"] = finetune.generation
    if draft.settled:
        return status
    verdicts = conditions_of(draft.accepted, draft.state, draft.stalled, draft.reconciling)
    phase, why = phase_of(verdicts)
    now = stamp(observation.now)
    status["phase"], status["reason"], status["message"] = str(phase), str(why.reason), why.message[:MESSAGE_LIMIT]
    status["conditions"] = render(verdicts, observation.status.get("conditions") or (), finetune.generation, now)
    status["run"] = finetune.run
    if finetune.spec is not None:
        status["backend"] = finetune.spec.backend.kind
    if draft.state is not None and draft.state.stage.terminal:
        status["completionTime"] = draft.state.completion_time or status.get("completionTime") or now
    return {key: value for key, value in status.items() if value is not None}


_WORTH_HEARING = (ConditionType.FAILED, ConditionType.STALLED)


def _announce(observation: Observation, draft: Draft) -> Announcement | None:
    """Trouble that is new is worth an Event; the normal course of a run is in the status."""
    verdicts = conditions_of(draft.accepted, draft.state, draft.stalled, draft.reconciling)
    _, why = phase_of(verdicts)
    trouble = not draft.accepted.status or draft.stalled or (draft.state is not None and draft.state.troubled)
    if draft.settled or not trouble or observation.status.get("reason") == why.reason:
        return None
    return Announcement(str(why.reason), why.message)
