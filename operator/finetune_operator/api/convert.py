"""A provider's request body into a FineTune, and back.

One mechanical rule: `control_image_columns` <-> `controlImageColumns` (`names.camel`, `names.snake`); where a provider
calls something else than the recipe does, `matrix.UPSTREAM_FIELDS` has the pair. Training files never travel in a
FineTune: a body that carries them (BFL's file_data, OctoAI's files) needs `dataset`, the URI where they are.
Every function raises ConversionError, naming the field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from finetune_operator.api.backends import BaseCheckpoint, Bfl, OctoAi, ScenarioParameters
from finetune_operator.api.matrix import BFL_BASE_MODELS, SCRIPT_TYPES, UPSTREAM_FIELDS
from finetune_operator.api.names import API_VERSION, DISPLAY_NAME_ANNOTATION, KIND, MAX_NAME_LENGTH, camel, snake
from finetune_operator.api.recipes import RECIPE_MODELS
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.unsupported import unsupported

Body = dict[str, Any]

DEFAULT_COLUMNS: Final[Mapping[str, Any]] = {
    "captionColumn": "caption",
    "imageColumn": "image",
    "controlImageColumn": "control_image",
}
"""What a dataset's columns are called where the provider's body cannot say it: it names no columns."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class ConversionError(ValueError):
    """The body, or the FineTune, says something that the other side cannot."""


# Oxen: POST /api/repos/{namespace}/{repository}/fine_tunes


def from_oxen(body: Mapping[str, Any], *, name: str, namespace: str, repository: str, secret: str) -> Body:
    """`body`: Oxen's CreateFineTuneRequest; `namespace` and `repository` come from its URL."""
    allowed = ("resource", "base_model", "script_type", "training_params", "is_public", "oxen_model_path")
    _known("", body, allowed)
    script_type = _text(body, "script_type")
    recipe = SCRIPT_TYPES.get(script_type)
    if recipe is None:
        raise ConversionError(f"script_type: {script_type!r} is not one of {', '.join(SCRIPT_TYPES)}")
    parameters = body.get("training_params") or {}
    _known("training_params.", parameters, UPSTREAM_FIELDS["oxen"][recipe].values())
    backend = {"namespace": namespace, "repository": repository, "secretRef": {"name": secret}}
    backend |= {camel(field): body[field] for field in ("is_public", "oxen_model_path") if body.get(field) is not None}
    return _fine_tune(
        name,
        {
            "baseModel": _text(body, "base_model"),
            "recipe": {recipe: _renamed(parameters, camel)},
            "dataset": {"uri": f"oxen://{namespace}/{repository}/{_text(body, 'resource')}"},
            "backend": {"oxen": backend},
        },
    )


def to_oxen(fine_tune: Mapping[str, Any], *, resource: str | None = None) -> Body:
    """`resource`: `<branch>/<path>` of the dataset in the repository, where `dataset.uri` is not already there."""
    spec = _spec(fine_tune, "oxen")
    oxen = spec.backend.oxen
    assert oxen is not None
    home = f"oxen://{oxen.namespace}/{oxen.repository}/"
    if resource is None and not spec.dataset.uri.startswith(home):
        raise ConversionError(f"dataset.uri is not in {home}; name the resource that it is uploaded to")
    parameters = _renamed(_plain(spec.recipe.parameters.wire()), snake)
    return _present(
        {
            "resource": resource or spec.dataset.uri.removeprefix(home),
            "base_model": spec.base_model,
            "script_type": snake(spec.recipe.kind),
            "training_params": parameters,
            "is_public": oxen.is_public,
            "oxen_model_path": oxen.oxen_model_path,
        }
    )


# Scenario: POST /models, then PUT /models/{id}/train


