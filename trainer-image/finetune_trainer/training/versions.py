"""The versions that decide the numbers of a run, for its checkpoints and its manifest."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

import torch

from finetune_trainer import __version__

LIBRARIES: Final = ("torch", "torchvision", "transformers", "peft", "diffusers", "safetensors", "tokenizers", "pillow")


def versions() -> dict[str, str]:
    """The versions of the libraries, and the name of the device."""
    found = {"finetune-trainer": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found
