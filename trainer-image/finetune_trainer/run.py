"""One run from configuration to result. Cheap checks first; torch is imported when configuration and data are good."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finetune_operator.api.trainer_config import CheckpointRecord, TrainerConfig, config_hash
from finetune_trainer.config import read_config
from finetune_trainer.contract import Inputs
from finetune_trainer.data.ingest import ingest
from finetune_trainer.data.sources import open_source
from finetune_trainer.distributed.launcher import PREPARED
from finetune_trainer.environment import Environment, RunStorage
from finetune_trainer.errors import ConfigError, DataError, RunError
from finetune_trainer.families import choose
from finetune_trainer.files import flush, write_atomically
from finetune_trainer.models import describe, model_folder
from finetune_trainer.outputs.destination import Destination, check_destination, publish
from finetune_trainer.reporting.console import open_screen
from finetune_trainer.reporting.progress import Pace, Poster, Progress, say
from finetune_trainer.reporting.termination import Verdict
from finetune_trainer.settings import settings_of
from finetune_trainer.stop import Stop

METRICS: Final = "metrics.jsonl"

if TYPE_CHECKING:
    from finetune_trainer.contract import Family, Trainee
    from finetune_trainer.schedule import Schedule
    from finetune_trainer.training.checkpoint import Checkpoint, Checkpoints
    from finetune_trainer.training.loop import Loop, Probe, StepRecord


def execute(env: Environment, stop: Stop, verdict: Verdict, poster: Poster) -> None:
    """Train, or raise RunError or Preempted. `verdict` is filled in on the way."""
    config, advanced = read_config(env.config)
    recipe = config.recipe.parameters
    settings = settings_of(recipe, env.world_size)
    if env.first:
        _make_folders(env.storage.output_dir, env.storage.checkpoints_dir, env.cache_dir)
    description = describe(config.base_model, env.model_access)
    family = choose(description, config.recipe.kind, config.base_model)
    destination = None
    if config.output is not None and env.first:
        title = f"FineTune {config.finetune.namespace}/{config.finetune.name}, run {config.finetune.run}"
        destination = check_destination(config.output.uri, env.output_access, stop.check, title)
    say("validating", dataset=config.dataset.uri)
    needs = family.needs(recipe, advanced)
    source = open_source(config.dataset.uri, env.dataset_access, stop.check, videos=needs.clips > 0)
    store = ingest(source, needs, env.cache_dir, advanced.max_skipped_share, stop.check)
    say("dataset", **{name: value for name, value in store.summary.items() if name != "problems"})
    folder = model_folder(config.base_model, env.model_access, pipeline="_class_name" in description)
    stop.check()
    if env.first and env.rendezvous_dir is not None:
        (env.rendezvous_dir / PREPARED).touch()  # the launcher starts the other ranks, which find all this done
    _disable_progress_bars()
    from finetune_trainer.distributed.process_group import join

    ranks = join(env.rank, env.world_size, env.rendezvous_dir, stop)
    inputs = Inputs(
        config.base_model,
        folder,
        recipe,
        settings,
        advanced,
        store,
        env.cache_dir,
        env.allowed_hosts,
        stop.check,
        ranks,
    )
    session = _Session(config, family, inputs, env.storage, stop, verdict, poster)
    session.train()
    if env.first:
        session.finish(destination)


class _Session:
    """What stays the same from loading to the result."""

    def __init__(
        self,
        config: TrainerConfig,
        family: Family,
        inputs: Inputs,
        storage: RunStorage,
        stop: Stop,
        verdict: Verdict,
        poster: Poster,
    ) -> None:
        from finetune_trainer.schedule import EpochSchedule, StepSchedule
        from finetune_trainer.training.checkpoint import Checkpoints
        from finetune_trainer.training.loop import Loop, Probe, save_points

        advanced, settings = inputs.advanced, inputs.settings
        self._config, self._advanced, self._settings, self._storage = config, advanced, settings, storage
        self._store, self._stop, self._verdict, self._poster = inputs.store, stop, verdict, poster
        self._ranks = inputs.ranks
        started = time.monotonic()
        self._trainee: Trainee = family.load(inputs)
        self._notes: list[str] = []
        for note in self._trainee.notes:
            self._note(note)
        rows = len(self._trainee.rows)
        self._schedule: Schedule
        if settings.epochs is not None:
            self._schedule = EpochSchedule(settings.seed, rows, settings.per_step, settings.epochs, advanced.shuffle)
        else:
            self._schedule = StepSchedule(settings.seed, rows, settings.per_step, settings.steps or 1, advanced.shuffle)
        verdict.total_steps = self._schedule.total_steps
        self._loop: Loop = Loop(self._trainee, self._schedule, settings, advanced, stop, self._ranks, self._note)
        self._checkpoints: Checkpoints = Checkpoints(
            storage.checkpoints_dir, config_hash(config), advanced.keep_checkpoints
        )
        self._due = save_points(settings, self._schedule)
        self._probe: Probe = Probe.of(self._trainee, rows, settings.micro_batch)
        self._saved_step = -1
        self._loss_before = self._start()
        self._foresee()
        self._loop.compile()
        self._load_seconds = time.monotonic() - started

    def train(self) -> None:
        """All steps that are left. Raises Preempted, with a checkpoint, if the pod was asked to stop."""
        self._pace = Pace(self._loop.step, self._schedule.total_steps)
        self._screen = open_screen()
        try:
            self._train()
        finally:
            self._screen.close()
        self._ranks.part()

    def _train(self) -> None:
        with self._stop.deferred():
            say(
                "ready",
                rows=len(self._trainee.rows),
                totalSteps=self._schedule.total_steps,
                samplesPerStep=self._settings.per_step,
                processes=self._ranks.world,
                trainedWeights=sum(weight.numel() for weight in self._trainee.parameters()),
                resumedFrom=self._loop.step,
                loadSeconds=round(self._load_seconds, 2),
            )
            if self._loop.step > 0:
                self._sample(self._loop.step)  # an interruption may have cut this round short
            self._loop.run(self._after_step)
            if self._saved_step != self._loop.step:
                self._save()

    def finish(self, destination: Destination | None) -> None:
        """Export, check, manifest, copy."""
        from finetune_trainer.outputs.export import artifacts, export, versions, write_manifest

        loss_after = self._probe.loss(self._trainee)
        export(self._trainee, self._probe, self._storage.output_dir)
        pictures = self._draw()
        write_manifest(
            self._storage.output_dir,
            {
                "schemaVersion": 1,
                "finetune": self._config.finetune.wire(),
                "baseModel": self._config.base_model,
                "recipe": self._config.recipe.wire(),
                "advanced": self._advanced.wire(),
                "configHash": config_hash(self._config),
                "dataset": {
                    "uri": self._config.dataset.uri,
                    "fingerprint": self._store.summary["fingerprint"],
                    "rows": len(self._trainee.rows),
                    "skipped": self._store.summary["skipped"] + len(self._store) - len(self._trainee.rows),
                },
                "seed": self._settings.seed,
                "samplesPerStep": self._settings.per_step,
                "processes": self._ranks.world,
                "steps": self._schedule.total_steps,
                "loss": {"before": self._loss_before, "after": loss_after, "probeRows": self._probe.rows},
                "pictures": pictures,
                "memory": self._memory,
                "notes": [*self._notes, *self._store.summary["notes"]],
                "versions": versions(),
            },
        )
        uri = self._storage.uri(self._storage.output_dir) or self._storage.output_dir.as_uri()
        if destination is not None and self._config.output is not None:
            self._verdict.artifacts = artifacts(self._storage.output_dir, uri)  # where they are if the upload fails
            publish(self._storage.output_dir, destination, self._storage.uri(self._storage.output_dir))
            uri = self._config.output.uri.rstrip("/")
        self._verdict.artifacts = artifacts(self._storage.output_dir, uri)
        say("result", uri=uri, lossBefore=self._loss_before, lossAfter=loss_after)

    def _draw(self) -> dict[str, str]:
        """Pictures for people, by what they show. None of them is worth failing for."""
        from finetune_trainer.reporting.plots import LOSS, SHEET, draw_loss, draw_sheet

        output, found = self._storage.output_dir, {}
        prompts = [sample.prompt for sample in getattr(self._config.recipe.parameters, "samples", None) or []]
        title = f"{self._config.finetune.name}, {self._config.base_model}"
        try:
            if draw_loss(output / METRICS, output / LOSS, title):
                found["loss"] = LOSS
            if draw_sheet(output / "samples", output / SHEET, prompts):
                found["samples"] = SHEET
        except Exception as error:
            self._note(f"a picture could not be drawn: {type(error).__name__}: {error}")
        return found

    def _start(self) -> float:
        """Go on from the newest complete checkpoint, if there is one; returns the probe's loss before training."""
        checkpoint: Checkpoint | None = self._ranks.hand_out(self._usable_checkpoint() if self._ranks.first else None)
        if self._ranks.first:
            self._forget_metrics(0 if checkpoint is None else checkpoint.step)
        if checkpoint is None:
            return self._probe.loss(self._trainee) if self._ranks.first else 0.0
        return self._resume(checkpoint)

    def _foresee(self) -> None:
        """Say what memory the run will take, and choose what makes it fit, unless an earlier attempt has chosen."""
        largest = max(self._probe.batches, key=lambda batch: batch.tokens)
        self._memory = self._loop.foresee(largest, free=self._loop.step == 0)
        say("memory", **self._memory)
        if not self._memory["fits"]:
            self._note(
                f"memory will hardly do: about {self._memory['estimatedGiB']:.1f} GiB are needed and "
                f"{self._memory['thereGiB']:.1f} are there"
            )

    def _usable_checkpoint(self) -> Checkpoint | None:
        """The newest complete one. Raises DataError or RunError if this run cannot go on from it."""
        found = self._checkpoints.newest()
        if found is None:
            return None
        checkpoint = found[0]
        if checkpoint.dataset != self._store.summary["fingerprint"]:
            raise DataError(
                f"the dataset is not the one that the checkpoint at step {checkpoint.step} was trained on: "
                "raise spec.run to start anew, or put the old data back"
            )
        per_step = checkpoint.extra["samplesPerStep"]
        if per_step != self._settings.per_step:  # worth another attempt: a node may have lost a device
            raise RunError(
                f"the checkpoint at step {checkpoint.step} was trained with {per_step} samples per step, and "
                f"{self._ranks.world} devices make {self._settings.per_step}: the pod needs as many devices as before"
            )
        return checkpoint

    def _resume(self, checkpoint: Checkpoint) -> float:
        from finetune_trainer.training.checkpoint import STATE
        from finetune_trainer.training.loop import read_state
        from finetune_trainer.training.memory import Choice

        path = self._checkpoints.path(checkpoint.step)
        self._trainee.restore(path)
        self._loop.restore(read_state(path / STATE), checkpoint.step)
        self._loop.choose(Choice(**checkpoint.extra["choice"]))  # another one would round otherwise
        self._saved_step = checkpoint.step
        self._record_checkpoint(checkpoint.step)
        self._verdict.step, self._verdict.loss = checkpoint.step, checkpoint.extra["lastLoss"]
        return float(checkpoint.extra["lossBefore"])

    def _after_step(self, step: int) -> None:
        last = step == self._schedule.total_steps
        if last or step % self._settings.logging_steps == 0:
            self._report(self._write_metrics())
        if last or self._due(step):
            self._save()
        self._sample(step)

    def _sample(self, step: int) -> None:
        from finetune_trainer.contract import Sampling

        if self._ranks.first and isinstance(self._trainee, Sampling):
            last = step == self._schedule.total_steps
            self._trainee.sample(step, last, self._storage.output_dir, lambda: self._stop.requested)

    def _write_metrics(self) -> StepRecord | None:
        """Everything since the last call; returns the newest. Waits for the device."""
        records = list(self._loop.records())
        record = records[-1] if records else None
        if self._ranks.first:
            with (self._storage.output_dir / METRICS).open("a") as file:
                file.writelines(record.line() for record in records)
        self._pace.add(sum(record.samples for record in records))
        if record is not None:
            self._verdict.step, self._verdict.loss = record.step, record.loss
        return record

    def _report(self, record: StepRecord | None) -> None:
        if record is None or not self._ranks.first:
            return
        progress = Progress(
            step=record.step,
            total_steps=self._schedule.total_steps,
            epoch=record.epoch,
            loss=record.loss,
            grad_norm=record.grad_norm,
            learning_rate=record.learning_rate,
            samples_per_second=self._pace.rate(),
            eta=self._pace.eta(record.step),
        )
        say("progress", **progress.fields())
        self._screen.show(progress)
        self._poster.update(progress.status())

    def _save(self) -> None:
        from finetune_trainer.outputs.export import versions
        from finetune_trainer.training.checkpoint import STATE, Checkpoint
        from finetune_trainer.training.loop import write_state

        step = self._loop.step
        self._write_metrics()
        state = self._loop.state()  # every rank has a part in it
        self._saved_step = step
        if not self._ranks.first:
            return
        checkpoint = Checkpoint(
            step=step,
            epoch=self._schedule.epoch_at(step),
            config_hash=config_hash(self._config),
            dataset=self._store.summary["fingerprint"],
            versions=versions(),
            extra={
                "lossBefore": self._loss_before,
                "lastLoss": self._verdict.loss,
                "samplesPerStep": self._settings.per_step,
                "choice": asdict(self._loop.choice),
            },
        )

        def write(folder: Path) -> None:
            self._trainee.save(folder)
            write_state(state, folder / STATE)

        flush(self._storage.output_dir / METRICS)
        self._checkpoints.save(checkpoint, write)
        self._record_checkpoint(step)
        say("checkpoint", step=step)

    def _record_checkpoint(self, step: int) -> None:
        uri = self._storage.uri(self._checkpoints.path(step))
        if uri is not None:
            self._verdict.checkpoint = CheckpointRecord(step=step, uri=uri)

    def _forget_metrics(self, after: int) -> None:
        """Drop the lines of steps that will be trained again."""
        path = self._storage.output_dir / METRICS
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = []
        for line in lines:
            try:
                if line.endswith("\n") and json.loads(line)["step"] <= after:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        write_atomically(path, "".join(kept))

    def _note(self, text: str) -> None:
        self._notes.append(text)
        say("note", text=text)


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error


def _disable_progress_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # they are noise in a pod's log
