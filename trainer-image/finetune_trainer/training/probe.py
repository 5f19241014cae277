"""A few fixed rows on which the loss is measured before and after training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from finetune_trainer.contract import Batch, Trainee
from finetune_trainer.schedule import Draw


@dataclass(frozen=True)
class Probe:
    """The rows, in micro-batches."""

    batches: list[Batch]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(batch.samples for batch in self.batches)

    @property
    def largest(self) -> Batch:
        """The micro-batch with the most tokens."""
        return max(self.batches, key=lambda batch: batch.tokens)

    @classmethod
    def of(cls, trainee: Trainee, rows: int, micro_batch: int, most: int = 8) -> "Probe":
        """A probe of the first rows of the dataset, at most `most`, without noise."""
        draws = [Draw(row, 0, row) for row in range(min(rows, most))]
        return cls([trainee.prepare(part, noise=False) for part in trainee.split(draws, micro_batch)])

    def loss(self, trainee: Trainee) -> float:
        """The mean loss over the units of all batches."""
        with evaluation(trainee), torch.no_grad():
            total = sum(trainee.loss_sum(batch).item() for batch in self.batches)
        return float(total / sum(batch.weight for batch in self.batches))


@contextmanager
def evaluation(trainee: Trainee) -> Iterator[None]:
    """Evaluation mode, without dropout, inside the block."""
    trainee.train(False)
    try:
        yield
    finally:
        trainee.train(True)
