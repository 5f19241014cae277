"""`metrics.jsonl` in the output folder: one line for each optimizer step, with unrounded numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_trainer.files import flush, write_atomically

METRICS: Final = "metrics.jsonl"


@dataclass(frozen=True)
class StepRecord:
    """The metrics of one optimizer step. step: 1-based. loss: the mean over the units of the step."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    samples: int
    tokens: int

    def line(self) -> str:
        """The step's line in the file."""
        return json.dumps(self.__dict__) + "\n"


class MetricsFile:
    """The file in a run's output folder."""

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / METRICS

    def append(self, records: Iterable[StepRecord]) -> None:
        """Append a line for each step."""
        with self.path.open("a") as file:
            file.writelines(record.line() for record in records)

    def flush(self) -> None:
        """Flush the file to the disk."""
        flush(self.path)

    def truncate(self, step: int) -> None:
        """Remove the lines of steps after `step`, which will be trained again, and incomplete lines."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        write_atomically(self.path, "".join(line for line in lines if _is_complete(line, step)))


def _is_complete(line: str, last_step: int) -> bool:
    try:
        return bool(line.endswith("\n") and json.loads(line)["step"] <= last_step)
    except (ValueError, KeyError, TypeError):
        return False
