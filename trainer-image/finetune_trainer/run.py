"""One run from configuration to result. Cheap checks first; torch is imported when configuration and data are good."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_operator.api.trainer_config import TrainerConfig, config_hash
from finetune_trainer.config import read_config
from finetune_trainer.contract import Inputs, Sampling
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.sources import open_source
from finetune_trainer.distributed.launcher import PREPARED
from finetune_trainer.environment import DatasetAccess, Environment, OutputAccess
from finetune_trainer.errors import ConfigError
from finetune_trainer.families import choose
from finetune_trainer.models import describe, model_folder
from finetune_trainer.outputs.destination import Destination, check_destination
from finetune_trainer.reporting.progress import Poster, emit
from finetune_trainer.reporting.reporter import Reporter
from finetune_trainer.reporting.termination import Verdict
from finetune_trainer.settings import settings_of
from finetune_trainer.stop import Stop

if TYPE_CHECKING:
    from finetune_trainer.data.needs import Needs
    from finetune_trainer.data.store import Store
    from finetune_trainer.training.setup import Training


def execute(env: Environment, stop: Stop, verdict: Verdict, poster: Poster) -> None:
    """Train, or raise RunError or Preempted. `verdict` is filled in on the way."""
    config, advanced = read_config(env.config)
    settings = settings_of(config.recipe.parameters, env.world_size)
    storage = env.storage
    if env.first:
        _make_folders(storage.output_dir, storage.checkpoints_dir, env.cache_dir)
    description = describe(config.base_model, env.model_access)
    family = choose(description, config.recipe.kind, config.base_model)
    destination = _destination(config, env.output_access, stop) if env.first else None
    needs = family.needs(config.recipe.parameters, advanced)
    store = _validate(config.dataset.uri, env.dataset_access, needs, advanced.max_skipped_share, stop)
    folder = model_folder(config.base_model, env.model_access, pipeline="_class_name" in description)
    stop.check()
    if env.first and env.rendezvous_dir is not None:
        (env.rendezvous_dir / PREPARED).touch()  # the launcher starts the other ranks, which find all this done
    _disable_progress_bars()

    from finetune_trainer.distributed.process_group import join
    from finetune_trainer.training.checkpoint import Checkpoints
    from finetune_trainer.training.setup import set_up

    started = time.monotonic()
    inputs = Inputs(
        base_model=config.base_model,
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
    reporter = Reporter(storage, verdict, poster, first=env.first)
    checkpoints = Checkpoints(storage.checkpoints_dir, config_hash(config), advanced.keep_checkpoints)
    training = set_up(family, inputs, checkpoints, stop, reporter)
    _Session(training, storage.output_dir, stop, reporter).train(load_seconds=time.monotonic() - started)
    if env.first:
        from finetune_trainer.outputs.finish import finish

        finish(config, training, storage, destination, reporter)


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


class _Session:
    """The steps of a run, and what is written on the way: metrics, progress, checkpoints, samples."""

    def __init__(self, training: Training, output_dir: Path, stop: Stop, reporter: Reporter) -> None:
        from finetune_trainer.training.checkpoint import save_points

        self._training, self._output_dir, self._stop, self._reporter = training, output_dir, stop, reporter
        self._loop, self._settings = training.loop, training.inputs.settings
        self._group, self._total_steps = training.inputs.group, training.schedule.total_steps
        self._due = save_points(self._settings, training.schedule)
        self._saved_step = -1 if training.checkpoint is None else training.checkpoint.step

    def train(self, load_seconds: float) -> None:
        """All steps that are left. Raises Preempted, with a checkpoint, if the pod was asked to stop."""
        with self._reporter.progress_display(self._loop.step, self._total_steps), self._stop.deferred():
            emit(
                "ready",
                rows=len(self._training.trainee.rows),
                totalSteps=self._total_steps,
                samplesPerStep=self._settings.per_step,
                processes=self._group.world_size,
                trainedWeights=sum(weight.numel() for weight in self._training.trainee.parameters()),
                resumedFrom=self._loop.step,
                loadSeconds=round(load_seconds, 2),
            )
            if self._loop.step > 0:
                self._sample(self._loop.step)  # an interruption may have cut this round short
            self._loop.run(self._after_step)
            if self._saved_step != self._loop.step:
                self._save()
        self._group.close()

    def _after_step(self, step: int) -> None:
        last = step == self._total_steps
        if last or step % self._settings.logging_steps == 0:
            record = self._reporter.record_steps(list(self._loop.records()))
            if record is not None:
                self._reporter.report_progress(record)
        if last or self._due(step):
            self._save()
        self._sample(step)

    def _sample(self, step: int) -> None:
        trainee = self._training.trainee
        if self._group.first and isinstance(trainee, Sampling):
            trainee.sample(step, step == self._total_steps, self._output_dir, lambda: self._stop.requested)

    def _save(self) -> None:
        from finetune_trainer.outputs.export import versions
        from finetune_trainer.training.checkpoint import Checkpoint, write_state

        step, checkpoints = self._loop.step, self._training.checkpoints
        self._reporter.record_steps(list(self._loop.records()))
        state = self._loop.state()  # every rank has a part in it
        self._saved_step = step
        if not self._group.first:
            return
        checkpoint = Checkpoint(
            step=step,
            epoch=self._training.schedule.epoch_at(step),
            config_hash=checkpoints.config_hash,
            dataset=self._training.inputs.store.summary["fingerprint"],
            versions=versions(),
            extra={
                "lossBefore": self._training.loss_before,
                "lastLoss": self._reporter.last_loss,
                "samplesPerStep": self._settings.per_step,
                "choice": self._training.planner.strategy.to_json(),
            },
        )

        def write(folder: Path) -> None:
            self._training.trainee.save(folder)
            write_state(state, folder)

        self._reporter.flush_metrics()
        checkpoints.save(checkpoint, write)
        self._reporter.record_checkpoint(step, checkpoints.path(step))


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error


def _disable_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # they are noise in a pod's log
