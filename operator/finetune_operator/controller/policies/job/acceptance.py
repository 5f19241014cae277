"""Whether the spec can run at all, asked until it has started."""

from __future__ import annotations

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.api.unsupported import unsupported
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import KUEUE, Missing, Observation
from finetune_operator.controller.ownership import is_ours
from finetune_operator.controller.policies.job.refusal import is_for_a_person, refusal_of, wait_left

_REASON_BY_KIND = {"Secret": Reason.SECRET_NOT_FOUND, "PersistentVolumeClaim": Reason.CLAIM_NOT_FOUND}


def check(observation: Observation, draft: Draft) -> Next:
    """Accepted=False where it cannot, and Stalled. What was missing or refused is tried again, nothing else is."""
    permanent = _invalid(observation) or _unsupported(observation)
    if observation.job is not None and is_ours(observation.job, observation.finetune):
        if permanent is not None and _was_changed(observation):
            message = f"The run goes on as it was started; the spec was changed since: {permanent.message}"
            draft.accepted = Verdict(False, permanent.reason, message)
        return Next.CONTINUE
    if permanent is not None:
        draft.accepted = permanent
        draft.stalled = Verdict(True, permanent.reason, permanent.message)
        return Next.STOP
    if observation.missing is not None:
        draft.accepted = _missing(observation.missing, observation.finetune.namespace)
        draft.stalled = Verdict(True, draft.accepted.reason, draft.accepted.message)
        draft.look_again(observation.rules.recheck_interval)
        return Next.STOP
    return _refused(observation, draft)


def _was_changed(observation: Observation) -> bool:
    """Whether the spec is another one than that which was accepted, or was found to be so already.

    An operator that is upgraded during a run, and would not start it any more, sees it through.
    """
    for condition in observation.status.get("conditions") or ():
        if condition.get("type") == ConditionType.ACCEPTED:
            known = condition.get("observedGeneration")
            return condition.get("status") == "False" or known not in (None, observation.finetune.generation)
    return False


def _refused(observation: Observation, draft: Draft) -> Next:
    refusal = refusal_of(observation)
    if refusal is None or not is_for_a_person(refusal):
        return Next.CONTINUE
    message = f"The API server refuses the {refusal.kind} ({refusal.status}): {refusal.message}"
    draft.accepted = Verdict(False, Reason.INVALID_SPEC, message)
    draft.stalled = Verdict(True, Reason.INVALID_SPEC, message)
    left = wait_left(refusal, observation)
    if left <= 0:
        return Next.CONTINUE  # the status stands until it is taken
    draft.look_again(left)
    return Next.STOP


def _invalid(observation: Observation) -> Verdict | None:
    error = observation.finetune.spec_error
    if error is not None:
        return Verdict(False, Reason.INVALID_SPEC, error)
    return None


def _unsupported(observation: Observation) -> Verdict | None:
    spec = observation.finetune.spec
    findings = unsupported(spec) if spec is not None else []
    if not findings:
        return None
    return Verdict(False, Reason.UNSUPPORTED_PARAMETER, "; ".join(str(finding) for finding in findings))


def _missing(missing: Missing, namespace: str) -> Verdict:
    if missing.kind == KUEUE:
        message = (
            f"metadata.labels.{missing.field}: Kueue is not in this cluster, so that nobody would queue the run "
            f"(in {missing.name}); install it, or remove the label"
        )
        return Verdict(False, Reason.KUEUE_NOT_FOUND, message)
    return Verdict(
        False,
        _REASON_BY_KIND[missing.kind],
        f"spec.{missing.field}: there is no {missing.kind} {missing.name} in namespace {namespace}; create it",
    )
