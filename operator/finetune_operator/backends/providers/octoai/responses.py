"""What a service with OctoAI's API says of a tune, as states of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_operator.api.status import MAX_ARTIFACTS
from finetune_operator.backends.errors import Gone
from finetune_operator.backends.http.responses import plain
from finetune_operator.backends.provider_run import PollResult
from finetune_operator.backends.providers.file_names import with_names
from finetune_operator.backends.providers.json_values import identifiers, texts, timestamp
from finetune_operator.backends.run_state import RunState, Stage

NO_NAMES: Final[Mapping[str, str]] = {}
MAX_DATA: Final = 4000
"""Characters of one text in `status.upstream.data`."""


def poll_result_of(tune: Mapping[str, Any], base_url: str, names: Mapping[str, str] = NO_NAMES) -> PollResult:
    """What a Tune says of itself. `names`: what the user calls the files, by their assets' ids. Raises Gone for a
    deleted tune."""
    if tune.get("deleted_at"):
        raise Gone(f"the tune {tune.get('id')} was deleted at {tune['deleted_at']}")
    loras = loras_of(tune)
    word = str(tune.get("status"))
    return PollResult(
        state=_state(word, tune, {lora: f"{base_url}/v1/assets/{lora}" for lora in loras}, names),
        stage=plain(word)[:64],
        message=_details(tune, names) or None,
        data={"loras": _joined(loras)} if loras else {},
    )


def _joined(loras: list[str]) -> str:
    """As many whole ids as the status has room for."""
    text = ""
    for lora in loras:
        if len(text) + len(lora) >= MAX_DATA:
            break
        text = f"{text},{lora}" if text else lora
    return text


def loras_of(tune: Mapping[str, Any]) -> list[str]:
    """What the tune has made: `output_lora_ids`, or else the assets of its result."""
    result = tune.get("result")
    made = identifiers(tune.get("output_lora_ids"))
    return made or identifiers(result.get("output_assets") if isinstance(result, dict) else None)


def _state(word: str, tune: Mapping[str, Any], loras: Mapping[str, str], names: Mapping[str, str]) -> RunState:
    details = _details(tune, names)
    if word == "pending":
        return RunState(
            stage=Stage.PENDING, reason=Reason.UPSTREAM_QUEUED, message="The tune is pending." + _after(details)
        )
    if word == "running":
        return RunState(
            stage=Stage.RUNNING, reason=Reason.UPSTREAM_RUNNING, message="The tune is running." + _after(details)
        )
    if word == "succeeded" and not loras:
        message = f"The service says that {plain(str(tune.get('id')))} succeeded, and names no LoRA that it has made."
        return RunState(stage=Stage.FAILED, reason=Reason.UPSTREAM_WITHOUT_ARTIFACTS, message=message + _after(details))
    if word == "succeeded":
        return RunState(
            stage=Stage.SUCCEEDED,
            reason=Reason.UPSTREAM_SUCCEEDED,
            message=f"The tune has succeeded. It has made {plain(', '.join(loras))}." + _after(details),
            completion_time=timestamp(tune.get("succeeded_at")),
            progress={"percentage": 100},
            artifacts=tuple({"name": lora, "uri": uri} for lora, uri in loras.items())[:MAX_ARTIFACTS] or None,
        )
    if word == "failed":
        return RunState(
            stage=Stage.FAILED,
            reason=Reason.UPSTREAM_FAILED,
            message="The tune has failed" + (f": {details}" if details else "; the service does not say why."),
        )
    if word in ("cancelled", "canceled"):
        return RunState(
            stage=Stage.CANCELLED, reason=Reason.UPSTREAM_CANCELLED, message="The tune was cancelled at the service."
        )
    return RunState(
        stage=Stage.RUNNING,
        reason=Reason.UPSTREAM_STATE_UNKNOWN,
        message=f"The service says {plain(word)!r:.80}, which the operator does not know; it goes on asking.",
        uncertain=True,
    )


def _details(tune: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """`status_details`, and the pictures that the service would not take, as the user calls them."""
    sentences = [with_names(plain(str(tune.get("status_details") or "")), known)]
    result = tune.get("result")
    for field, words in (("rejected_assets", "Rejected assets"), ("unready_assets", "Unready assets")):
        if names := texts(result.get(field) if isinstance(result, dict) else None):
            shown = ", ".join(known.get(name, name) for name in names[:10])
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            sentences.append(f"{words}: {shown}{more}.")
    return plain(" ".join(filter(None, sentences)))


def _after(details: str) -> str:
    return f" {details}" if details else ""


def word_of(tune: Mapping[str, Any]) -> str:
    """The service's own status word."""
    return plain(str(tune.get("status")))[:64]
