"""A run's model and data, loaded as the trainer does it, to look inside or to step by hand."""

from dataclasses import dataclass
from typing import Any

from finetune_operator.api.advanced import Advanced
from finetune_trainer.config import read_config
from finetune_trainer.contract import Inputs
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.sources import open_source
from finetune_trainer.distributed.process_group import ProcessGroup
from finetune_trainer.environment import Environment
from finetune_trainer.families import choose
from finetune_trainer.models import find, model_folder
from finetune_trainer.schedule import Schedule
from finetune_trainer.settings import Settings, settings_of
from finetune_trainer.stop import Stop
from finetune_trainer.training.blocks import Blocks, repeated
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.memory import MemoryPlanner
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
    model = find(config.base_model, env.model_access)
    family = choose(model.description, config.recipe.kind, config.base_model)
    source = open_source(config.dataset.uri, env.dataset_access)
    store = ingest(source, family.needs(recipe, advanced), env.cache_dir, 0.0, lambda: None)
    folder = model_folder(model, env.model_access)
    settings = settings_of(recipe, env.world_size)
    inputs = Inputs(
        base_model=config.base_model,
        folder=folder,
        recipe=recipe,
        settings=settings,
        advanced=advanced,
        store=store,
        cache_dir=env.cache_dir,
        allowed_hosts=env.allowed_hosts,
        check=lambda: None,
        group=ProcessGroup(),
    )
    return Loaded(family.load(inputs), settings, advanced)


@dataclass(frozen=True)
class Trained:
    """A loop, and what decides how it goes about memory and its blocks."""

    loop: Loop
    planner: MemoryPlanner
    blocks: Blocks


def loop_of(trainee: Any, schedule: Schedule, settings: Settings, advanced: Advanced) -> Trained:
    """The trainer's own loop in a single process, as a run sets it up."""
    blocks = Blocks(repeated(trainee.parts().values()), dropout=advanced.lora_dropout > 0)
    planner = MemoryPlanner(trainee, blocks, advanced.activation_checkpointing, ProcessGroup(), print)
    return Trained(Loop(trainee, schedule, settings, advanced, planner, ProcessGroup(), Stop()), planner, blocks)
