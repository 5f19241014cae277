"""Scenario's two requests: `POST /models`, then `PUT /models/{id}/train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from finetune_operator.api.providers.scenario.capabilities import FIELDS
from finetune_operator.api.providers.scenario.spec import Scenario, ScenarioParameters
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
    plain,
    present,
    text,
)

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec


def from_scenario(found: Mapping[str, Any], body: Mapping[str, Any], answers: Answers) -> Converted:
    """`found`: `{"create": …, "train": …}`; or `body` is that of the training, and the other one an answer."""
    dataset = answers.training_files()
    create, train = _both(found, body, answers)
    project = answers.project or next(iter(parse_qs(urlsplit(answers.url).query).get("projectId", ())), None)
    known("", create, ("name", "type", "shortDescription", "baseModelId", "classSlug", "collectionIds"))
    known("", train, ("parameters",))
    model_type = text(create, "type")
    recipe = _recipe(model_type)
    parameters = train.get("parameters") or {}
    if "wandbKey" in parameters:
        raise ConversionError("parameters.wandbKey: a FineTune must not contain secrets; remove it")
    names = {theirs: ours for ours, theirs in FIELDS[recipe].items()}
    own = set() if recipe == "voice" else aliases_of(ScenarioParameters)
    known("parameters.", parameters, own | names.keys())
    fields = columns_of(recipe, answers.columns)
    fields |= {names[field]: value for field, value in parameters.items() if field in names}
    if isinstance(prompts := fields.get("samples"), list):
        fields["samples"] = [{"prompt": prompt} for prompt in prompts]
    backend = {
        "secretRef": {"name": answers.secret},
        "projectId": project,
        "modelType": model_type,
        "description": create.get("shortDescription"),
        "classSlug": create.get("classSlug"),
        "collectionIds": create.get("collectionIds"),
        "parameters": {field: value for field, value in parameters.items() if field in own} or None,
    }
    return Converted(
        {
            "baseModel": create.get("baseModelId") or model_type,
            "recipe": {recipe: present(fields)},
            "dataset": {"uri": dataset},
            "backend": {"scenario": present(backend)},
        },
        create.get("name"),
    )


def to_scenario(spec: FineTuneSpec, display_name: str) -> tuple[Body, Body]:
    """The bodies of `POST /models` and of `PUT /models/{id}/train`; the pictures are attached between the two."""
    scenario = spec.backend.upstream
    assert isinstance(scenario, Scenario)
    names = FIELDS[spec.recipe.kind]
    fields = plain(spec.recipe.parameters.wire())
    parameters = {names[field]: value for field, value in fields.items() if field in names}
    if "samplePrompts" in parameters:
        parameters["samplePrompts"] = [sample["prompt"] for sample in parameters["samplePrompts"]]
    own = plain(scenario.parameters.wire()) if scenario.parameters else {}
    create = {
        "name": display_name,
        "type": scenario.model_type,
        "shortDescription": scenario.description,
        # Scenario derives the base model from the type; without one of its own, baseModel repeats the type.
        "baseModelId": None if spec.base_model == scenario.model_type else spec.base_model,
        "classSlug": scenario.class_slug,
        "collectionIds": scenario.collection_ids,
    }
    return present(create), {"parameters": parameters | own}


def _both(
    found: Mapping[str, Any], body: Mapping[str, Any], answers: Answers
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    create = answers.create or found.get("create")
    train = found.get("train") if "train" in found else body
    if not isinstance(create, Mapping) or not isinstance(train, Mapping):
        raise Unanswered(
            "Scenario's training has two bodies", 'Give --create FILE for POST /models, or {"create": …, "train": …}.'
        )
    return create, train


def _recipe(model_type: str) -> str:
    if model_type == "elevenlabs-voice":
        return "voice"
    return "imageEditing" if "edit" in model_type or "kontext" in model_type else "imageGeneration"


def _write(spec: FineTuneSpec, display_name: str) -> Body:
    create, train = to_scenario(spec, display_name)
    return {"create": create, "train": train}


WIRE = Wire(marks=("parameters", "create", "train"), read=from_scenario, write=_write)
