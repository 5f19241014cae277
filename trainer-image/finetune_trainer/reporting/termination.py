"""The termination message: how a run ended."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Literal

from finetune_operator.api.trainer_config import ArtifactRecord, CheckpointRecord, TerminationMessage
from finetune_trainer.errors import AnyReason, TrainerReason
from finetune_trainer.reporting.redact import redact


@dataclass
class Verdict:
    """The content of the termination message, filled in while the run proceeds."""

    state: Literal["Succeeded", "Failed", "Preempted"] = "Failed"
    reason: AnyReason = TrainerReason.TRAINER_FAILED
    message: str = ""
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    checkpoint: CheckpointRecord | None = None
    checkpoint_written: float = 0.0
    """When, by time.monotonic()."""
    base_model_revision: str | None = None
    artifacts: list[ArtifactRecord] = field(default_factory=list)

    def dated_checkpoint(self) -> CheckpointRecord | None:
        """The newest checkpoint, with its age now."""
        if self.checkpoint is None:
            return None
        age = max(0, round(monotonic() - self.checkpoint_written))
        return self.checkpoint.model_copy(update={"age_seconds": age})

    def render(self, secrets: Iterable[str] = ()) -> str:
        """The JSON of the contract, with secrets redacted."""
        return TerminationMessage(
            state=self.state,
            reason=self.reason,
            message=redact(self.message, secrets),
            step=self.step,
            total_steps=self.total_steps,
            loss=self.loss if self.loss is not None and isfinite(self.loss) else None,
            checkpoint=self.dated_checkpoint(),
            base_model_revision=self.base_model_revision,
            artifacts=self.artifacts,
        ).to_json()

    def write(self, path: Path | None, secrets: Iterable[str] = ()) -> None:
        """Write the message to the file that the kubelet reads. Never raises: the exit code says the essential."""
        if path is None:
            return
        try:
            path.write_text(self.render(secrets))  # in place: the file itself is the kubelet's mount
        except OSError as error:
            print(f"the termination message could not be written: {error}", flush=True)
