"""The model families, selected by the checkpoint's own description. A new family is one file, and one line here."""

from typing import Any, Final

from finetune_operator.api.reasons import Reason
from finetune_trainer.contract import Family
from finetune_trainer.errors import ConfigError
from finetune_trainer.families.diffusion import DIFFUSION
from finetune_trainer.families.qwen3_vl import Qwen3VL
from finetune_trainer.families.text import TEXT

FAMILIES: Final[tuple[Family, ...]] = (Qwen3VL(), *TEXT, *DIFFUSION)


def choose(description: dict[str, Any], recipe_kind: str, base_model: str) -> Family:
    """The family of a base model and a recipe.

    description: its `config.json` or `model_index.json`. Raises ConfigError that names the supported recipes or models.
    """
    name = str(description.get("_class_name") or description.get("model_type"))
    families = [family for family in FAMILIES if name in family.kinds]
    for family in families:
        if recipe_kind in family.recipes:
            return family
    if families:
        recipes = ", ".join(sorted({recipe for family in families for recipe in family.recipes}))
        raise ConfigError(
            f"the base model {base_model} ({name}) supports {recipes}, not {recipe_kind}", Reason.MODEL_NOT_SUPPORTED
        )
    known = ", ".join(sorted({kind for family in FAMILIES for kind in family.kinds}))
    raise ConfigError(
        f"the base model {base_model} ({name}) is not supported; these are: {known}", Reason.MODEL_NOT_SUPPORTED
    )
