"""Every documented default of a recipe, applied once per run, so that an upgrade of the operator changes no run."""

from typing import Any, Final

from finetune_operator.api.matrix import scenario_family
from finetune_operator.api.recipes import DOCUMENTED_DEFAULT, RECIPE_MODELS
from finetune_operator.api.spec import FineTuneSpec

_OXEN: Final[dict[str, dict[str, Any]]] = {
    recipe: {
        str(field.alias): field.json_schema_extra[DOCUMENTED_DEFAULT]
        for field in model.model_fields.values()
        if isinstance(field.json_schema_extra, dict) and DOCUMENTED_DEFAULT in field.json_schema_extra
    }
    for recipe, model in RECIPE_MODELS.items()
}
_JOB: Final[dict[str, Any]] = {"seed": 42}
_JOB_VIDEO: Final[dict[str, Any]] = {"useLora": True}
_SCENARIO: Final[dict[str, dict[str, Any]]] = {
    # Scenario's number of Flux and Stable Diffusion steps depends on the number of images: it is left to Scenario.
    "flux": {"learningRate": 0.0001, "loraRank": 16},
    "musubi": {"batchSize": 1, "learningRate": 0.00005, "loraRank": 64},
    "stable-diffusion": {"learningRate": 0.000005},
    "voice": {},
}
_BFL_LEARNING_RATE: Final = {"full": 0.00001, "lora": 0.0001}


def resolve_parameters(spec: FineTuneSpec) -> dict[str, Any]:
    """The recipe's parameters by their names on the wire: what the user set over what is documented for the backend.

    Pure. Parameters whose default only the provider knows stay absent. Resolving a resolved recipe changes nothing.
    """
    return {**_documented(spec), **spec.recipe.parameters.wire()}


def resolve_recipe(spec: FineTuneSpec) -> dict[str, dict[str, Any]]:
    """`{"imageToText": {...}}`: the resolved parameters under the recipe's name, as the trainer's config holds them."""
    return {spec.recipe.kind: resolve_parameters(spec)}


def _documented(spec: FineTuneSpec) -> dict[str, Any]:
    backend, recipe = spec.backend, spec.recipe.kind
    if backend.job:
        return {**_OXEN[recipe], **_JOB, **(_JOB_VIDEO if recipe in ("imageToVideo", "textToVideo") else {})}
    if backend.oxen:
        return _OXEN[recipe]
    if backend.scenario:
        return _SCENARIO["voice" if recipe == "voice" else scenario_family(backend.scenario.model_type)]
    if backend.bfl:
        learning_rate = _BFL_LEARNING_RATE[backend.bfl.finetune_type or "full"]
        return {"steps": 300, "learningRate": learning_rate, "loraRank": 32, "triggerWord": "TOK"}
    return {}
