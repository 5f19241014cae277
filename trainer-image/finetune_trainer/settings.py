"""The hyperparameters that the training loop needs, whatever the recipe calls them."""

from dataclasses import dataclass
from typing import Any, Final

from finetune_operator.api.documented import DOCUMENTED_DEFAULT
from finetune_operator.api.recipes import Recipe
from finetune_trainer.errors import ConfigError

DEFAULT_SEED: Final = 42


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of a run. Exactly one of epochs and steps is set."""

    seed: int
    learning_rate: float
    micro_batch: int
    """Rows per forward pass."""
    accumulation: int
    """Forward passes per optimizer step."""
    epochs: int | None
    steps: int | None
    logging_steps: int
    save_strategy: str
    save_steps_ratio: float
    use_lora: bool
    lora_rank: int
    lora_alpha: int
    processes: int = 1
    """Processes that train together, each `micro_batch * accumulation` rows of an optimizer step."""

    @property
    def per_step(self) -> int:
        """Rows per optimizer step, over all processes."""
        return self.micro_batch * self.accumulation * self.processes


def parameter(recipe: Recipe, name: str) -> Any:
    """The value that the user set, otherwise the documented default; None if there is neither."""
    value = getattr(recipe, name, None)
    field = type(recipe).model_fields.get(name)
    if value is not None or field is None or not isinstance(field.json_schema_extra, dict):
        return value
    return field.json_schema_extra.get(DOCUMENTED_DEFAULT)


def settings_of(recipe: Recipe, processes: int = 1) -> Settings:
    """The settings of a recipe. Raises ConfigError for a combination of values that cannot be trained."""
    ratio = parameter(recipe, "save_steps_ratio")
    settings = Settings(
        seed=DEFAULT_SEED if recipe.seed is None else recipe.seed,
        learning_rate=parameter(recipe, "learning_rate"),
        micro_batch=parameter(recipe, "batch_size"),
        accumulation=parameter(recipe, "grad_accum") or parameter(recipe, "gradient_accumulation") or 1,
        epochs=parameter(recipe, "epochs"),
        steps=parameter(recipe, "steps"),
        logging_steps=parameter(recipe, "logging_steps") or 10,
        save_strategy=parameter(recipe, "save_strategy") or "steps",
        save_steps_ratio=0.25 if ratio is None else ratio,
        use_lora=parameter(recipe, "use_lora") is not False,
        lora_rank=parameter(recipe, "lora_rank"),
        lora_alpha=parameter(recipe, "lora_alpha"),
        processes=processes,
    )
    if settings.save_strategy == "steps" and settings.save_steps_ratio == 0:
        raise ConfigError("saveStepsRatio is 0 with saveStrategy steps: set a ratio above 0, or saveStrategy epoch")
    return settings
