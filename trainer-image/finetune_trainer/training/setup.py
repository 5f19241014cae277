"""Sets up a run, from validated configuration and data, for its next step.

In this order: load the model, make the schedule, resume from a checkpoint or measure the loss before training, plan the
memory, compile. Every rank does this; where rank 0 decides, it broadcasts the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_operator.api.advanced import CHECKPOINT_MINUTES
from finetune_trainer.contract import Family, Inputs, Trainee
from finetune_trainer.errors import ConfigError, DataError, RunError
from finetune_trainer.reporting.progress import emit
from finetune_trainer.reporting.reporter import Reporter
from finetune_trainer.schedule import EpochSchedule, Schedule, StepSchedule
from finetune_trainer.stop import Stop
from finetune_trainer.training.blocks import Blocks, compile_blocks, repeated
from finetune_trainer.training.checkpoint import Checkpoint, Checkpoints, Timer, read_state
from finetune_trainer.training.loop import Loop
from finetune_trainer.training.memory import MemoryPlanner, Strategy, shortage
from finetune_trainer.training.probe import Probe


@dataclass(frozen=True)
class Training:
    """A run that is ready for its next step.

    checkpoint: from which it resumes; None for a new run. loss_before: of the probe, before the first step of the first
    attempt; 0 on ranks other than 0. memory: the memory planner's report.
    """

    inputs: Inputs
    trainee: Trainee
    schedule: Schedule
    loop: Loop
    planner: MemoryPlanner
    checkpoints: Checkpoints
    timer: Timer
    probe: Probe
    checkpoint: Checkpoint | None
    loss_before: float
    memory: dict[str, Any]


def set_up(family: Family, inputs: Inputs, checkpoints: Checkpoints, stop: Stop, reporter: Reporter) -> Training:
    """Set up a run. Raises ConfigError, DataError, RunError, or Preempted."""
    settings, advanced = inputs.settings, inputs.advanced
    trainee = family.load(inputs)
    for note in trainee.notes:
        reporter.note(note)
    schedule = _schedule(inputs, len(trainee.rows))
    reporter.set_total_steps(schedule.total_steps)
    blocks = Blocks(repeated(trainee.parts().values()), dropout=advanced.lora_dropout > 0)
    planner = MemoryPlanner(trainee, blocks, advanced.activation_checkpointing, inputs.group, reporter.note)
    minutes = advanced.checkpoint_minutes
    timer = Timer(CHECKPOINT_MINUTES if minutes is None else minutes)
    loop = Loop(trainee, schedule, settings, advanced, planner, inputs.group, stop, timer.due)
    probe = Probe.of(trainee, len(trainee.rows), settings.micro_batch)
    checkpoint = _newest(checkpoints, inputs)
    reporter.drop_metrics_after(0 if checkpoint is None else checkpoint.step)
    if checkpoint is not None:
        _resume(checkpoint, checkpoints, trainee, loop, planner, reporter)
        loss_before = float(checkpoint.extra["lossBefore"])
    else:
        loss_before = probe.loss(trainee) if inputs.group.first else 0.0
    memory = planner.plan(probe.largest, loop.rng, free=loop.step == 0)
    emit("memory", **memory)
    if (warning := shortage(memory)) is not None:
        reporter.note(warning)
    compile_blocks(blocks, advanced.compile, reporter.note)
    return Training(
        inputs, trainee, schedule, loop, planner, checkpoints, timer, probe, checkpoint, loss_before, memory
    )


def _schedule(inputs: Inputs, rows: int) -> Schedule:
    settings, shuffle = inputs.settings, inputs.advanced.shuffle
    if settings.epochs is not None:
        return EpochSchedule(settings.seed, rows, settings.per_step, settings.epochs, shuffle)
    return StepSchedule(settings.seed, rows, settings.per_step, settings.steps or 1, shuffle)


def _newest(checkpoints: Checkpoints, inputs: Inputs) -> Checkpoint | None:
    """The checkpoint from which every rank resumes; rank 0 finds it."""
    found: Checkpoint | None = inputs.group.broadcast(_usable(checkpoints, inputs) if inputs.group.first else None)
    return found


def _usable(checkpoints: Checkpoints, inputs: Inputs) -> Checkpoint | None:
    """The newest complete checkpoint. Raises DataError, ConfigError or RunError if this run cannot resume from it."""
    found = checkpoints.newest()
    if found is None:
        return None
    checkpoint = found[0]
    if checkpoint.dataset != inputs.store.summary["fingerprint"]:
        raise DataError(
            f"the dataset differs from the one that the checkpoint at step {checkpoint.step} was trained on: "
            "raise spec.run to start over, or restore the old data"
        )
    if checkpoint.base_model not in ("", inputs.base_model_fingerprint):
        raise ConfigError(
            f"the base model {inputs.base_model} differs from the one that the checkpoint at step {checkpoint.step} "
            "was trained on: raise spec.run to start over, or restore the old files"
        )
    per_step = checkpoint.extra["samplesPerStep"]
    if per_step != inputs.settings.per_step:  # worth a retry: a node may have lost a device
        raise RunError(
            f"the checkpoint at step {checkpoint.step} was trained with {per_step} samples per step, and "
            f"{inputs.group.world_size} devices make {inputs.settings.per_step}: "
            "the pod needs as many devices as before"
        )
    return checkpoint


def _resume(
    checkpoint: Checkpoint,
    checkpoints: Checkpoints,
    trainee: Trainee,
    loop: Loop,
    planner: MemoryPlanner,
    reporter: Reporter,
) -> None:
    folder = checkpoints.path(checkpoint.step)
    trainee.restore(folder)
    loop.restore(read_state(folder), checkpoint.step)
    planner.adopt(Strategy.from_json(checkpoint.extra["choice"]))  # another one would round differently
    reporter.record_resume(checkpoint.step, checkpoint.extra["lastLoss"], folder)
