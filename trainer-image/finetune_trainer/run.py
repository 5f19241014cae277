"""One run, from configuration to result. torch is imported only when configuration and data are valid."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_operator.api.trainer_config import TrainerConfig, config_hash
from finetune_trainer.config import read_config
from finetune_trainer.contract import Inputs
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.sources import open_source
from finetune_trainer.distributed.devices import require_torch
from finetune_trainer.distributed.launcher import PREPARED
from finetune_trainer.environment import DatasetAccess, Environment, OutputAccess, RunStorage
from finetune_trainer.errors import ConfigError
from finetune_trainer.families import choose
from finetune_trainer.files import write_atomically
from finetune_trainer.models import find, fingerprint, model_folder
from finetune_trainer.outputs.checkpoints import KeptCheckpoints, NotKept, kept_checkpoints
from finetune_trainer.outputs.destination import Destination, check_destination
from finetune_trainer.reporting.progress import Poster, emit
from finetune_trainer.reporting.reporter import Reporter
from finetune_trainer.reporting.termination import Verdict
from finetune_trainer.settings import settings_of
from finetune_trainer.stop import Stop, interruptible
from finetune_trainer.stores.tls import trust
from finetune_trainer.training.checkpoint import Checkpoints, recorded_revision

if TYPE_CHECKING:
    from finetune_trainer.data.needs import Needs
    from finetune_trainer.data.store import Store


def execute(env: Environment, stop: Stop, verdict: Verdict, poster: Poster) -> None:
    """Validate, train, and finish a run. Raises RunError or Preempted. verdict: filled in on the way."""
    config, advanced = read_config(env.config)
    settings = settings_of(config.recipe.parameters, env.world_size)
    if env.devices:
        require_torch()
    trust(env.trust_bundle, os.environ)
    uri = config.output.uri if config.output else None
    storage = env.storage.with_output(uri, env.output_access.claims)
    reporter = Reporter(storage, verdict, poster, first=env.first)
    kept: KeptCheckpoints = NotKept()
    # Where checkpoints are written below the output, nothing is before it has been checked.
    below_output = storage.kept is not None
    destination = _destination(config, env.output_access, stop) if env.first and below_output else None
    if env.first:
        _make_folders(storage.output_dir, storage.checkpoints_dir, env.cache_dir)
        kept = kept_checkpoints(uri, env.run_dir.name, env.output_access, reporter.record_kept, reporter.note)
        kept.restore(storage.checkpoints_dir, stop.check)
    model = find(config.base_model, env.model_access, _recorded_revision(env, storage))
    family = choose(model.description, config.recipe.kind, config.base_model)
    if env.first and not below_output:
        destination = _destination(config, env.output_access, stop)
    needs = family.needs(config.recipe.parameters, advanced)
    store = _validate(config.dataset.uri, env.dataset_access, needs, advanced.max_skipped_share, stop)
    folder = model_folder(model, env.model_access)
    stop.check()
    if env.first and env.rendezvous_dir is not None:
        # The launcher starts the other ranks, which use the cache, and the same commit of the base model.
        write_atomically(env.rendezvous_dir / PREPARED, model.revision or "")
    _disable_progress_bars()

    from finetune_trainer.distributed.process_group import join
    from finetune_trainer.training.session import Session
    from finetune_trainer.training.setup import set_up

    started = time.monotonic()
    inputs = Inputs(
        base_model=config.base_model,
        base_model_revision=model.revision,
        base_model_fingerprint=interruptible(lambda: fingerprint(model, folder), stop.check) if env.first else "",
        folder=folder,
        recipe=config.recipe.parameters,
        settings=settings,
        advanced=advanced,
        store=store,
        cache_dir=env.cache_dir,
        allowed_hosts=env.allowed_hosts,
        check=stop.check,
        group=join(env.rank, env.world_size, env.rendezvous_dir, stop),
    )
    reporter.record_base_model(model.revision)
    checkpoints = Checkpoints(storage.checkpoints_dir, config_hash(config), advanced.keep_checkpoints)
    training = set_up(family, inputs, checkpoints, stop, reporter)
    Session(training, storage.output_dir, stop, reporter, kept).train(load_seconds=time.monotonic() - started)
    if env.first:
        from finetune_trainer.outputs.finish import finish

        finish(config, training, storage, destination, reporter)
        if not env.output_access.durable:
            kept.remove()
            reporter.forget_checkpoint()


def _recorded_revision(env: Environment, storage: RunStorage) -> str | None:
    """The commit of the base model that this run has used before; that of rank 0 on another rank."""
    if env.first or env.rendezvous_dir is None:
        return recorded_revision(storage.checkpoints_dir)
    return (env.rendezvous_dir / PREPARED).read_text() or None


def _destination(config: TrainerConfig, access: OutputAccess, stop: Stop) -> Destination | None:
    if config.output is None:
        return None
    title = f"FineTune {config.finetune.namespace}/{config.finetune.name}, run {config.finetune.run}"
    return check_destination(config.output.uri, access, stop.check, title)


def _validate(uri: str, access: DatasetAccess, needs: Needs, max_skipped_share: float, stop: Stop) -> Store:
    emit("validating", dataset=uri)
    source = open_source(uri, access, stop.check, videos=needs.clips > 0)
    store = ingest(source, needs, access.cache_dir, max_skipped_share, stop.check)
    emit("dataset", **{name: value for name, value in store.summary.items() if name != "problems"})
    return store


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder {folder} cannot be created: {error.strerror}") from error


def _disable_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # noise in a pod's log
