"""Oxen's CreateFineTuneRequest: `POST /api/repos/{namespace}/{repository}/fine_tunes`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_operator.api.names import camel, snake
from finetune_operator.api.providers.oxen.capabilities import FIELDS, SCRIPT_TYPES
from finetune_operator.api.providers.oxen.spec import Oxen
from finetune_operator.api.providers.wire import (
    Answers,
    Body,
    ConversionError,
    Converted,
    Unanswered,
    Wire,
    known,
    plain,
    present,
    renamed,
    text,
)

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec


def from_oxen(found: Mapping[str, Any], body: Mapping[str, Any], answers: Answers) -> Converted:  # noqa: ARG001
    """The repository comes from the request's URL."""
    namespace, repository = _repository(answers)
    allowed = ("resource", "base_model", "script_type", "training_params", "is_public", "oxen_model_path")
    known("", body, allowed)
    script_type = text(body, "script_type")
    recipe = SCRIPT_TYPES.get(script_type)
    if recipe is None:
        raise ConversionError(f"script_type: {script_type!r} is not one of {', '.join(SCRIPT_TYPES)}")
    parameters = body.get("training_params") or {}
    known("training_params.", parameters, FIELDS[recipe].values())
    backend = {"namespace": namespace, "repository": repository, "secretRef": {"name": answers.secret}}
    backend |= {camel(field): body[field] for field in ("is_public", "oxen_model_path") if body.get(field) is not None}
    return Converted(
        {
            "baseModel": text(body, "base_model"),
            "recipe": {recipe: renamed(parameters, camel)},
            "dataset": {"uri": f"oxen://{namespace}/{repository}/{text(body, 'resource')}"},
            "backend": {"oxen": backend},
        }
    )


def to_oxen(spec: FineTuneSpec, *, resource: str | None = None) -> Body:
    """`resource`: `<branch>/<path>` of the dataset in the repository, where `dataset.uri` is not already there."""
    oxen = spec.backend.upstream
    assert isinstance(oxen, Oxen)
    home = f"oxen://{oxen.namespace}/{oxen.repository}/"
    if resource is None and not spec.dataset.uri.startswith(home):
        raise ConversionError(f"dataset.uri is not in {home}; name the resource that it is uploaded to")
    return present(
        {
            "resource": resource or spec.dataset.uri.removeprefix(home),
            "base_model": spec.base_model,
            "script_type": snake(spec.recipe.kind),
            "training_params": renamed(plain(spec.recipe.parameters.wire()), snake),
            "is_public": oxen.is_public,
            "oxen_model_path": oxen.oxen_model_path,
        }
    )


def _repository(answers: Answers) -> tuple[str, str]:
    found = re.search(r"/api/repos/([^/]+)/([^/]+)/fine_tunes", answers.url)
    given = answers.repository or (f"{found[1]}/{found[2]}" if found else "")
    namespace, slash, repository = given.partition("/")
    if not slash or not namespace or not repository:
        raise Unanswered("the body does not say which repository it is for", "Give --repository NAMESPACE/NAME.")
    return namespace, repository


WIRE = Wire(marks=("script_type",), read=from_oxen, write=lambda spec, _name: to_oxen(spec))
