"""From flags and files to a FineTune that is right before it is sent. Pure.

Every function raises UsageError, naming the field and the way out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from finetune_operator.api.backends import BACKENDS
from finetune_operator.api.matrix import TRAINS
from finetune_operator.api.names import API_VERSION, KIND, PRIORITY_CLASS_LABEL, QUEUE_LABEL, camel
from finetune_operator.api.objects import Object
from finetune_operator.api.recipes import RECIPES
from finetune_operator.api.spec import FineTuneSpec
from finetune_operator.api.unsupported import unsupported
from finetune_operator.cli.errors import UsageError
from finetune_operator.cli.output.table import backend_of, recipe_of
from finetune_operator.cli.submit import validation
from finetune_operator.cli.submit.assignments import Schema, assign, split_assignment
from finetune_operator.cli.submit.yaml_files import documents

SIMPLE: Mapping[str, str] = {
    "model": "baseModel",
    "model_secret": "modelSecretRef.name",
    "dataset": "dataset.uri",
    "dataset_secret": "dataset.secretRef.name",
    "output": "output.uri",
    "output_secret": "output.secretRef.name",
    "run": "run",
    "deadline": "activeDeadlineSeconds",
    "ttl": "ttlSecondsAfterFinished",
}
"""Flags of submit, and the member of the spec that each sets."""
OF_BACKEND: Mapping[str, str] = {
    "gpus": "gpus",
    "gpu_resource": "gpuResourceName",
    "image": "image",
    "storage": "storage.size",
    "storage_class": "storage.storageClassName",
    "storage_claim": "storage.claimName",
    "cache_claim": "cache.claimName",
    "secret": "secretRef.name",
}
"""Flags of submit, and the member of the chosen backend that each sets."""


@dataclass(frozen=True, slots=True)
class SubmitFlags:
    """What the flags say. `values`: by the names in SIMPLE and OF_BACKEND; None where a flag was not given."""

    name: str | None = None
    recipe: str | None = None
    backend: str | None = None
    parameters: Sequence[str] = ()
    backend_parameters: Sequence[str] = ()
    settings: Sequence[str] = ()
    labels: Sequence[str] = ()
    queue: str | None = None
    priority_class: str | None = None
    suspend: bool = False
    values: Mapping[str, str | None] = field(default_factory=dict)


def from_file(text: str, source: str) -> Object:
    """The one FineTune of a YAML or JSON file."""
    finetunes = [each for each in documents(text, source) if isinstance(each, dict) and each.get("kind") == KIND]
    if len(finetunes) != 1:
        raise UsageError(
            f"{source}: holds {len(finetunes) or 'no'} FineTunes, must be one",
            "For files with more, or with other objects: kubectl apply -f.",
        )
    found: Object = finetunes[0]
    if found.get("apiVersion") != API_VERSION:
        raise UsageError(
            f"{source}: apiVersion {found.get('apiVersion')}: must be {API_VERSION}",
            f"Write apiVersion: {API_VERSION}, or take the version of kubectl-finetune that speaks the other.",
        )
    if not isinstance(found.setdefault("metadata", {}), dict) or not isinstance(found.get("spec"), dict):
        raise UsageError(
            f"{source}: metadata and spec must be objects", "A whole one to begin with: `submit … --dry-run` prints it."
        )
    return found


def built(flags: SubmitFlags, start: Object | None = None) -> Object:
    """A FineTune: `start` (of a file) with the flags over it. It is not checked yet."""
    finetune = start or {"apiVersion": API_VERSION, "kind": KIND, "metadata": {}, "spec": {}}
    metadata: Object = finetune["metadata"]
    if flags.name:
        metadata["name"] = flags.name
        metadata.pop("generateName", None)
    _label(metadata, flags)
    finetune["spec"] = changed(finetune["spec"], flags)
    return finetune


def changed(spec: Object, flags: SubmitFlags) -> Object:
    """A spec with the flags over it."""
    schema: Schema = FineTuneSpec.model_json_schema(by_alias=True)
    recipe, backend = _chosen_recipe(spec, flags), _chosen_backend(spec, flags)
    for flag, path in SIMPLE.items():
        if (value := flags.values.get(flag)) is not None:
            assign(spec, schema, path, value, _flag(flag))
    for flag, path in OF_BACKEND.items():
        if (value := flags.values.get(flag)) is not None:
            assign(spec, schema, path, value, _flag(flag), ("backend", _needed(backend, "backend")))
    for member, name, texts, flag in (
        ("recipe", recipe, flags.parameters, "--param"),
        ("backend", backend, flags.backend_parameters, "--backend-param"),
    ):
        for text in texts:
            path, value = split_assignment(text, flag)
            assign(spec, schema, path, value, flag, (member, _needed(name, member)))
    for text in flags.settings:
        path, value = split_assignment(text, "--set")
        assign(spec, schema, path.removeprefix("spec."), value)
    if flags.suspend:
        spec["suspend"] = True
    order = {str(field.alias): place for place, field in enumerate(FineTuneSpec.model_fields.values())}
    return dict(sorted(spec.items(), key=lambda item: order.get(item[0], len(order))))


def checked(finetune: Mapping[str, Any]) -> FineTuneSpec:
    """The spec, once it is complete and its backend can honour it."""
    if lacks := validation.missing(finetune):
        raise lacks
    spec = finetune["spec"]
    try:
        parsed = FineTuneSpec.model_validate(spec)
    except ValidationError as error:
        raise validation.invalid(error, spec) from None
    if findings := list(unsupported(parsed)):
        raise validation.unsupported(findings)
    return parsed


def _label(metadata: Object, flags: SubmitFlags) -> None:
    given = [split_assignment(text, "--label") for text in flags.labels]
    given += [(QUEUE_LABEL, flags.queue)] if flags.queue else []
    given += [(PRIORITY_CLASS_LABEL, flags.priority_class)] if flags.priority_class else []
    if given:
        metadata["labels"] = {**(metadata.get("labels") or {}), **dict(given)}


def _chosen_recipe(spec: Object, flags: SubmitFlags) -> str | None:
    there = recipe_of(spec)
    if flags.recipe is None:
        return there or None
    recipe = camel(flags.recipe)
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {flags.recipe}: there is none of that name", f"Known are {', '.join(RECIPES)}.")
    if there != recipe:
        spec["recipe"] = {recipe: {}}
    return recipe


def _chosen_backend(spec: Object, flags: SubmitFlags) -> str | None:
    there = backend_of(spec)
    backend = flags.backend or there or "job"
    if backend not in BACKENDS:
        raise UsageError(f"--backend {backend}: there is none of that name", f"Known are {', '.join(BACKENDS)}.")
    if there != backend:
        spec["backend"] = {backend: {}}
    if (recipe := recipe_of(spec)) and recipe in RECIPES and recipe not in TRAINS[backend]:
        able = ", ".join(name for name in BACKENDS if recipe in TRAINS[name])
        raise UsageError(f"backend {backend} does not train {recipe}", f"Give --backend: {able}.")
    return backend


def _needed(name: str | None, member: str) -> str:
    if name is None:
        raise UsageError(f"parameters of the {member} need a {member}", f"Give --{member}.")
    return name


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
