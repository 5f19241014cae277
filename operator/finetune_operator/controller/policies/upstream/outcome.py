"""What the provider says of the run goes into the status; what it says wrong, or not at all, is said too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_operator.api.reasons import ConditionType, Reason
from finetune_operator.backends.errors import Failure, FailureKind
from finetune_operator.backends.provider_run import Capabilities, Fetched, Step
from finetune_operator.backends.run_state import RunState, Stage
from finetune_operator.controller.conditions import Verdict
from finetune_operator.controller.draft import Draft, Next
from finetune_operator.controller.model import CallResult, Observation
from finetune_operator.controller.record import Record, RunPhase
from finetune_operator.controller.times import seconds_since, stamp
from finetune_operator.controller.upstream.calls import call
from finetune_operator.controller.upstream.run import capabilities_of
from finetune_operator.controller.upstream.transfers import transfer_of
from finetune_operator.controller.upstream.vanished import looked_for, vanished

NO_WEIGHTS_AFTER = 6
"""So often in a row the provider must send something that is no weights, or say that it has none."""
WORTH_SAYING = 2
"""So many failures in a row are worth a status write; a single one is not."""


def read(observation: Observation, draft: Draft) -> Next:
    """The state of a run that was started; a terminal one is the last word, once its artifacts are stored."""
    record = draft.upstream
    capabilities = capabilities_of(observation, record)
    if record.reached is not RunPhase.STARTED or capabilities is None:
        return Next.CONTINUE
    draft.status.setdefault("startTime", record.started)
    draft.status["attempts"] = 1
    state = _vanished(observation, capabilities, record) or seen_state(observation, draft)
    if state is None:
        return Next.CONTINUE
    draft.state = replace(state, troubled=True) if state.stage is Stage.FAILED else state
    _copy(state, observation, draft)
    if state.stage is Stage.SUCCEEDED and _wants_artifacts(observation, capabilities):
        return _publish(observation, draft, record, state)
    _trouble(observation, draft)
    if state.stage.terminal:
        return Next.STOP
    return Next.CONTINUE


def seen_state(observation: Observation, draft: Draft) -> RunState | None:
    """What the last poll saw; before the first one of this process, what the status says."""
    poll_result = observation.upstream.poll_result
    if poll_result is not None:
        return poll_result.state
    if draft.upstream.reached is not RunPhase.STARTED:
        return draft.state
    return _remembered(observation)


def _remembered(observation: Observation) -> RunState:
    for condition in observation.status.get("conditions") or ():
        if condition.get("type") == ConditionType.RUNNING and condition.get("status") != "False":
            return RunState(
                stage=Stage.RUNNING,
                reason=condition.get("reason", Reason.UPSTREAM_RUNNING),
                message=condition.get("message", ""),
                uncertain=condition.get("status") == "Unknown",
            )
        if condition.get("type") == ConditionType.RUNNING and condition.get("reason") != Reason.FINISHED:
            return RunState(
                stage=Stage.PENDING,
                reason=condition.get("reason", Reason.PENDING),
                message=condition.get("message", ""),
            )
    return RunState(stage=Stage.PENDING, reason=Reason.PENDING, message="Waiting for the provider's word.")


def _vanished(observation: Observation, capabilities: Capabilities, record: Record) -> RunState | None:
    result = vanished(observation, record)
    if result is None or result.failure is None or not looked_for(observation, record):
        return None
    return RunState(
        stage=Stage.FAILED,
        reason=Reason.UPSTREAM_GONE,
        message=f"{capabilities.title} no longer knows run {record.id}: {result.failure.message}",
        completion_time=stamp(result.time),
    )


def _copy(state: RunState, observation: Observation, draft: Draft) -> None:
    status = draft.status
    if state.checkpoint is not None:
        status["checkpoint"] = state.checkpoint
    if state.artifacts is not None:
        status["artifacts"] = [dict(artifact) for artifact in state.artifacts]
    if state.progress:
        _progress(state.progress, observation, draft, final=state.stage.terminal)


def _progress(found: dict[str, Any], observation: Observation, draft: Draft, *, final: bool) -> None:
    """At most once per interval: it is for people, and every write costs."""
    shown = draft.status.get("progress") or {}
    if all(shown.get(name) == value for name, value in found.items() if name != "lastUpdateTime"):
        return
    age = seconds_since(shown.get("lastUpdateTime"), observation.now)
    interval = observation.rules.progress_interval
    if final or age is None or age >= interval:
        seen = observation.upstream.polled_at or observation.now
        draft.status["progress"] = {**shown, "lastUpdateTime": stamp(seen), **found}
    else:
        draft.look_again(interval - age)


def _trouble(observation: Observation, draft: Draft) -> None:
    last = observation.upstream.last
    if last is None or last.failure is None:
        return
    say(last, last.failure, draft)


def say(result: CallResult, failure: Failure, draft: Draft) -> None:
    """A failed call: blocked is for a person at once; the rest is said from the second time on."""
    if failure.kind is FailureKind.BLOCKED:
        draft.stalled = Verdict(True, failure.reason, failure.message)
    elif result.failures >= WORTH_SAYING or failure.kind in (FailureKind.PERMANENT, FailureKind.GONE):
        draft.reconciling = Verdict(True, Reason.PROGRESSING_WITH_RETRY, f"{failure.reason}: {failure.message}")


def _wants_artifacts(observation: Observation, capabilities: Capabilities) -> bool:
    spec = observation.finetune.spec
    return spec is not None and spec.output is not None and capabilities.gives_weights


def _publish(observation: Observation, draft: Draft, record: Record, state: RunState) -> Next:
    """The provider is done; the run is when its weights are where the user wants them."""
    done = observation.upstream.success(Step.FETCH)
    if done is not None and isinstance(done.outcome, Fetched):
        draft.status["artifacts"] = [dict(artifact) for artifact in done.outcome.artifacts]
        return Next.STOP
    _trouble(observation, draft)
    failed = observation.upstream.failure(Step.FETCH)
    if failed is not None and failed.failure is not None and _given_up(failed, failed.failure):
        message = (
            f"The training succeeded as {record.id}, but its weights could not be stored: {failed.failure.message}"
        )
        nothing = Reason.UPSTREAM_WITHOUT_ARTIFACTS in (failed.failure.reason, _gone(failed.failure))
        reason = Reason.UPSTREAM_WITHOUT_ARTIFACTS if nothing else Reason.ARTIFACT_UPLOAD_FAILED
        draft.state = replace(state, stage=Stage.FAILED, reason=reason, message=message, artifacts=None)
        return Next.STOP
    message = f"Trained; the weights are being stored in spec.output.{transfer_of(observation, draft)}"
    draft.state = RunState(stage=Stage.RUNNING, reason=Reason.UPLOADING, message=message)
    call(observation, draft, Step.FETCH)
    return Next.STOP


def _given_up(result: CallResult, failure: Failure) -> bool:
    """A download that fails for good; one that brings no weights is made again some times."""
    if failure.kind is FailureKind.PERMANENT:
        return True
    without = Reason.UPSTREAM_WITHOUT_ARTIFACTS in (failure.reason, _gone(failure))
    return without and result.failures >= NO_WEIGHTS_AFTER


def _gone(failure: Failure) -> Reason | None:
    return Reason.UPSTREAM_WITHOUT_ARTIFACTS if failure.kind is FailureKind.GONE else None
