"""A tune of OctoAI's API: `POST /v1/tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.names import camel, snake
from finetune_operator.api.providers.octoai.spec import BaseCheckpoint, OctoAi
from finetune_operator.api.providers.wire import (
    Answers,
    Body,
    ConversionError,
    Converted,
    Unanswered,
    Wire,
    aliases_of,
    columns_of,
    known,
    object_in,
    plain,
    present,
    renamed,
)

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

RECIPE: Final = "imageGeneration"
_DETAILS: Final = ("tune_type", "base_checkpoint", "files", "steps", "trigger_words", "seed", "resize_images")


def from_octoai(found: Mapping[str, Any], body: Mapping[str, Any], answers: Answers) -> Converted:  # noqa: ARG001
    """`body`: a tune of type lora_tune; its files are not carried over: `answers.dataset` says where they are."""
    dataset = answers.training_files()
    base_url = answers.base_url or answers.url.partition("/v1/")[0]
    if not base_url:
        raise Unanswered("the body does not say which service it is for", "Give --base-url URL.")
    known("", body, ("name", "description", "details", "continue_on_rejection"))
    details = object_in(body, "details")
    known("details.", details, _DETAILS)
    if details.get("tune_type", "lora_tune") != "lora_tune":
        raise ConversionError(f"details.tune_type: only lora_tune is supported, not {details['tune_type']!r}")
    checkpoint = object_in(details, "base_checkpoint")
    known("details.base_checkpoint.", checkpoint, [snake(field) for field in aliases_of(BaseCheckpoint)])
    trigger_words = details.get("trigger_words") or []
    if not isinstance(trigger_words, list) or len(trigger_words) > 1:
        raise ConversionError("details.trigger_words: must be a list of at most one word; the service supports no more")
    fields = {
        **columns_of(RECIPE, answers.columns),
        "steps": details.get("steps"),
        "triggerWord": next(iter(trigger_words), None),
        "seed": details.get("seed"),
    }
    backend = {
        "baseURL": base_url,
        "secretRef": {"name": answers.secret},
        "baseCheckpoint": present(renamed(checkpoint, camel)),
        "description": body.get("description"),
        "continueOnRejection": body.get("continue_on_rejection"),
        "resizeImages": details.get("resize_images"),
    }
    return Converted(
        {
            "baseModel": checkpoint.get("engine") or checkpoint.get("name") or checkpoint.get("checkpoint_id"),
            "recipe": {RECIPE: present(fields)},
            "dataset": {"uri": dataset},
            "backend": {"octoai": present(backend)},
        },
        body.get("name"),
    )


def to_octoai(spec: FineTuneSpec, display_name: str) -> Body:
    """The body without details.files, which the operator adds after it has uploaded them."""
    octoai = spec.backend.upstream
    assert isinstance(octoai, OctoAi)
    fields = plain(spec.recipe.parameters.wire())
    details = {
        "tune_type": "lora_tune",
        "base_checkpoint": renamed(octoai.base_checkpoint.wire(), snake),
        "steps": fields.get("steps"),
        "trigger_words": [fields["triggerWord"]] if "triggerWord" in fields else None,
        "seed": fields.get("seed"),
        "resize_images": octoai.resize_images,
    }
    return present(
        {
            "name": display_name,
            "description": octoai.description,
            "continue_on_rejection": octoai.continue_on_rejection,
            "details": present(details),
        }
    )


WIRE = Wire(marks=("details",), read=from_octoai, write=to_octoai)
