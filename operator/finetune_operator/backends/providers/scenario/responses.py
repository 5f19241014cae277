"""What Scenario says of a model and its training, as states of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.errors import AuthFailed, Gone, PlanLimit, RateLimited, UpstreamError
from finetune_operator.backends.http.responses import Answer, plain, said
from finetune_operator.backends.provider_run import PollResult
from finetune_operator.backends.providers.json_values import count, identifier, number, timestamp
from finetune_operator.backends.run_state import RunState, Stage

Object = Mapping[str, Any]

WAITING_STAGES: Final = {
    "pending": "waits to be queued",
    "queued-for-train": "is in the queue",
    "starting-train": "is starting",
}
CAPTCHA_STAGES: Final = ("ready-for-captcha", "pending-captcha")
NO_ROUTE: Final = "Missing Authentication Token"


def poll_result_of(model: Object, job: Object | None = None) -> PollResult:
    """What a model says of its training; `job` for what the model leaves out. Raises Gone for a deleted model."""
    if model.get("deletedAt") or model.get("status") == "deleted":
        raise Gone(f"the model {plain(str(model.get('id')))} was deleted at Scenario")
    word = str(model.get("status"))
    raw = model.get("trainingProgress")
    progress: Object = raw if isinstance(raw, dict) else {}
    stage = str(progress.get("stage") or "")
    return PollResult(
        state=_state(word, stage, progress, model, job),
        stage=plain(f"{word}/{stage}" if stage else word)[:64],
        startable=word in ("new", "draft"),
        queue_position=count(progress.get("position")),
        message=job_words(job) or None,
        job_id=identifier(model.get("jobId")),
    )


def _state(word: str, stage: str, progress: Object, model: Object, job: Object | None) -> RunState:
    if word in ("new", "draft", "copying"):
        return _pending("Scenario has the model; it does not train yet.")
    if word == "trained":
        stats = model.get("trainingStats")
        return RunState(
            stage=Stage.SUCCEEDED,
            reason=Reason.UPSTREAM_SUCCEEDED,
            message=f"Scenario has trained the model {plain(str(model.get('id')))}.",
            completion_time=timestamp(stats.get("endedAt")) if isinstance(stats, dict) else None,
            progress={"percentage": 100},
        )
    if word == "failed":
        words = job_words(job) or plain(str(progress.get("retryableError") or ""))
        sentence = f"Scenario's training has failed: {words}" if words else "Scenario's training has failed."
        return RunState(stage=Stage.FAILED, reason=Reason.UPSTREAM_FAILED, message=sentence)
    if word in ("training-canceled", "training-cancelled"):
        message = "The training was cancelled at Scenario."
        return RunState(stage=Stage.CANCELLED, reason=Reason.UPSTREAM_CANCELLED, message=message)
    if word != "training":
        return _unknown(word)
    return _training(stage, progress, job)


def _training(stage: str, progress: Object, job: Object | None) -> RunState:
    if stage in CAPTCHA_STAGES:
        return _captcha(progress)
    if stage in WAITING_STAGES:
        position = count(progress.get("position"))
        ahead = f", {position} ahead of it" if position is not None else ""
        return _pending(f"The training {WAITING_STAGES[stage]} at Scenario{ahead}.")
    if stage not in ("", "running-train"):
        return _unknown(f"training/{stage}")
    if not stage and job is not None:
        return job_state(job)
    return _running(progress.get("progress"), progress.get("remainingTimeMs"))


def _captcha(progress: Object) -> RunState:
    address = progress.get("captchaImageUrl")
    where = f" The captcha is at {plain(address)}." if isinstance(address, str) and address else ""
    return RunState(
        stage=Stage.PENDING,
        reason=Reason.ACTION_REQUIRED,
        message=f"Scenario waits for a person: solve the captcha of this voice in Scenario's application.{where}",
        troubled=True,
    )


def job_state(job: Object) -> RunState:
    """The state of a training job."""
    word = str(job.get("status"))
    if word in ("pending", "queued", "warming-up"):
        return _pending(f"The training job is {word} at Scenario.")
    if word in ("in-progress", "finalizing"):
        return _running(job.get("progress"), None)
    if word == "success":
        return _running(1, None)  # the model's own word decides
    if word == "failure":
        words = job_words(job)
        sentence = f"Scenario's training has failed: {words}" if words else "Scenario's training has failed."
        return RunState(stage=Stage.FAILED, reason=Reason.UPSTREAM_FAILED, message=sentence)
    if word in ("canceled", "cancelled"):
        message = "The training was cancelled at Scenario."
        return RunState(stage=Stage.CANCELLED, reason=Reason.UPSTREAM_CANCELLED, message=message)
    return _unknown(f"job {word}")


def job_words(job: Object | None) -> str:
    """What a job says of its failure: `metadata.error` and `metadata.hint`."""
    metadata = (job or {}).get("metadata")
    if not isinstance(metadata, dict):
        return ""
    return plain(" ".join(str(metadata[field]) for field in ("error", "hint") if metadata.get(field)))


def _pending(message: str) -> RunState:
    return RunState(stage=Stage.PENDING, reason=Reason.UPSTREAM_QUEUED, message=message)


def _running(share: object, remaining_ms: object) -> RunState:
    progress: dict[str, Any] = {}
    if (known := number(share)) is not None and 0 <= known <= 1:
        progress["percentage"] = min(99, int(known * 100))
    if (remaining := count(remaining_ms)) is not None:
        # Whole minutes: every other second would be a write.
        progress["estimatedRemainingSeconds"] = -(-remaining // 60_000) * 60
    return RunState(
        stage=Stage.RUNNING,
        reason=Reason.UPSTREAM_RUNNING,
        message="Scenario is training.",
        progress=progress or None,
    )


def _unknown(word: str) -> RunState:
    return RunState(
        stage=Stage.RUNNING,
        reason=Reason.UPSTREAM_STATE_UNKNOWN,
        message=f"Scenario says {plain(word)!r:.80}, which the operator does not know; it goes on asking.",
        uncertain=True,
    )


# Answers that are no success


def explain(answer: Answer) -> UpstreamError | None:
    """Scenario's own meaning of 429 and 403: a limit of the plan is not throttling. None: the general one."""
    body = answer.body if isinstance(answer.body, dict) else {}
    raw = body.get("details")
    details: Object = raw if isinstance(raw, dict) else {}
    words = said(answer)
    if answer.status == 429:
        return _limit(str(body.get("name") or ""), details, words)
    if answer.status == 403 and body.get("name") == "ModelAccessRestrictedError":
        plan = details.get("requiredPlan")
        needed = f" It needs the plan {plain(str(plan))}." if plan else ""
        return PlanLimit(f"Scenario's plan does not allow this model: {words}.{needed}", status=403)
    if answer.status == 403 and body.get("message") == NO_ROUTE:
        return NoRoute(
            f"Scenario answers 403: {NO_ROUTE}. Its gateway says so of addresses that it does not have, too: "
            "check backend.scenario.baseURL, which ends in /v1",
            status=403,
        )
    return None


class NoRoute(AuthFailed):
    """The gateway's word for an address that the API does not have, or for a call without credentials."""


def _limit(name: str, details: Object, words: str) -> UpstreamError | None:
    action = plain(str(details.get("actionName") or ""))
    wait = count(details.get("remainingSeconds"))
    if wait is not None:
        sentence = f"Scenario asks to wait {wait} s before the next {action or 'call'}: {words}"
        return RateLimited(sentence, status=429, retry_after=float(wait))
    if name != "PlanLimitReachedError" and not action:
        return None
    limit = count(details.get("actionLimit"))
    bound = f" (limit {limit})" if limit is not None else ""
    if action == "parallel-training" and limit != 0:
        return RateLimited(f"All training slots of Scenario's plan are taken{bound}: {words}", status=429)
    return PlanLimit(
        f"Scenario's plan does not allow {action or 'this'}{bound}: {words}. Change the plan, or the dataset.",
        status=429,
    )


def member(answer: Answer, field: str) -> dict[str, Any]:
    """What an answer carries under this name. Raises what `unreadable` gives where it is missing."""
    value = answer.object().get(field)
    if not isinstance(value, dict):
        raise answer.unreadable(f"Scenario's answer lacks {field}")
    return value
