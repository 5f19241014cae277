"""`metrics.jsonl` beside the result: one line for each optimizer step, numbers unrounded."""

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
    """One optimizer step (1-based). loss is the mean over the step's units."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    samples: int
    tokens: int

    def line(self) -> str:
        """One line of the file."""
        return json.dumps(self.__dict__) + "\n"


class MetricsFile:
    """The file in a run's output folder."""

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / METRICS

    def append(self, records: Iterable[StepRecord]) -> None:
        """Write the lines of further steps."""
        with self.path.open("a") as file:
            file.writelines(record.line() for record in records)

    def flush(self) -> None:
        """Flush the file to the disk."""
        flush(self.path)

    def truncate(self, step: int) -> None:
        """Drop the lines of steps after `step`, which will be trained again, and lines that are torn."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        write_atomically(self.path, "".join(line for line in lines if _is_whole(line, step)))


def _is_whole(line: str, most: int) -> bool:
    try:
        return bool(line.endswith("\n") and json.loads(line)["step"] <= most)
    except (ValueError, KeyError, TypeError):
        return False
