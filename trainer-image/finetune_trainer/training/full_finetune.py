"""Training of all weights: saved and restored exactly, and refused early where it cannot fit into memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import ConfigError
from finetune_trainer.training.memory import GIB, total_memory

WEIGHTS: Final = "trained.safetensors"
BYTES_PER_TRAINED_WEIGHT: Final = 16
"""A float32 weight, its gradient, and two moments of Adam."""


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write all trained weights, by name."""
    save_file({name: weight.detach().contiguous() for name, weight in _trained(model)}, folder / WEIGHTS)


def restore(model: torch.nn.Module, folder: Path) -> None:
    """Restore exactly the weights that `save` wrote. Raises ValueError if they do not fit."""
    saved, trained = load_file(folder / WEIGHTS), dict(_trained(model))
    if saved.keys() != trained.keys():
        raise ValueError(f"the weights in {folder.name} do not fit the model")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(saved[name])


def require_memory(model: Any, parts: Sequence[torch.nn.Module]) -> None:
    """Raise ConfigError, with the calculation, if the device cannot hold weights, gradients and optimizer states.

    model: contains the parts, or is one of them; has a `device` and a `dtype`. On the CPU the pod's limit applies.
    parts: of which all weights are trained.
    """
    trained = _count({id(weight): weight for part in parts for weight in part.parameters()})
    frozen = _count({id(weight): weight for part in (model, *parts) for weight in part.parameters()}) - trained
    refused = refusal(trained, frozen, model.dtype.itemsize, total_memory(model.device))
    if refused is not None:
        raise ConfigError(refused)


def refusal(trained: int, frozen: int, bytes_per_frozen: int, total: int) -> str | None:
    """The reason why so many weights cannot be trained in `total` bytes, without activations; None if they can."""
    needed = trained * BYTES_PER_TRAINED_WEIGHT + frozen * bytes_per_frozen
    if needed <= total:
        return None
    most = max(0, total - frozen * bytes_per_frozen) // BYTES_PER_TRAINED_WEIGHT
    return (
        f"useLora false trains {trained / 1e9:.2f} billion weights at {BYTES_PER_TRAINED_WEIGHT} bytes and keeps "
        f"{frozen / 1e9:.2f} billion at {bytes_per_frozen}: {needed / GIB:.1f} GiB without activations, and there are "
        f"{total / GIB:.1f} GiB, enough for {most / 1e9:.2f} billion. Use useLora true, a smaller model or more memory"
    )


def _count(weights: dict[int, torch.nn.Parameter]) -> int:
    return sum(weight.numel() for weight in weights.values())


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