def from_scenario(
    create: Mapping[str, Any],
    train: Mapping[str, Any],
    *,
    name: str,
    secret: str,
    dataset: str,
    project_id: str | None = None,
    columns: Mapping[str, Any] = DEFAULT_COLUMNS,
) -> Body:
    """`create`, `train`: the two bodies; `dataset`: where the training pictures or recordings are."""
    _known("", create, ("name", "type", "shortDescription", "baseModelId", "classSlug", "collectionIds"))
    _known("", train, ("parameters",))
    model_type = _text(create, "type")
    recipe = _scenario_recipe(model_type)
    parameters = train.get("parameters") or {}
    if "wandbKey" in parameters:
        raise ConversionError("parameters.wandbKey: a FineTune must not contain secrets; remove it")
    names = {theirs: ours for ours, theirs in UPSTREAM_FIELDS["scenario"][recipe].items()}
    own = set() if recipe == "voice" else _aliases(ScenarioParameters)
    _known("parameters.", parameters, own | names.keys())
    fields = _columns(recipe, columns)
    fields |= {names[field]: value for field, value in parameters.items() if field in names}
    if isinstance(prompts := fields.get("samples"), list):
        fields["samples"] = [{"prompt": prompt} for prompt in prompts]
    backend = {
        "secretRef": {"name": secret},
        "projectId": project_id,
        "modelType": model_type,
        "description": create.get("shortDescription"),
        "classSlug": create.get("classSlug"),
        "collectionIds": create.get("collectionIds"),
        "parameters": {field: value for field, value in parameters.items() if field in own} or None,
    }
    return _fine_tune(
        name,
        {
            "baseModel": create.get("baseModelId") or model_type,
            "recipe": {recipe: _present(fields)},
            "dataset": {"uri": dataset},
            "backend": {"scenario": _present(backend)},
        },
        display_name=create.get("name"),
    )


def to_scenario(fine_tune: Mapping[str, Any]) -> tuple[Body, Body]:
    """The bodies of `POST /models` and of `PUT /models/{id}/train`; the pictures are attached between the two."""
    spec = _spec(fine_tune, "scenario")
    scenario = spec.backend.scenario
    assert scenario is not None
    recipe = spec.recipe.kind
    names = UPSTREAM_FIELDS["scenario"][recipe]
    fields = _plain(spec.recipe.parameters.wire())
    parameters = {names[field]: value for field, value in fields.items() if field in names}
    if "samplePrompts" in parameters:
        parameters["samplePrompts"] = [sample["prompt"] for sample in parameters["samplePrompts"]]
    own = _plain(scenario.parameters.wire()) if scenario.parameters else {}
    create = {
        "name": _display_name(fine_tune),
        "type": scenario.model_type,
        "shortDescription": scenario.description,
        # Scenario derives the base model from the type; without one of its own, baseModel repeats the type.
        "baseModelId": None if spec.base_model == scenario.model_type else spec.base_model,
        "classSlug": scenario.class_slug,
        "collectionIds": scenario.collection_ids,
    }
    return _present(create), {"parameters": parameters | own}


def _scenario_recipe(model_type: str) -> str:
    if model_type == "elevenlabs-voice":
        return "voice"
    return "imageEditing" if "edit" in model_type or "kontext" in model_type else "imageGeneration"


# Black Forest Labs: POST /v1/finetune

_BFL_BACKEND: Final = ("mode", "captioning", "priority", "finetune_type")


