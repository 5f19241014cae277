"""The end of a run: export and check the result, draw plots, write the manifest, and publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_operator.api.trainer_config import TrainerConfig
from finetune_trainer.environment import RunStorage
from finetune_trainer.outputs.destination import Destination, publish
from finetune_trainer.outputs.export import artifacts, export, write_manifest
from finetune_trainer.reporting.metrics import METRICS
from finetune_trainer.reporting.plots import LOSS, SHEET, draw_loss, draw_sheet
from finetune_trainer.reporting.progress import emit
from finetune_trainer.reporting.reporter import Reporter
from finetune_trainer.training.setup import Training
from finetune_trainer.training.versions import versions


def finish(
    config: TrainerConfig,
    training: Training,
    storage: RunStorage,
    destination: Destination | None,
    reporter: Reporter,
) -> None:
    """Finish a trained run. destination: None leaves the result where it is. Raises RunError."""
    output = storage.output_dir
    loss_after = training.probe.loss(training.trainee)
    export(training.trainee, training.probe, output)
    pictures = _draw(config, output, reporter)
    loss = {"before": training.loss_before, "after": loss_after, "probeRows": training.probe.rows}
    write_manifest(output, _manifest(config, training, loss, pictures, reporter.notes))
    kept = storage.uri(output)
    uri = kept or output.as_uri()
    if destination is not None and config.output is not None:
        reporter.record_artifacts(artifacts(output, uri))  # their location if the upload fails
        publish(output, destination, kept)
        uri = config.output.uri.rstrip("/")
    reporter.record_artifacts(artifacts(output, uri))
    emit("result", uri=uri, lossBefore=training.loss_before, lossAfter=loss_after)


def _manifest(
    config: TrainerConfig, training: Training, loss: dict[str, Any], pictures: dict[str, str], notes: list[str]
) -> dict[str, Any]:
    inputs, rows = training.inputs, len(training.trainee.rows)
    summary = inputs.store.summary
    return {
        "schemaVersion": 1,
        "finetune": config.finetune.wire(),
        "baseModel": config.base_model,
        **({"baseModelRevision": inputs.base_model_revision} if inputs.base_model_revision else {}),
        "recipe": config.recipe.wire(),
        "advanced": inputs.advanced.wire(),
        "configHash": training.checkpoints.config_hash,
        "dataset": {
            "uri": config.dataset.uri,
            "fingerprint": summary["fingerprint"],
            "rows": rows,
            "skipped": summary["skipped"] + len(inputs.store) - rows,
        },
        "seed": inputs.settings.seed,
        "samplesPerStep": inputs.settings.per_step,
        "processes": inputs.group.world_size,
        "steps": training.schedule.total_steps,
        "loss": loss,
        "pictures": pictures,
        "memory": training.memory,
        "notes": [*notes, *summary["notes"]],
        "versions": versions(),
    }


def _draw(config: TrainerConfig, output: Path, reporter: Reporter) -> dict[str, str]:
    """Draw plots; returns their file names by what they show. A failure to draw is only a note."""
    found = {}
    prompts = [sample.prompt for sample in getattr(config.recipe.parameters, "samples", None) or []]
    title = f"{config.finetune.name}, {config.base_model}"
    try:
        if draw_loss(output / METRICS, output / LOSS, title):
            found["loss"] = LOSS
        if draw_sheet(output / "samples", output / SHEET, prompts):
            found["samples"] = SHEET
    except Exception as error:
        reporter.note(f"a plot could not be drawn: {type(error).__name__}: {error}")
    return found
