"""Reports what a run does: events, notes, metrics, the console, the operator, and the termination message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from finetune_operator.api.trainer_config import ArtifactRecord, CheckpointRecord
from finetune_trainer.reporting.console import open_console
from finetune_trainer.reporting.metrics import MetricsFile, StepRecord
from finetune_trainer.reporting.progress import Poster, Progress, ThroughputMeter, emit
from finetune_trainer.reporting.termination import Verdict

if TYPE_CHECKING:
    from finetune_trainer.environment import RunStorage


class Reporter:
    """Receives what happens in a run, and passes it on.

    verdict: what the termination message will say; filled in on the way. first: whether this process, rank 0, writes
    metrics and progress.
    """

    def __init__(self, storage: RunStorage, verdict: Verdict, poster: Poster, *, first: bool) -> None:
        self._storage, self._verdict, self._poster, self._first = storage, verdict, poster, first
        self._metrics = MetricsFile(storage.output_dir)
        self._last: Progress | None = None
        self.notes: list[str] = []
        """Notes for the user, which the manifest repeats."""

    @property
    def last_loss(self) -> float | None:
        """The loss of the last step that was recorded."""
        return self._verdict.loss

    def note(self, text: str) -> None:
        """Tell the user something, in an event and in the manifest."""
        self.notes.append(text)
        emit("note", text=text)

    def set_total_steps(self, total_steps: int) -> None:
        """Set the number of optimizer steps of the run."""
        self._verdict.total_steps = total_steps

    def drop_metrics_after(self, step: int) -> None:
        """Drop the metrics of later steps, of which an earlier attempt left no checkpoint."""
        if self._first:
            self._metrics.truncate(step)

    def record_base_model(self, revision: str | None) -> None:
        """Record the commit of the base model; None for a folder on a claim."""
        self._verdict.base_model_revision = revision

    def record_resume(self, step: int, loss: float | None, checkpoint: Path) -> None:
        """Record that the run resumes from a checkpoint, and the loss at that step."""
        self._set_checkpoint(step, checkpoint, max(0.0, time() - checkpoint.stat().st_mtime))
        self._verdict.step, self._verdict.loss = step, loss

    @contextmanager
    def progress_display(self, first_step: int, total_steps: int) -> Iterator[None]:
        """Show progress on the console inside the block."""
        self._meter = ThroughputMeter(first_step, total_steps)
        self._console = open_console()
        try:
            yield
        finally:
            self._console.close()

    def record_steps(self, records: Sequence[StepRecord]) -> StepRecord | None:
        """Write the metrics of further steps; returns the last of them."""
        if self._first:
            self._metrics.append(records)
        self._meter.add(sum(record.samples for record in records))
        if not records:
            return None
        self._verdict.step, self._verdict.loss = records[-1].step, records[-1].loss
        return records[-1]

    def report_progress(self, record: StepRecord) -> None:
        """Report the progress after a step: an event, the console, the operator."""
        if not self._first:
            return
        progress = Progress(
            step=record.step,
            total_steps=self._verdict.total_steps,
            epoch=record.epoch,
            loss=record.loss,
            grad_norm=record.grad_norm,
            learning_rate=record.learning_rate,
            samples_per_second=self._meter.rate(),
            eta=self._meter.eta(record.step),
        )
        emit("progress", **progress.fields())
        self._console.show(progress)
        self._last = progress
        self._poster.update(self._posted(progress))

    def _post_again(self) -> None:
        """Not only with the next step that is logged: the pod may be stopped before."""
        if self._last is not None:
            self._poster.update(self._posted(self._last))

    def _posted(self, progress: Progress) -> dict[str, Any]:
        """The `trainerStatus` of the POST, with what Kubeflow's has no field for."""
        status, checkpoint = progress.status(), self._verdict.dated_checkpoint()
        if checkpoint is not None:
            status["checkpoint"] = checkpoint.wire()
        if self._verdict.base_model_revision is not None:
            status["baseModelRevision"] = self._verdict.base_model_revision
        return status

    def flush_metrics(self) -> None:
        """Flush the metrics to the disk."""
        self._metrics.flush()

    def record_checkpoint(self, step: int, checkpoint: Path) -> None:
        """Record a complete checkpoint."""
        self._set_checkpoint(step, checkpoint)
        emit("checkpoint", step=step)
        self._post_again()

    def record_kept(self, step: int, uri: str, age: float) -> None:
        """Record that a checkpoint has been copied to where it outlives the pod. age: seconds since it was written.

        Called from another thread.
        """
        self._verdict.checkpoint, self._verdict.checkpoint_written = (
            CheckpointRecord(step=step, uri=uri),
            monotonic() - age,
        )
        self._post_again()

    def forget_checkpoint(self) -> None:
        """Record that the checkpoints are gone: the result is there."""
        self._verdict.checkpoint = None

    def record_artifacts(self, artifacts: list[ArtifactRecord]) -> None:
        """Record the files of the result and their URIs."""
        self._verdict.artifacts = artifacts

    def _set_checkpoint(self, step: int, checkpoint: Path, age: float = 0.0) -> None:
        uri = self._storage.uri(checkpoint)
        if uri is not None:
            self._verdict.checkpoint = CheckpointRecord(step=step, uri=uri)
            self._verdict.checkpoint_written = monotonic() - age
