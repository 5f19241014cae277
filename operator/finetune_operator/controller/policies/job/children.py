"""Exactly one Job (and claim) for a run: created once, adopted by uid, never a stranger's, never applied again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from finetune_operator.api.defaults import resolve_parameters
from finetune_operator.api.reasons import Reason
from finetune_operator.api.recipes import RecipeSpec
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.backends.job.manifest import Identity, build_claim, build_job, own_labels
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import Create, Observation, Refusal, delay_of
from finetune_operator.controller.ownership import is_ours, is_predecessors, is_watched
from finetune_operator.controller.policies.job.changes import change
from finetune_operator.controller.policies.job.lifetime import DEADLINE, left_at_creation, wanted_deadline
from finetune_operator.controller.policies.job.refusal import is_for_a_person, refusal_of, wait_left


def ensure(observation: Observation, draft: Draft) -> Next:
    """Create what is missing; wait for a predecessor's to go; stop before a stranger's."""
    job = observation.job
    if job is not None:
        if is_ours(job, observation.finetune):
            return _keep(job, observation, draft)
        return _taken(job, observation, draft)
    if observation.foreign_claim is not None:
        return _taken(observation.foreign_claim, observation, draft)
    _create(observation, draft)
    return Next.CONTINUE


def _keep(job: dict[str, Any], observation: Observation, draft: Draft) -> Next:
    if "deletionTimestamp" in job["metadata"]:
        draft.reconciling = Verdict(True, Reason.PROGRESSING, "The Job is being deleted; it will be created again.")
        return Next.CONTINUE
    for about, operations in (("labels", _labels(job, observation)), (DEADLINE, _deadline(job, observation))):
        if operations:
            change(about, job, operations, observation, draft)
    if not is_watched(job):
        draft.look_again(observation.rules.recheck_interval)  # its events do not come to us
    if observation.claim_gone:
        _replace_claim(observation, draft)
    return Next.CONTINUE


def _replace_claim(observation: Observation, draft: Draft) -> None:
    """Somebody has deleted the claim while no pod held it: without another one, its pod would wait for ever."""
    spec, identity = observation.finetune.spec, _identity(observation)
    claim = build_claim(identity, spec.backend.job) if spec is not None and spec.backend.job is not None else None
    if claim is None or draft.state is None:
        return
    draft.actions.append(Create(claim))
    draft.status.pop("checkpoint", None)
    message = (
        f"The claim {identity.job_name} was deleted, with all that the run had saved; another one is made, empty, and "
        "the run begins anew."
    )
    draft.state = replace(draft.state, reason=Reason.VOLUME_NOT_READY, message=message, troubled=True)
    draft.reconciling = Verdict(True, Reason.PROGRESSING, message)


def _labels(job: dict[str, Any], observation: Observation) -> list[dict[str, Any]]:
    """Put back the labels that the operator finds its Jobs by: without them the watch does not show the Job."""
    carried = job["metadata"].get("labels") or {}
    lost = {key: value for key, value in own_labels(_identity(observation)).items() if carried.get(key) != value}
    if not lost:
        return []
    if "labels" not in job["metadata"]:
        return [{"op": "add", "path": "/metadata/labels", "value": lost}]
    # One by one: the cache has only those of a Job's labels that somebody here reads.
    return [{"op": "add", "path": f"/metadata/labels/{key.replace('/', '~1')}", "value": lost[key]} for key in lost]


def _deadline(job: dict[str, Any], observation: Observation) -> list[dict[str, Any]]:
    spec, path = observation.finetune.spec, f"/spec/{DEADLINE}"
    carried = job["spec"].get(DEADLINE)
    if spec is None or (spec.active_deadline_seconds is None and carried is None):
        return []
    if spec.active_deadline_seconds is None:
        return [{"op": "remove", "path": path}]
    wanted = wanted_deadline(spec.active_deadline_seconds, _of_this_run(observation), job)
    return [] if wanted is None else [{"op": "add", "path": path, "value": wanted}]


def _of_this_run(observation: Observation) -> Mapping[str, Any]:
    status = observation.status
    return status if status.get("run") in (None, observation.finetune.run) else {}


def _taken(child: dict[str, Any], observation: Observation, draft: Draft) -> Next:
    finetune = observation.finetune
    kind, name = child.get("kind") or "Job", child["metadata"]["name"]
    draft.look_again(observation.rules.recheck_interval)
    if is_predecessors(child, finetune):
        message = f"{kind} {name} of an earlier FineTune {finetune.name} is being collected."
        draft.reconciling = Verdict(True, Reason.WAITING_FOR_GARBAGE_COLLECTION, message)
        draft.look_again(1.0)
        return Next.STOP
    message = (
        f"{kind} {name} exists and belongs to somebody else; it was not touched. "
        f"Rename this FineTune, or remove that {kind}."
    )
    draft.stalled = Verdict(True, Reason.NAME_CONFLICT, message)
    return Next.STOP


def _create(observation: Observation, draft: Draft) -> None:
    spec, refusal = observation.finetune.spec, refusal_of(observation)
    if spec is None or spec.backend.job is None:
        return
    if refusal is not None and not is_for_a_person(refusal):
        draft.state = _refused(refusal)
        draft.reconciling = Verdict(True, Reason.PROGRESSING_WITH_RETRY, draft.state.message)
        if (left := wait_left(refusal, observation)) > 0:
            draft.look_again(left)
            return
    identity = _identity(observation)
    parameters = _recorded(draft.status, spec) or resolve_parameters(spec)
    if claim := build_claim(identity, spec.backend.job):
        draft.actions.append(Create(claim))
    made = build_job(identity, spec, parameters, observation.defaults)
    if spec.active_deadline_seconds is not None:
        made["spec"][DEADLINE] = left_at_creation(
            spec.active_deadline_seconds, _of_this_run(observation), observation.now
        )
    draft.actions.append(Create(made))
    # The Job's events bring us back; where there are none, it waits for something.
    draft.look_again(delay_of(observation.rules, in_a_burst=observation.burst))
    draft.unwritten = refusal is None and not draft.status.get("history")


def _recorded(status: Mapping[str, Any], spec: FineTuneSpec) -> dict[str, Any] | None:
    """What the run was started with; None where the recipe does not take it: then somebody else has written it."""
    parameters: dict[str, Any] | None = status.get("parameters")
    if parameters:
        try:
            RecipeSpec.model_validate({spec.recipe.kind: parameters})
        except ValidationError:
            return None
    return parameters


def _identity(observation: Observation) -> Identity:
    finetune = observation.finetune
    return Identity(
        namespace=finetune.namespace,
        name=finetune.name,
        uid=finetune.uid,
        run=finetune.run,
        labels=finetune.labels,
        owner=finetune.owner_reference(),
    )


def _refused(refusal: Refusal) -> RunState:
    quota = "exceeded quota" in refusal.message
    reason = Reason.QUOTA_EXCEEDED if quota else Reason.PENDING
    return RunState(
        stage=Stage.PENDING,
        reason=reason,
        message=f"The API server refuses the {refusal.kind} ({refusal.status}): {refusal.message}",
        troubled=True,
    )
