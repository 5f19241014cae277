"""What a backend does not support of a valid spec. Nothing that the user set is silently ignored.

Pure: the operator turns the findings into `Accepted=False`, the command line prints them before anything is applied.
Some are also rules of the CRD, so that the API server says them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

from finetune_operator.api.backends import Bfl, JobBackend, OctoAi, Oxen, Scenario
from finetune_operator.api.matrix import (
    ANY,
    BFL_BASE_MODELS,
    DATA_FIELDS,
    LIMITS,
    SCENARIO_FAMILY_LACKS,
    SCENARIO_PARAMETERS,
    TRAINS,
    UPSTREAM_FIELDS,
    Limit,
    backends_for,
    scenario_family,
)
from finetune_operator.api.spec import MODEL_OF_PROVIDER, FineTuneSpec

MAX_MUSUBI_TRIGGER: Final = 20
MAX_SCENARIO_SAMPLES: Final = 4


_Backend = TypeVar("_Backend", JobBackend, Oxen, Scenario, Bfl, OctoAi)


class Finding(NamedTuple):
    """A field by its path below `spec`, and a sentence that says what is wrong and what to do."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"spec.{self.field}: {self.message}"


def unsupported(spec: FineTuneSpec) -> list[Finding]:
    """Everything in the spec that its backend cannot honour, in the order of the checks; empty when all is well."""
    backend, recipe = spec.backend.kind, spec.recipe.kind
    if recipe not in TRAINS[backend]:
        return [
            Finding(
                "recipe", f"backend {backend} does not support recipe {recipe}; use backend {_or(backends_for(recipe))}"
            )
        ]
    checks: tuple[Check, ...] = (_locations, _CHECKS[backend])
    return [finding for check in checks for finding in check(spec)]


Check = Callable[[FineTuneSpec], Iterator[Finding]]


def _locations(spec: FineTuneSpec) -> Iterator[Finding]:
    if spec.dataset.secret_ref and spec.dataset.uri.startswith(("pvc://", "https://")):
        yield Finding(
            "dataset.secretRef",
            "pvc:// and https:// datasets are read without credentials; remove secretRef, or use an s3:// dataset",
        )
    if spec.output and spec.output.secret_ref and spec.output.uri.startswith("pvc://"):
        yield Finding("output.secretRef", "a pvc:// output is written without credentials; remove secretRef")
    if spec.model_secret_ref and spec.base_model.startswith("pvc://"):
        yield Finding("modelSecretRef", "a pvc:// base model is read without credentials; remove modelSecretRef")


def _job(spec: FineTuneSpec) -> Iterator[Finding]:
    job = _member(spec, JobBackend)
    if job.storage is None and spec.output is None:
        yield Finding("backend.job.storage", "the result would be lost with the pod; set storage or spec.output")
    for kind in ("requests", "limits"):
        quantities = getattr(job.resources, kind, None) or {}
        if job.gpu_resource_name in quantities:
            yield Finding(f"backend.job.resources.{kind}", f"set {job.gpu_resource_name} with backend.job.gpus instead")
    if spec.deletion_policy == "Orphan":
        yield Finding(
            "deletionPolicy",
            "Orphan is for runs at a provider; a Job is deleted with its FineTune. Remove deletionPolicy",
        )


def _upstream(spec: FineTuneSpec) -> Iterator[Finding]:
    for path, uri in (
        ("baseModel", spec.base_model),
        ("dataset.uri", spec.dataset.uri),
        ("output.uri", spec.output.uri if spec.output else ""),
    ):
        if uri.startswith("pvc://"):
            instead = MODEL_OF_PROVIDER if path == "baseModel" else "s3:// or hf://"
            yield Finding(path, f"backend {spec.backend.kind} cannot use a claim in this cluster; use {instead}")
    if spec.model_secret_ref:
        yield Finding("modelSecretRef", f"backend {spec.backend.kind} uses its own base models; remove modelSecretRef")
    yield from _unknown_fields(spec)


def _unknown_fields(spec: FineTuneSpec) -> Iterator[Finding]:
    backend, recipe = spec.backend.kind, spec.recipe.kind
    honoured = set(UPSTREAM_FIELDS[backend][recipe])
    if backend != "oxen":
        honoured |= DATA_FIELDS
    for field in set_fields(spec):
        if field not in honoured:
            yield Finding(f"recipe.{recipe}.{field}", f"backend {backend} does not support this parameter; remove it")
    if backend != "oxen" and set_fields(spec).get("useLora") is False:
        yield Finding(f"recipe.{recipe}.useLora", f"backend {backend} trains LoRA adapters only; remove useLora")


def _oxen(spec: FineTuneSpec) -> Iterator[Finding]:
    oxen = _member(spec, Oxen)
    yield from _upstream(spec)
    here = f"oxen://{oxen.namespace}/{oxen.repository}/"
    if spec.dataset.uri.startswith("oxen://") and not spec.dataset.uri.startswith(here):
        yield Finding("dataset.uri", f"must be in the repository of the run: {here}<branch>/<path>")


