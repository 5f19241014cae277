"""Which backend takes which recipe, and which of its fields: the tables that the CRD's rules and `unsupported` read."""

from typing import Final, NamedTuple

from finetune_operator.api.backends import BACKENDS, ScenarioParameters
from finetune_operator.api.names import snake
from finetune_operator.api.recipes import RECIPE_MODELS, RECIPES

SCRIPT_TYPES: Final = {snake(recipe): recipe for recipe in RECIPES if recipe != "voice"}
"""Oxen's eight script types and the recipes that carry them."""

TRAINS: Final[dict[str, tuple[str, ...]]] = {
    "job": tuple(SCRIPT_TYPES.values()),
    "oxen": tuple(SCRIPT_TYPES.values()),
    "scenario": ("imageGeneration", "imageEditing", "multiImageEditing", "voice"),
    "bfl": ("imageGeneration",),
    "octoai": ("imageGeneration",),
}
"""Backend -> the recipes that it trains."""

DATA_FIELDS: Final = frozenset({"captionColumn", "imageColumn", "controlImageColumn", "controlImageColumns", "useLora"})
"""Recipe fields that need no name at scenario, bfl and octoai: the operator itself reads the columns to build the
provider's dataset, and every adapter there is a LoRA (`useLora: false` is refused)."""

_SCENARIO_IMAGE: Final = {
    "batchSize": "batchSize",
    "learningRate": "learningRate",
    "loraRank": "rank",
    "samples": "samplePrompts",
    "seed": "seed",
    "steps": "maxTrainSteps",
}


def _fields(recipe: str) -> tuple[str, ...]:
    return tuple(str(field.alias) for field in RECIPE_MODELS[recipe].model_fields.values())


UPSTREAM_FIELDS: Final[dict[str, dict[str, dict[str, str]]]] = {
    "oxen": {
        recipe: {field: snake(field) for field in _fields(recipe) if field not in ("seed", "triggerWord")}
        for recipe in TRAINS["oxen"]
    },
    "scenario": {
        "imageGeneration": {**_SCENARIO_IMAGE, "triggerWord": "conceptPrompt"},
        "imageEditing": _SCENARIO_IMAGE,
        "multiImageEditing": _SCENARIO_IMAGE,
        "voice": {field: field for field in _fields("voice") if field != "seed"},
    },
    "bfl": {
        "imageGeneration": {
            "learningRate": "learning_rate",
            "loraRank": "lora_rank",
            "steps": "iterations",
            "triggerWord": "trigger_word",
        }
    },
    "octoai": {"imageGeneration": {"seed": "seed", "steps": "steps", "triggerWord": "trigger_words"}},
}
"""Upstream -> recipe -> the recipe fields that it can honour, and what the provider calls them."""


BFL_BASE_MODELS: Final = ("flux-pro", "FLUX.1-pro", "FLUX.1-[pro]", "black-forest-labs/FLUX.1-pro")
"""What `baseModel` may say with bfl, which tunes one model of its own."""


class Limit(NamedTuple):
    """What a provider accepts for a recipe field, beyond the schema: bounds that include both ends, or choices."""

    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[int, ...] = ()


LIMITS: Final[dict[str, dict[str, Limit]]] = {
    "bfl": {
        "steps": Limit(100, 1000),
        "learningRate": Limit(0.000001, 0.005),
        "loraRank": Limit(choices=(16, 32)),
    },
    "scenario/flux": {"batchSize": Limit(1, 4), "loraRank": Limit(2, 64), "steps": Limit(1, 10_000)},
    "scenario/musubi": {
        "batchSize": Limit(1, 8),
        "loraRank": Limit(2, 128),
        "learningRate": Limit(0.00001, 0.001),
    },
    "scenario/stable-diffusion": {"loraRank": Limit(4, 64), "steps": Limit(1, 40_000)},
}
"""Provider, and trainer family at Scenario, -> recipe field -> what it accepts."""

SCENARIO_FAMILY_LACKS: Final[dict[str, frozenset[str]]] = {
    "flux": frozenset({"seed"}),
    "musubi": frozenset({"steps", "samples"}),
    "stable-diffusion": frozenset({"batchSize", "samples"}),
}
"""Scenario's trainer families -> the recipe fields that the others have and this one has not."""


ANY: Final = Limit()
"""No limit beyond the schema's."""

SCENARIO_PARAMETERS: Final[dict[str, dict[str, Limit]]] = {
    "flux": {
        "nbEpochs": Limit(1, 30),
        "nbRepeats": Limit(1, 30),
        "learningRateTextEncoder": Limit(0.000001, 0.001),
        "optimizeFor": ANY,
        "sampleSourceImages": ANY,
    },
    "musubi": {"nbEpochs": Limit(1, 100), "nbRepeats": Limit(1, 100)},
    "stable-diffusion": {
        str(field.alias): ANY
        for name, field in ScenarioParameters.model_fields.items()
        if name not in ("nb_epochs", "nb_repeats", "optimize_for", "sample_source_images")
    },
}
"""Scenario's trainer families -> the members of `backend.scenario.parameters` that each has, and what it accepts."""


def scenario_family(model_type: str) -> str:
    """Which of Scenario's trainers runs a model type: flux, musubi, stable-diffusion or voice."""
    if model_type == "elevenlabs-voice":
        return "voice"
    if model_type.startswith("sd-"):
        return "stable-diffusion"
    return "flux" if model_type.startswith("flux.1") else "musubi"


def backends_for(recipe: str) -> tuple[str, ...]:
    """The backends that train a recipe."""
    return tuple(backend for backend in BACKENDS if recipe in TRAINS[backend])