def from_bfl(
    body: Mapping[str, Any],
    *,
    name: str,
    secret: str,
    dataset: str,
    columns: Mapping[str, Any] = DEFAULT_COLUMNS,
) -> Body:
    """`body`: BFL's FinetuneInputs; its file_data is not carried over: `dataset` says where the pictures are."""
    names = {theirs: ours for ours, theirs in UPSTREAM_FIELDS["bfl"]["imageGeneration"].items()}
    if body.get("webhook_url") or body.get("webhook_secret"):
        raise ConversionError("webhook_url, webhook_secret: the operator polls BFL instead; remove them")
    _known("", body, [*names, *_BFL_BACKEND, "file_data", "finetune_comment", "webhook_url", "webhook_secret"])
    fields = _columns("imageGeneration", columns) | {ours: body.get(theirs) for theirs, ours in names.items()}
    backend = {camel(field): body.get(field) for field in _BFL_BACKEND}
    backend |= {"comment": body.get("finetune_comment"), "secretRef": {"name": secret}}
    return _fine_tune(
        name,
        {
            "baseModel": BFL_BASE_MODELS[0],
            "recipe": {"imageGeneration": _present(fields)},
            "dataset": {"uri": dataset},
            "backend": {"bfl": _present(backend)},
        },
    )


def to_bfl(fine_tune: Mapping[str, Any]) -> Body:
    """The body without file_data, which the operator adds when it sends it."""
    spec = _spec(fine_tune, "bfl")
    bfl = spec.backend.bfl
    assert isinstance(bfl, Bfl)
    names = UPSTREAM_FIELDS["bfl"]["imageGeneration"]
    body = {names[field]: value for field, value in _plain(spec.recipe.parameters.wire()).items() if field in names}
    body |= {field: getattr(bfl, field) for field in _BFL_BACKEND}
    return _present(body | {"finetune_comment": bfl.comment})


# OctoAI and services with its API: POST /v1/tune


def from_octoai(
    body: Mapping[str, Any],
    *,
    name: str,
    secret: str,
    base_url: str,
    dataset: str,
    columns: Mapping[str, Any] = DEFAULT_COLUMNS,
) -> Body:
    """`body`: a tune of type lora_tune; its files are not carried over: `dataset` says where the pictures are."""
    _known("", body, ("name", "description", "details", "continue_on_rejection"))
    details = _object(body, "details")
    _known("details.", details, _OCTOAI_DETAILS)
    if details.get("tune_type", "lora_tune") != "lora_tune":
        raise ConversionError(f"details.tune_type: only lora_tune is supported, not {details['tune_type']!r}")
    checkpoint = _object(details, "base_checkpoint")
    _known("details.base_checkpoint.", checkpoint, [snake(field) for field in _aliases(BaseCheckpoint)])
    trigger_words = details.get("trigger_words") or []
    if not isinstance(trigger_words, list) or len(trigger_words) > 1:
        raise ConversionError("details.trigger_words: must be a list of at most one word; the service supports no more")
    fields = {
        **_columns("imageGeneration", columns),
        "steps": details.get("steps"),
        "triggerWord": next(iter(trigger_words), None),
        "seed": details.get("seed"),
    }
    backend = {
        "baseURL": base_url,
        "secretRef": {"name": secret},
        "baseCheckpoint": _present(_renamed(checkpoint, camel)),
        "description": body.get("description"),
        "continueOnRejection": body.get("continue_on_rejection"),
        "resizeImages": details.get("resize_images"),
    }
    return _fine_tune(
        name,
        {
            "baseModel": checkpoint.get("engine") or checkpoint.get("name") or checkpoint.get("checkpoint_id"),
            "recipe": {"imageGeneration": _present(fields)},
            "dataset": {"uri": dataset},
            "backend": {"octoai": _present(backend)},
        },
        display_name=body.get("name"),
    )


def to_octoai(fine_tune: Mapping[str, Any]) -> Body:
    """The body without details.files, which the operator adds after it has uploaded them."""
    spec = _spec(fine_tune, "octoai")
    octoai = spec.backend.octoai
    assert isinstance(octoai, OctoAi)
    fields = _plain(spec.recipe.parameters.wire())
    details = {
        "tune_type": "lora_tune",
        "base_checkpoint": _renamed(octoai.base_checkpoint.wire(), snake),
        "steps": fields.get("steps"),
        "trigger_words": [fields["triggerWord"]] if "triggerWord" in fields else None,
        "seed": fields.get("seed"),
        "resize_images": octoai.resize_images,
    }
    return _present(
        {
            "name": _display_name(fine_tune),
            "description": octoai.description,
            "continue_on_rejection": octoai.continue_on_rejection,
            "details": _present(details),
        }
    )


