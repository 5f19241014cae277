"""Black Forest Labs' FinetuneInputs: `POST /v1/finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.names import camel
from finetune_operator.api.providers.bfl.capabilities import BASE_MODELS, FIELDS
from finetune_operator.api.providers.bfl.spec import Bfl
from finetune_operator.api.providers.wire import (
    Answers,
    Body,
    ConversionError,
    Converted,
    Wire,
    columns_of,
    known,
    plain,
    present,
)

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

RECIPE: Final = "imageGeneration"
_BACKEND: Final = ("mode", "captioning", "priority", "finetune_type")


def from_bfl(found: Mapping[str, Any], body: Mapping[str, Any], answers: Answers) -> Converted:  # noqa: ARG001
    """The body's file_data is not carried over: `answers.dataset` says where the pictures are."""
    dataset = answers.training_files()
    names = {theirs: ours for ours, theirs in FIELDS[RECIPE].items()}
    if body.get("webhook_url") or body.get("webhook_secret"):
        raise ConversionError("webhook_url, webhook_secret: the operator polls BFL instead; remove them")
    known("", body, [*names, *_BACKEND, "file_data", "finetune_comment", "webhook_url", "webhook_secret"])
    fields = columns_of(RECIPE, answers.columns) | {ours: body.get(theirs) for theirs, ours in names.items()}
    backend = {camel(field): body.get(field) for field in _BACKEND}
    backend |= {"comment": body.get("finetune_comment"), "secretRef": {"name": answers.secret}}
    return Converted(
        {
            "baseModel": BASE_MODELS[0],
            "recipe": {RECIPE: present(fields)},
            "dataset": {"uri": dataset},
            "backend": {"bfl": present(backend)},
        }
    )


def to_bfl(spec: FineTuneSpec) -> Body:
    """The body without file_data, which the operator adds when it sends it."""
    bfl = spec.backend.upstream
    assert isinstance(bfl, Bfl)
    names = FIELDS[RECIPE]
    body = {names[field]: value for field, value in plain(spec.recipe.parameters.wire()).items() if field in names}
    body |= {field: getattr(bfl, field) for field in _BACKEND}
    return present(body | {"finetune_comment": bfl.comment})


WIRE = Wire(
    marks=("finetune_comment", "file_data", "mode", "iterations"),
    read=from_bfl,
    write=lambda spec, _name: to_bfl(spec),
)
