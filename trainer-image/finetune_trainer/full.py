"""Training all weights of a part of a model: saved and restored exactly, and refused at once where it cannot fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import ConfigError

WEIGHTS: Final = "trained.safetensors"
BYTES_PER_TRAINED_WEIGHT: Final = 16
"""float32 weight, gradient, and two Adam moments."""
BYTES_PER_FROZEN_WEIGHT: Final = 2


def save(model: torch.nn.Module, folder: Path) -> None:
    """All trained weights under their names."""
    save_file({name: weight.detach().contiguous() for name, weight in _trained(model)}, folder / WEIGHTS)


def restore(model: torch.nn.Module, folder: Path) -> None:
    """The exact weights that `save` wrote."""
    saved, trained = load_file(folder / WEIGHTS), dict(_trained(model))
    if saved.keys() != trained.keys():
        raise ValueError(f"the weights in {folder.name} do not fit the model")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(saved[name])


def require_memory(model: Any, parts: Sequence[torch.nn.Module]) -> None:
    """Raise ConfigError, with the arithmetic, if a CUDA device cannot hold weights, gradients and optimizer."""
    if model.device.type != "cuda":
        return
    trained = len_of({id(weight): weight for part in parts for weight in part.parameters()})
    frozen = len_of({id(weight): weight for weight in model.parameters()}) - trained
    needed = trained * BYTES_PER_TRAINED_WEIGHT + frozen * BYTES_PER_FROZEN_WEIGHT
    total = torch.cuda.get_device_properties(model.device).total_memory
    if needed > total:
        raise ConfigError(
            f"useLora false trains {trained / 1e9:.2f} billion weights at {BYTES_PER_TRAINED_WEIGHT} bytes and keeps "
            f"{frozen / 1e9:.2f} billion at {BYTES_PER_FROZEN_WEIGHT}: {needed / 2**30:.0f} GiB without activations, "
            f"and the device has {total / 2**30:.0f} GiB. Use useLora true, a smaller model or a larger device"
        )


def len_of(weights: dict[int, torch.nn.Parameter]) -> int:
    """Number of scalars."""
    return sum(weight.numel() for weight in weights.values())


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
