"""Which rows are trained at which step, and the determinism rule.

Data order, noise and timesteps depend only on (seed, epoch, step, sample).

Every random number of a run comes from a CPU generator seeded by the first 8 bytes (big-endian) of blake2b, digest
size 8, of a short text:

- order of epoch e (from 0): `randperm(rows)` of the generator of `"{seed}:epoch:{e}"`;
- sample i (from 0, within the whole effective batch) of optimizer step s (from 0): the generator of `"{seed}:{s}:{i}"`;
  for diffusion the timestep is drawn first (one float32: `rand` for linear and weighted, `randn` for sigmoid), then
  `randn` float32 in the shape of the unpacked latent; NEFTune draws `rand` (tokens, width) from it;
- `torch.manual_seed(seed)` immediately before the adapter is created.

So nothing depends on the number of workers or ranks, on how a step is split into forward passes, or on an interruption.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import torch


def seed_of(text: str) -> int:
    """First 8 bytes, big-endian, of blake2b-8 of the text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def generator(text: str) -> torch.Generator:
    """A CPU generator seeded by the text."""
    return torch.Generator("cpu").manual_seed(seed_of(text))


def sample_generator(seed: int, step: int, index: int) -> torch.Generator:
    """The generator of sample `index` (0-based in the effective batch) of optimizer step `step` (0-based)."""
    return generator(f"{seed}:{step}:{index}")


def epoch_order(seed: int, epoch: int, rows: int, shuffle: bool = True) -> list[int]:
    """The rows of one epoch (0-based), in the order of training."""
    if not shuffle:
        return list(range(rows))
    order: list[int] = torch.randperm(rows, generator=generator(f"{seed}:epoch:{epoch}")).tolist()
    return order


@dataclass(frozen=True)
class Draw:
    """One sample of one optimizer step."""

    row: int
    step: int
    index: int
    """0-based within the whole effective batch; names the generator of its noise."""


class Schedule(Protocol):
    """Which rows are trained at which optimizer step."""

    total_steps: int

    def at(self, step: int) -> list[Draw]:
        """The effective batch of one step."""

    def epoch_at(self, step: int) -> float:
        """Epochs that are complete after `step` steps."""

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is complete after `step` steps."""


class EpochSchedule:
    """Whole epochs; the last step of an epoch takes the remaining rows, as transformers' Trainer does."""

    def __init__(self, seed: int, rows: int, per_step: int, epochs: int, shuffle: bool = True) -> None:
        self._seed, self._rows, self._per_step, self._shuffle = seed, rows, per_step, shuffle
        self.steps_per_epoch = math.ceil(rows / per_step)
        self.total_steps = self.steps_per_epoch * epochs
        self._order: tuple[int, list[int]] | None = None

    def at(self, step: int) -> list[Draw]:
        """The effective batch of one step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, epoch_order(self._seed, epoch, self._rows, self._shuffle))
        rows = self._order[1][position * self._per_step : (position + 1) * self._per_step]
        return [Draw(row, step, index) for index, row in enumerate(rows)]

    def epoch_at(self, step: int) -> float:
        """Epochs that are complete after `step` steps."""
        return step / self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch is complete after `step` steps."""
        return step % self.steps_per_epoch == 0


class StepSchedule:
    """A number of steps, in which epochs follow one another without a gap; the diffusion recipes count steps."""

    def __init__(self, seed: int, rows: int, per_step: int, steps: int, shuffle: bool = True) -> None:
        self._seed, self._rows, self._per_step, self._shuffle = seed, rows, per_step, shuffle
        self.total_steps = steps
        self._orders: dict[int, list[int]] = {}

    def at(self, step: int) -> list[Draw]:
        """The effective batch of one step."""
        first = step * self._per_step
        rows = [self._row(position) for position in range(first, first + self._per_step)]
        return [Draw(row, step, index) for index, row in enumerate(rows)]

    def epoch_at(self, step: int) -> float:
        """Epochs that are complete after `step` steps."""
        return step * self._per_step / self._rows

    def ends_epoch(self, step: int) -> bool:
        """Whether the last sample of an epoch was in step number `step` (1-based)."""
        return (step * self._per_step) // self._rows > ((step - 1) * self._per_step) // self._rows

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, self._rows)
        if epoch not in self._orders:
            self._orders = {key: value for key, value in self._orders.items() if key == epoch - 1}
            self._orders[epoch] = epoch_order(self._seed, epoch, self._rows, self._shuffle)
        return self._orders[epoch][offset]
