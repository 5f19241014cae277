"""What a service with OctoAI's API says of a tune, as states of a run. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune_operator.api.reasons import Reason
from finetune_operator.backends.answers import plain
from finetune_operator.backends.failures import Gone
from finetune_operator.backends.protocol import RunState, Stage
from finetune_operator.backends.shapes import texts
from finetune_operator.backends.upstream_run import Sighting


def sighting_of(tune: Mapping[str, Any], base_url: str) -> Sighting:
    """What a Tune says of itself. Raises Gone for a deleted one."""
    if tune.get("deleted_at"):
        raise Gone(f"the tune {tune.get('id')} was deleted at {tune['deleted_at']}")
    loras = texts(tune.get("output_lora_ids"))
    word = str(tune.get("status"))
    return Sighting(
        state=_state(word, tune, {lora: f"{base_url}/v1/assets/{lora}" for lora in loras}),
        stage=plain(word)[:64],
        message=_details(tune) or None,
        data={"loras": ",".join(loras)[:4000]} if loras else {},
    )


def _state(word: str, tune: Mapping[str, Any], loras: Mapping[str, str]) -> RunState:
    details = _details(tune)
    if word == "pending":
        return RunState(
            stage=Stage.PENDING, reason=Reason.UPSTREAM_QUEUED, message="The tune is pending." + _after(details)
        )
    if word == "running":
        return RunState(
            stage=Stage.RUNNING, reason=Reason.UPSTREAM_RUNNING, message="The tune is running." + _after(details)
        )
    if word == "succeeded":
        result = f"It has made {', '.join(loras)}." if loras else "It names no LoRA."
        return RunState(
            stage=Stage.SUCCEEDED,
            reason=Reason.UPSTREAM_SUCCEEDED,
            message=f"The tune has succeeded. {result}" + _after(details),
            completion_time=_time(tune.get("succeeded_at")),
            progress={"percentage": 100},
            artifacts=tuple({"name": lora, "uri": uri} for lora, uri in loras.items()) or None,
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


def _details(tune: Mapping[str, Any]) -> str:
    """`status_details`, and the pictures that the service would not take."""
    sentences = [plain(str(tune.get("status_details") or ""))]
    result = tune.get("result")
    if isinstance(result, dict):
        for field, words in (("rejected_assets", "Rejected assets"), ("unready_assets", "Unready assets")):
            if names := texts(result.get(field)):
                shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                sentences.append(f"{words}: {shown}.")
    return plain(" ".join(filter(None, sentences)))


def _after(details: str) -> str:
    return f" {details}" if details else ""


def _time(text: object) -> str | None:
    """Whole seconds, as metav1.Time has them."""
    found = re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", str(text))
    return f"{found[0]}Z" if found and str(text).endswith("Z") else None


def word_of(tune: Mapping[str, Any]) -> str:
    """The service's own status word."""
    return plain(str(tune.get("status")))[:64]