_OCTOAI_DETAILS: Final = (
    "tune_type",
    "base_checkpoint",
    "files",
    "steps",
    "trigger_words",
    "seed",
    "resize_images",
)


# What they share


def _fine_tune(name: str, spec: Body, display_name: str | None = None) -> Body:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ConversionError(
            f"name {name!r}: must be a DNS label (a-z, 0-9, -) of at most {MAX_NAME_LENGTH} characters"
        )
    try:
        _supported(FineTuneSpec.model_validate(spec))
    except ValidationError as error:
        raise ConversionError("; ".join(_sentences(error))) from None
    metadata: Body = {"name": name}
    if display_name and display_name != name:
        metadata["annotations"] = {DISPLAY_NAME_ANNOTATION: display_name}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def _spec(fine_tune: Mapping[str, Any], backend: str) -> FineTuneSpec:
    try:
        spec = FineTuneSpec.model_validate(fine_tune.get("spec"))
    except ValidationError as error:
        raise ConversionError("; ".join(_sentences(error))) from None
    if spec.backend.kind != backend:
        raise ConversionError(f"spec.backend is {spec.backend.kind}, not {backend}")
    _supported(spec)
    return spec


def _supported(spec: FineTuneSpec) -> None:
    if findings := unsupported(spec):
        raise ConversionError("; ".join(str(finding) for finding in findings))


def _sentences(error: ValidationError) -> Iterable[str]:
    # The input itself stays out: it may be long, and hostile.
    for problem in error.errors(include_input=False, include_url=False):
        yield f"{'.'.join(str(part) for part in problem['loc']) or 'spec'}: {problem['msg']}"


def _display_name(fine_tune: Mapping[str, Any]) -> str:
    metadata = fine_tune.get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(DISPLAY_NAME_ANNOTATION) or metadata.get("name"))


def _known(prefix: str, body: Any, allowed: Iterable[str]) -> None:
    if not isinstance(body, Mapping):
        raise ConversionError(f"{prefix.rstrip('.') or 'body'}: must be an object")
    names = sorted(allowed)
    for field in body:
        if field not in names:
            close = difflib.get_close_matches(str(field), names, 1)
            hint = f"did you mean {close[0]}?" if close else f"the known fields are {', '.join(names)}"
            raise ConversionError(f"{prefix}{field}: unknown field; {hint}")


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise ConversionError(f"{field}: {'missing' if value is None else 'must be a string'}")
    return value


def _object(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = body.get(field)
    if not isinstance(value, Mapping):
        raise ConversionError(f"{field}: {'missing' if value is None else 'must be an object'}")
    return value


def _columns(recipe: str, columns: Mapping[str, Any]) -> Body:
    required = [str(field.alias) for field in RECIPE_MODELS[recipe].model_fields.values() if field.is_required()]
    if missing := [field for field in required if field not in columns]:
        raise ConversionError(f"columns: {', '.join(missing)} must be set")
    return {field: columns[field] for field in required}


def _aliases(model: type[ScenarioParameters] | type[BaseCheckpoint]) -> set[str]:
    return {str(field.alias) for field in model.model_fields.values()}


def _renamed(value: Any, rule: Any) -> Any:
    """The same JSON with every key put through `rule`, and without nulls: an absent field and a null mean the same."""
    if isinstance(value, Mapping):
        return {rule(key): _renamed(item, rule) for key, item in value.items() if item is not None}
    return [_renamed(item, rule) for item in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """The same JSON with whole numbers as integers: 1.0 was 1 in the body that it came from."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _present(body: Body) -> Body:
    return {field: value for field, value in body.items() if value is not None}
