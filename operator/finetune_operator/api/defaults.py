"""Every documented default of a recipe, applied once per run, so that an upgrade of the operator changes no run."""

from collections.abc import Mapping
from typing import Any, Final

from finetune_operator.api.providers.registry import PROVIDERS
from finetune_operator.api.recipes import documented_defaults
from finetune_operator.api.spec import FineTuneSpec

_JOB: Final[dict[str, Any]] = {"seed": 42}
_JOB_VIDEO: Final[dict[str, Any]] = {"useLora": True}


def resolve_parameters(spec: FineTuneSpec) -> dict[str, Any]:
    """The recipe's parameters by their names on the wire: what the user set over what is documented for the backend.

    Pure. Parameters whose default only the provider knows stay absent. Resolving a resolved recipe changes nothing.
    """
    return {**_documented(spec), **spec.recipe.parameters.wire()}


def resolve_recipe(spec: FineTuneSpec) -> dict[str, dict[str, Any]]:
    """`{"imageToText": {...}}`: the resolved parameters under the recipe's name, as the trainer's config holds them."""
    return {spec.recipe.kind: resolve_parameters(spec)}


def _documented(spec: FineTuneSpec) -> Mapping[str, Any]:
    recipe = spec.recipe.kind
    if spec.backend.job:
        video = _JOB_VIDEO if recipe in ("imageToVideo", "textToVideo") else {}
        return {**documented_defaults(recipe), **_JOB, **video}
    return PROVIDERS[spec.backend.kind].capabilities.defaults(spec)
