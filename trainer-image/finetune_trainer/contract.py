"""The interface between the trainer and a model family.

A family has two halves: one that imports without torch and says what the family needs, and one that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.recipes import Recipe
from finetune_trainer.data.needs import Needs
from finetune_trainer.settings import Settings

if TYPE_CHECKING:
    import torch

    from finetune_trainer.data.store import Store
    from finetune_trainer.distributed.process_group import ProcessGroup
    from finetune_trainer.schedule import Draw


@dataclass(frozen=True)
class Inputs:
    """What a family needs to load a model and its data."""

    base_model: str
    """As the user names it."""
    folder: Path
    recipe: Recipe
    settings: Settings
    advanced: Advanced
    store: Store
    cache_dir: Path
    allowed_hosts: frozenset[str]
    """`host` or `host:port` that may be fetched from even if its address is private."""
    check: Callable[[], None]
    """Called often while loading; raises Preempted to stop."""
    group: ProcessGroup
    """The processes that train together. Each computes its share of what is cached, and all wait for one another."""
    base_model_revision: str | None = None
    """The commit of the Hub that the base model's files come from; None for a folder on a claim."""
    base_model_fingerprint: str = ""
    """What a checkpoint remembers of the base model; empty on ranks other than 0."""

    @property
    def pinned(self) -> tuple[str, str | None]:
        """The base model without its revision, and the commit that was used if the user has named a revision."""
        if self.base_model.startswith("pvc://"):
            return self.base_model, None
        name, at, _ = self.base_model.partition("@")
        return name, self.base_model_revision if at else None


@dataclass(frozen=True)
class Batch:
    """One micro-batch, on the CPU.

    weight: units of the loss in it (answer tokens; samples for diffusion). tokens: text and image tokens; for diffusion
    positions in the latents.
    """

    tensors: dict[str, torch.Tensor]
    weight: int
    samples: int
    tokens: int

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which a device copies while it computes."""
        return replace(self, tensors={name: tensor.pin_memory() for name, tensor in self.tensors.items()})


class Trainee(Protocol):
    """A loaded model with its data; no hidden state of it decides any number."""

    rows: Sequence[int]
    """Indices, into the store, of the rows to train on."""
    notes: list[str]
    """What the user should know about how parameters and rows were interpreted."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimizer updates, in a fixed order."""

    def split(self, draws: Sequence[Draw], size: int, *, singly: bool = False) -> list[Sequence[Draw]]:
        """Split an effective batch into the samples of each forward pass; affects memory and speed, and no number.

        size: samples in a pass, at most; a family that packs rows fills each pass up to a number of tokens instead.
        singly: one sample in each pass, after memory ran out.
        """

    def prepare(self, draws: Sequence[Draw], *, noise: bool = True) -> Batch:
        """The micro-batch of some samples; pure, and may run in another thread. noise: False for evaluation."""

    def train(self, training: bool) -> None:
        """Switch to training mode, or to evaluation mode without dropout."""

    def loss_sum(self, batch: Batch) -> torch.Tensor:
        """The loss summed over the batch's units: a differentiable float32 scalar on the device."""

    def outputs(self, batch: Batch) -> torch.Tensor:
        """The model's outputs on a batch, to compare before and after a reload."""

    def parts(self) -> dict[str, torch.nn.Module]:
        """Every module that is held in the device's memory, by name: the model, and frozen encoders beside it."""

    def save(self, folder: Path) -> None:
        """Write the trained weights, bit for bit."""

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""

    def export(self, folder: Path) -> None:
        """Write the result in the format that users load."""

    def reload_exported(self, folder: Path, batch: Batch) -> torch.Tensor:
        """`outputs` of the exported result, loaded from its files."""


@runtime_checkable
class Sampling(Protocol):
    """A trainee that generates samples while it trains."""

    def sample(self, step: int, last: bool, folder: Path, stopped: Callable[[], bool]) -> None:
        """Write the samples that are due after `step` steps below `folder`; returns early once `stopped()`."""


@runtime_checkable
class Offloading(Protocol):
    """A trainee with frozen parts that no step needs."""

    def offloadable(self) -> list[torch.nn.Module]:
        """The parts that are on the device and can leave it."""

    def offload(self) -> None:
        """Move them off the device until they are used; no number changes. Called on every rank at once."""


class Family(Protocol):
    """The half of a family that imports without torch."""

    kinds: frozenset[str]
    """`model_type` of config.json or `_class_name` of model_index.json."""
    recipes: frozenset[str]

    def needs(self, recipe: Recipe, advanced: Advanced) -> Needs:
        """The columns that the recipe needs, and the limits of the dataset."""

    def load(self, inputs: Inputs) -> Trainee:
        """Import torch, load the model, and attach the adapter. Raises ConfigError or DataError."""
