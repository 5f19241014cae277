"""The steps of a run, and what is written on the way: metrics, progress, checkpoints, samples."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.contract import Sampling
from finetune_trainer.reporting.progress import emit
from finetune_trainer.reporting.reporter import Reporter
from finetune_trainer.stop import Stop
from finetune_trainer.training.checkpoint import UNSCHEDULED, Checkpoint, Keeper, save_points, write_state
from finetune_trainer.training.setup import Training
from finetune_trainer.training.versions import versions


class Session:
    """Trains a run that is set up. output_dir: for samples. keeper: of copies of the checkpoints."""

    def __init__(self, training: Training, output_dir: Path, stop: Stop, reporter: Reporter, keeper: Keeper) -> None:
        self._keeper = keeper
        self._training, self._output_dir, self._stop, self._reporter = training, output_dir, stop, reporter
        self._loop, self._settings = training.loop, training.inputs.settings
        self._group, self._total_steps = training.inputs.group, training.schedule.total_steps
        self._due = save_points(self._settings, training.schedule)
        self._saved_step = -1 if training.checkpoint is None else training.checkpoint.step

    def train(self, load_seconds: float) -> None:
        """Train all remaining steps. Raises Preempted, after a checkpoint, if the pod was asked to stop."""
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
            self._training.timer.start()
            self._loop.run(self._after_step)
            if self._saved_step != self._loop.step:
                self._save(scheduled=False)
            self._keeper.flush()
        self._group.close()

    def _after_step(self, step: int) -> None:
        last = step == self._total_steps
        if last or step % self._settings.logging_steps == 0:
            record = self._reporter.record_steps(list(self._loop.records()))
            if record is not None:
                self._reporter.report_progress(record)
        if (scheduled := last or self._due(step)) or self._loop.save_due:
            self._save(scheduled=scheduled)
        self._sample(step)

    def _sample(self, step: int) -> None:
        trainee = self._training.trainee
        if self._group.first and isinstance(trainee, Sampling):
            trainee.sample(step, step == self._total_steps, self._output_dir, lambda: self._stop.requested)

    def _save(self, *, scheduled: bool) -> None:
        with self._training.timer.saving():
            self._write_checkpoint(scheduled=scheduled)

    def _write_checkpoint(self, *, scheduled: bool) -> None:
        step, checkpoints = self._loop.step, self._training.checkpoints
        self._reporter.record_steps(list(self._loop.records()))
        state = self._loop.state()  # of every rank
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
                **({} if scheduled else {UNSCHEDULED: True}),
            },
            base_model=self._training.inputs.base_model_fingerprint,
        )

        def write(folder: Path) -> None:
            self._training.trainee.save(folder)
            write_state(state, folder)

        self._reporter.flush_metrics()
        checkpoints.save(checkpoint, write)
        self._reporter.record_checkpoint(step, checkpoints.path(step))
        self._keeper.keep(checkpoints.path(step), step)
