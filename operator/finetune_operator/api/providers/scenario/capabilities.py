"""What Scenario honours, which differs between the families of its trainers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from finetune_operator.api.findings import ANY, Finding, Limit, limits, set_fields
from finetune_operator.api.providers.provider import Capabilities
from finetune_operator.api.providers.scenario.spec import Scenario
from finetune_operator.api.recipes import aliases

if TYPE_CHECKING:
    from finetune_operator.api.spec import FineTuneSpec

MAX_MUSUBI_TRIGGER: Final = 20
MAX_SAMPLES: Final = 4

_IMAGE: Final = {
    "batchSize": "batchSize",
    "learningRate": "learningRate",
    "loraRank": "rank",
    "samples": "samplePrompts",
    "seed": "seed",
    "steps": "maxTrainSteps",
}
FIELDS: Final = {
    "imageGeneration": {**_IMAGE, "triggerWord": "conceptPrompt"},
    "imageEditing": _IMAGE,
    "multiImageEditing": _IMAGE,
    "voice": {field: field for field in aliases("voice") if field != "seed"},
}
LIMITS: Final[Mapping[str, Mapping[str, Limit]]] = {
    "flux": {"batchSize": Limit(1, 4), "loraRank": Limit(2, 64), "steps": Limit(1, 10_000)},
    "musubi": {
        "batchSize": Limit(1, 8),
        "loraRank": Limit(2, 128),
        "learningRate": Limit(0.00001, 0.001),
    },
    "sd-1.5": {"steps": Limit(1, 40_000)},
    "sd-xl": {"loraRank": Limit(4, 64), "steps": Limit(1, 40_000)},
}
"""Trainer family -> recipe field -> what it accepts."""
FAMILY_LACKS: Final[Mapping[str, frozenset[str]]] = {
    "flux": frozenset({"seed"}),
    "musubi": frozenset({"steps", "samples"}),
    "sd-1.5": frozenset({"batchSize", "samples", "loraRank"}),
    "sd-xl": frozenset({"batchSize", "samples"}),
}
"""Trainer family -> the recipe fields that the others have and this one has not."""
_STABLE_DIFFUSION: Final[Mapping[str, Limit]] = dict.fromkeys(
    (
        "lrScheduler",
        "priorLossWeight",
        "randomCrop",
        "randomCropRatio",
        "randomCropScale",
        "scaleLr",
        "textEncoderTrainingRatio",
        "validationFrequency",
        "validationPrompt",
    ),
    ANY,
)
"""What the trainers of SD 1.5 and SDXL share (swagger of 2025-11-04, "Only available for …")."""
PARAMETERS: Final[Mapping[str, Mapping[str, Limit]]] = {
    "flux": {
        "nbEpochs": Limit(1, 30),
        "nbRepeats": Limit(1, 30),
        "learningRateTextEncoder": Limit(0.000001, 0.001),
        "optimizeFor": ANY,
        "sampleSourceImages": ANY,
    },
    "musubi": {"nbEpochs": Limit(1, 100), "nbRepeats": Limit(1, 100)},
    "sd-1.5": {**_STABLE_DIFFUSION, "classPrompt": ANY},
    "sd-xl": {
        **_STABLE_DIFFUSION,
        "learningRateTextEncoder": ANY,
        "learningRateUnet": ANY,
        "numTextTrainSteps": ANY,
        "numUNetTrainSteps": ANY,
    },
}
"""Trainer family -> the members of `backend.scenario.parameters` that it has, and what it accepts."""
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Scenario's number of Flux and Stable Diffusion steps depends on the number of images: it is left to Scenario.
    "flux": {"learningRate": 0.0001, "loraRank": 16},
    "musubi": {"batchSize": 1, "learningRate": 0.00005, "loraRank": 64},
    "sd-1.5": {"learningRate": 0.000005},
    "sd-xl": {"learningRate": 0.000005},
    "voice": {},
}


def family(model_type: str) -> str:
    """Which of Scenario's trainers runs a model type: flux, musubi, sd-1.5, sd-xl or voice."""
    if model_type == "elevenlabs-voice":
        return "voice"
    if model_type.startswith("sd-"):
        return "sd-1.5" if model_type.startswith("sd-1") else "sd-xl"
    return "flux" if model_type.startswith("flux.1") else "musubi"


def default_steps(model_type: str, pictures: int) -> int | None:
    """How many steps Scenario trains where the recipe names none; None where that is not documented."""
    return {"sd-1.5": round(pictures * 225 / 3), "sd-xl": pictures * 175}.get(family(model_type))