def _scenario(spec: FineTuneSpec) -> Iterator[Finding]:
    scenario = _member(spec, Scenario)
    recipe, family = spec.recipe.kind, scenario_family(scenario.model_type)
    yield from _upstream(spec)
    yield from _scenario_model_type(scenario.model_type, recipe)
    if family == "voice" or recipe == "voice":
        if scenario.parameters is not None:
            yield Finding(
                "backend.scenario.parameters",
                "recipe voice does not support any of them; remove parameters and use the fields of recipe.voice",
            )
        return
    yield from _scenario_parameters(scenario, family)
    fields = set_fields(spec)
    for field in sorted(SCENARIO_FAMILY_LACKS[family] & fields.keys()):
        yield Finding(
            f"recipe.{recipe}.{field}", f"model type {scenario.model_type} does not support this parameter; remove it"
        )
    yield from _limits(f"scenario/{family}", spec, f"model type {scenario.model_type}")
    if len(fields.get("samples") or ()) > MAX_SCENARIO_SAMPLES:
        yield Finding(f"recipe.{recipe}.samples", f"backend scenario supports at most {MAX_SCENARIO_SAMPLES} samples")
    if any(set(sample) - {"prompt"} for sample in fields.get("samples") or ()):
        yield Finding(
            f"recipe.{recipe}.samples",
            "backend scenario takes IDs of assets, not addresses; upload the images and put their IDs into "
            "backend.scenario.parameters.sampleSourceImages",
        )
    if family == "musubi" and len(fields.get("triggerWord") or "") > MAX_MUSUBI_TRIGGER:
        yield Finding(
            f"recipe.{recipe}.triggerWord",
            f"must have at most {MAX_MUSUBI_TRIGGER} characters with model type {scenario.model_type}",
        )
    if len(fields.get("controlImageColumns") or (1,)) != 1:
        yield Finding(
            f"recipe.{recipe}.controlImageColumns",
            "backend scenario trains on pairs of images; name exactly one column, or use backend job",
        )


def _scenario_model_type(model_type: str, recipe: str) -> Iterator[Finding]:
    path = "backend.scenario.modelType"
    if (model_type == "elevenlabs-voice") != (recipe == "voice"):
        yield Finding(
            path, "elevenlabs-voice can be used with recipe voice only, and recipe voice with elevenlabs-voice only"
        )
    elif recipe != "voice" and not model_type.endswith("-lora"):
        yield Finding(path, f"{model_type} cannot be trained; use a model type that ends in -lora, such as flux.1-lora")
    elif recipe != "voice":
        edits = "edit" in model_type or "kontext" in model_type
        if edits != (recipe != "imageGeneration"):
            wanted = "for editing, such as flux.1-kontext-lora" if not edits else "for generation, such as flux.1-lora"
            yield Finding(path, f"recipe {recipe} requires a model type {wanted}")


def _scenario_parameters(scenario: Scenario, family: str) -> Iterator[Finding]:
    for field, value in (scenario.parameters.wire() if scenario.parameters else {}).items():
        path = f"backend.scenario.parameters.{field}"
        limit = SCENARIO_PARAMETERS[family].get(field)
        if limit is None:
            yield Finding(path, f"model type {scenario.model_type} does not support this parameter; remove it")
        elif wish := limit != ANY and _outside(limit, value):
            yield Finding(path, f"must be {wish} with model type {scenario.model_type}, but is {value}")


def _bfl(spec: FineTuneSpec) -> Iterator[Finding]:
    _member(spec, Bfl)
    yield from _upstream(spec)
    if spec.base_model not in BFL_BASE_MODELS:
        yield Finding("baseModel", f"backend bfl fine-tunes its own model only; use {BFL_BASE_MODELS[0]}")
    yield from _limits("bfl", spec, "backend bfl")


def _octoai(spec: FineTuneSpec) -> Iterator[Finding]:
    checkpoint = _member(spec, OctoAi).base_checkpoint
    yield from _upstream(spec)
    names = [name for name in (checkpoint.checkpoint_id, checkpoint.name, checkpoint.engine) if name]
    if spec.base_model not in names:
        yield Finding("baseModel", f"must name the checkpoint in backend.octoai.baseCheckpoint; use {_or(names)}")
    for field in ("steps", "triggerWord"):
        if field not in set_fields(spec):
            yield Finding(f"recipe.{spec.recipe.kind}.{field}", "backend octoai requires this parameter; set it")


def _limits(table: str, spec: FineTuneSpec, where: str) -> Iterator[Finding]:
    fields = set_fields(spec)
    for field, limit in LIMITS[table].items():
        if (value := fields.get(field)) is not None and (wish := _outside(limit, value)):
            yield Finding(f"recipe.{spec.recipe.kind}.{field}", f"must be {wish} with {where}, but is {value}")


def _outside(limit: Limit, value: float) -> str | None:
    if limit.choices:
        return None if value in limit.choices else _or([str(choice) for choice in limit.choices])
    low, high = limit.minimum, limit.maximum
    inside = (low is None or value >= low) and (high is None or value <= high)
    return None if inside else f"between {low} and {high}"


def set_fields(spec: FineTuneSpec) -> dict[str, Any]:
    """The recipe fields that the user has set, by their names on the wire."""
    return spec.recipe.parameters.wire()


def _or(words: list[str] | tuple[str, ...]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _member(spec: FineTuneSpec, kind: type[_Backend]) -> _Backend:
    member = getattr(spec.backend, spec.backend.kind)
    assert isinstance(member, kind)
    return member


_CHECKS: Final[dict[str, Check]] = {
    "job": _job,
    "oxen": _oxen,
    "scenario": _scenario,
    "bfl": _bfl,
    "octoai": _octoai,
}
