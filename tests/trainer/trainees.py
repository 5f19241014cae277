"""A run's model and data, loaded as the trainer does it, to look inside or to step by hand."""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.config import Advanced, read_config
from finetune_trainer.contract import Inputs
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.sources import open_source
from finetune_trainer.distributed.process_group import Ranks
from finetune_trainer.environment import Environment
from finetune_trainer.families import choose
from finetune_trainer.models import describe, model_folder
from finetune_trainer.settings import Settings, settings_of
from tests.trainer.runs import TrainerRun


@dataclass(frozen=True)
class Loaded:
    """trainee: as the family made it, before the first step."""

    trainee: Any
    settings: Settings
    advanced: Advanced


def load(run: TrainerRun) -> Loaded:
    """Validate the data, load the model, attach the adapter."""
    with run.environment():
        env = Environment.read()
    config, advanced = read_config(env.config)
    recipe = config.recipe.parameters
    description = describe(config.base_model, env.model_access)
    family = choose(description, config.recipe.kind, config.base_model)
    source = open_source(config.dataset.uri, env.dataset_access)
    store = ingest(source, family.needs(recipe, advanced), env.cache_dir, 0.0, lambda: None)
    folder = model_folder(config.base_model, env.model_access, pipeline="_class_name" in description)
    settings = settings_of(recipe, env.world_size)
    inputs = Inputs(
        config.base_model,
        folder,
        recipe,
        settings,
        advanced,
        store,
        env.cache_dir,
        env.allowed_hosts,
        lambda: None,
        Ranks(),
    )
    return Loaded(family.load(inputs), settings, advanced)
