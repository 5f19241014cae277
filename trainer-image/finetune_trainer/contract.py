"""What a model family is: a light half that says what it needs, and a heavy half that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from finetune_operator.api.recipes import Recipe
from finetune_trainer.config import Advanced
from finetune_trainer.data.needs import Needs
from finetune_trainer.settings import Settings

if TYPE_CHECKING:
    import torch

    from finetune_trainer.data.store import Store
    from finetune_trainer.distributed.process_group import ProcessGroup
    from finetune_trainer.schedule import Draw


@dataclass(frozen=True)
class Inputs:
    """What a family gets to load itself."""

    base_model: str
    folder: Path
    recipe: Recipe
    settings: Settings
    advanced: Advanced
    store: Store
    cache_dir: Path
    allowed_hosts: frozenset[str]
    """`host` or `host:port` that may be fetched from although its address is private."""
    check: Callable[[], None]
    """Called often while loading; raises to stop."""
    group: ProcessGroup
    """The processes that train together. What is cached is computed once: each computes its share, and all wait."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the CPU. weight: units of the loss in it (answer tokens, or samples for diffusion).

    tokens: of text and pictures, or places of the latents that the denoiser looks at.
    """

    tensors: dict[str, torch.Tensor]
    weight: int
    samples: int
    tokens: int

    def pinned(self) -> Batch:
        """The same in page-locked memory, from where a device takes it while it computes."""
        return replace(self, tensors={name: tensor.pin_memory() for name, tensor in self.tensors.items()})


class Trainee(Protocol):
    """A loaded model with its data, free of hidden state that decides numbers."""

    rows: Sequence[int]
    """Indices into the store of the rows that are trained on."""
    notes: list[str]
    """What the user should know about how the parameters and rows were taken."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizer updates, in a fixed order."""

    def split(self, draws: Sequence[Draw], size: int, *, singly: bool = False) -> list[Sequence[Draw]]:
        """An effective batch as the samples of each forward pass; decides memory and speed, and no number.

        Stacked samples: at most `size` in a pass. A family that packs rows fills its passes up to a number of tokens
        instead, whatever the size. singly: one sample in each, after memory ran out.
        """

    def prepare(self, draws: Sequence[Draw], *, noise: bool = True) -> Batch:
        """Tokens and pixels of some samples; pure, may run in another thread."""

    def train(self, training: bool) -> None:
        """Dropout on or off."""

    def loss_sum(self, batch: Batch) -> torch.Tensor:
        """The loss summed over the batch's units (float32 scalar on the device); differentiable."""

    def outputs(self, batch: Batch) -> torch.Tensor:
        """What the model answers on a batch, to compare before and after a reload."""

    def parts(self) -> dict[str, torch.nn.Module]:
        """Everything that stays in the device's memory, by name: the model, frozen encoders beside it."""

    def save(self, folder: Path) -> None:
        """Write the trained weights, exactly."""

    def restore(self, folder: Path) -> None:
        """Read them back."""

    def export(self, folder: Path) -> None:
        """Write the result as users load it."""

    def reload_exported(self, folder: Path, batch: Batch) -> torch.Tensor:
        """`outputs` of the result as it is read back from the files."""


@runtime_checkable
class Sampling(Protocol):
    """A trainee that shows what it has learnt: pictures, clips."""

    def sample(self, step: int, last: bool, folder: Path, stopped: Callable[[], bool]) -> None:
        """Write the samples that are due after `step` steps below `folder`; gives up once `stopped()`."""


@runtime_checkable
class Offloading(Protocol):
    """A trainee with frozen parts that no step needs."""

    def offloadable(self) -> list[torch.nn.Module]:
        """Those parts, as far as they are on the device and could be away."""

    def offload(self) -> None:
        """Let them leave until something is asked of them; the numbers stay the same. Every process at once."""


class Family(Protocol):
    """Importable without torch."""

    kinds: frozenset[str]
    """`model_type` of config.json or `_class_name` of model_index.json."""
    recipes: frozenset[str]

    def needs(self, recipe: Recipe, advanced: Advanced) -> Needs:
        """The columns and limits of the dataset."""

    def load(self, inputs: Inputs) -> Trainee:
        """Import torch, load the model, attach the adapter. Raises ConfigError or DataError."""
