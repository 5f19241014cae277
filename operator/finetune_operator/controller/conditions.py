"""From what is known of a run to `status.conditions` and `status.phase`. Pure.

`lastTransitionTime` moves only when a condition's status flips, so that a plan that changes nothing writes nothing.
`Reconciling` and `Stalled` exist only while True (kstatus); there is no `Ready`: a run of hours would time out every
tool that waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.api.notes import notes
from finetune_operator.api.reasons import ConditionType, Phase, Reason
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.run_state import RunState, Stage

Condition = dict[str, Any]
MESSAGE_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition's content."""

    status: bool | None
    reason: str
    message: str = ""


ACCEPTED = Verdict(True, Reason.VALID, "The spec can run on its backend.")


def accepted(spec: FineTuneSpec | None) -> Verdict:
    """Of a spec that nothing speaks against."""
    said = " ".join(notes(spec)) if spec is not None else ""
    return Verdict(True, Reason.VALID, f"{ACCEPTED.message} {said}") if said else ACCEPTED


def conditions_of(
    accepted: Verdict, state: RunState | None, stalled: Verdict | None, reconciling: Verdict | None
) -> dict[ConditionType, Verdict]:
    """Every condition that is to be present."""
    verdicts = {
        ConditionType.ACCEPTED: accepted,
        ConditionType.SUSPENDED: _suspended(state),
        ConditionType.RUNNING: _running(state, accepted),
        ConditionType.COMPLETE: _complete(state),
        ConditionType.FAILED: _failed(state),
    }
    if reconciling is not None:
        verdicts[ConditionType.RECONCILING] = reconciling
    if stalled is not None:
        verdicts[ConditionType.STALLED] = stalled
    return verdicts


def _suspended(state: RunState | None) -> Verdict:
    if state is not None and state.stage in (Stage.SUSPENDED, Stage.QUEUED):
        return Verdict(True, state.reason, state.message)
    return Verdict(False, Reason.NOT_SUSPENDED)


def _running(state: RunState | None, accepted: Verdict) -> Verdict:
    if state is None:
        message = "Waiting for the Job." if accepted.status else "Not started: the spec is not accepted."
        return Verdict(False, Reason.PENDING, message)
    if state.stage == Stage.RUNNING:
        return Verdict(None if state.uncertain else True, state.reason, state.message)
    if state.stage.terminal:
        return Verdict(False, Reason.FINISHED)
    return Verdict(False, state.reason, state.message)


def _complete(state: RunState | None) -> Verdict:
    if state is not None and state.stage == Stage.SUCCEEDED:
        return Verdict(True, state.reason, state.message)
    over = state is not None and state.stage.terminal
    return Verdict(False, Reason.FINISHED if over else Reason.IN_PROGRESS)


def _failed(state: RunState | None) -> Verdict:
    if state is not None and state.stage in (Stage.FAILED, Stage.CANCELLED):
        return Verdict(True, state.reason, state.message)
    return Verdict(False, Reason.NOT_FAILED)


def phase_of(verdicts: Mapping[ConditionType, Verdict]) -> tuple[Phase, Verdict]:
    """The one-word summary, and the condition that explains it."""
    complete, failed = verdicts[ConditionType.COMPLETE], verdicts[ConditionType.FAILED]
    suspended, running = verdicts[ConditionType.SUSPENDED], verdicts[ConditionType.RUNNING]
    accepted, stalled = verdicts[ConditionType.ACCEPTED], verdicts.get(ConditionType.STALLED)
    if complete.status:
        return Phase.SUCCEEDED, complete
    if failed.status:
        return (Phase.CANCELLED if failed.reason == Reason.CANCELLED else Phase.FAILED), failed
    if stalled is not None:
        return Phase.STALLED, stalled
    if running.status is not False:
        return Phase.RUNNING, running
    if suspended.status:
        return (Phase.SUSPENDED if suspended.reason == Reason.SUSPENDED_BY_SPEC else Phase.QUEUED), suspended
    return Phase.PENDING, (running if accepted.status else accepted)


def render(
    verdicts: Mapping[ConditionType, Verdict], previous: Iterable[Condition], generation: int, now: str
) -> list[Condition]:
    """metav1.Conditions, keeping `lastTransitionTime` where the status has not flipped."""
    before = {condition.get("type"): condition for condition in previous}
    return [_condition(kind, verdict, before.get(kind), generation, now) for kind, verdict in verdicts.items()]


def _condition(kind: str, verdict: Verdict, before: Condition | None, generation: int, now: str) -> Condition:
    status = "Unknown" if verdict.status is None else str(verdict.status)
    since = before["lastTransitionTime"] if before and before.get("status") == status else now
    return {
        "type": str(kind),
        "status": status,
        "reason": str(verdict.reason),
        "message": verdict.message[:MESSAGE_LIMIT],
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def is_true(status: Mapping[str, Any], kind: ConditionType) -> bool:
    """Whether the status holds this condition as True."""
    return any(
        condition.get("type") == kind and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )


def is_terminal(status: Mapping[str, Any]) -> bool:
    """Whether the run that the status speaks of is over, however it ended."""
    return is_true(status, ConditionType.COMPLETE) or is_true(status, ConditionType.FAILED)