def too_seldom(spec: FineTuneSpec, steps: int | None) -> str | None:
    """What is wrong with validationFrequency, which Scenario refuses beyond the number of steps; None: nothing."""
    parameters = _member(spec).parameters
    frequency = parameters.validation_frequency if parameters is not None else None
    if frequency is None or steps is None or frequency <= steps:
        return None
    return f"must be at most the number of steps, which is {steps}, but is {frequency}"


def _defaults(spec: FineTuneSpec) -> Mapping[str, Any]:
    return _DEFAULTS["voice" if spec.recipe.kind == "voice" else family(_member(spec).model_type)]


def _check(spec: FineTuneSpec) -> Iterator[Finding]:
    scenario, recipe = _member(spec), spec.recipe.kind
    trainer = family(scenario.model_type)
    yield from _model_type(scenario.model_type, recipe)
    if trainer == "voice" or recipe == "voice":
        if scenario.parameters is not None:
            yield Finding(
                "backend.scenario.parameters",
                "recipe voice does not support any of them; remove parameters and use the fields of recipe.voice",
            )
        return
    yield from _parameters(scenario, trainer)
    yield from _across(spec, scenario)
    yield from _recipe(spec, scenario.model_type, trainer)


def _recipe(spec: FineTuneSpec, model_type: str, trainer: str) -> Iterator[Finding]:
    recipe, fields = spec.recipe.kind, set_fields(spec)
    for field in sorted(FAMILY_LACKS[trainer] & fields.keys()):
        yield Finding(f"recipe.{recipe}.{field}", f"model type {model_type} does not support this parameter; remove it")
    yield from limits(f"model type {model_type}", LIMITS[trainer], spec)
    if len(fields.get("samples") or ()) > MAX_SAMPLES:
        yield Finding(f"recipe.{recipe}.samples", f"backend scenario supports at most {MAX_SAMPLES} samples")
    if any(set(sample) - {"prompt"} for sample in fields.get("samples") or ()):
        yield Finding(
            f"recipe.{recipe}.samples",
            "backend scenario takes IDs of assets, not addresses; upload the images and put their IDs into "
            "backend.scenario.parameters.sampleSourceImages",
        )
    if trainer == "musubi" and len(fields.get("triggerWord") or "") > MAX_MUSUBI_TRIGGER:
        yield Finding(
            f"recipe.{recipe}.triggerWord",
            f"must have at most {MAX_MUSUBI_TRIGGER} characters with model type {model_type}",
        )
    if len(fields.get("controlImageColumns") or (1,)) != 1:
        yield Finding(
            f"recipe.{recipe}.controlImageColumns",
            "backend scenario trains on pairs of images; name exactly one column, or use backend job",
        )


def _model_type(model_type: str, recipe: str) -> Iterator[Finding]:
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


def _parameters(scenario: Scenario, trainer: str) -> Iterator[Finding]:
    for field, value in (scenario.parameters.wire() if scenario.parameters else {}).items():
        path = f"backend.scenario.parameters.{field}"
        limit = PARAMETERS[trainer].get(field)
        if limit is None:
            yield Finding(path, f"model type {scenario.model_type} does not support this parameter; remove it")
        elif wish := limit != ANY and limit.wish(value):
            yield Finding(path, f"must be {wish} with model type {scenario.model_type}, but is {value}")


def _across(spec: FineTuneSpec, scenario: Scenario) -> Iterator[Finding]:
    """What recipe and parameters must agree on."""
    fields, path = set_fields(spec), "backend.scenario.parameters"
    sources = scenario.parameters.sample_source_images if scenario.parameters is not None else None
    samples = len(fields.get("samples") or ())
    if sources is not None and len(sources) != samples:
        yield Finding(
            f"{path}.sampleSourceImages",
            f"must have one ID for each of recipe.{spec.recipe.kind}.samples, which has {samples}, but has "
            f"{len(sources)}",
        )
    if wrong := too_seldom(spec, fields.get("steps")):
        yield Finding(f"{path}.validationFrequency", wrong)


def _member(spec: FineTuneSpec) -> Scenario:
    member = spec.backend.upstream
    assert isinstance(member, Scenario)
    return member


CAPABILITIES: Final = Capabilities(
    backend=Scenario,
    secret_keys=(("api-key", "api-secret"), ("token",)),
    fields=FIELDS,
    check=_check,
    defaults=_defaults,
)
