"""LoRA on the trained parts of a pipeline: attached, saved, restored, exported in two layouts, and reloaded.

Each part has its own files: no loader of diffusers or ComfyUI reads one file into two denoisers.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from finetune_trainer.diffusion.denoiser import Denoiser
from finetune_trainer.errors import RunError
from finetune_trainer.settings import Settings

CHECKPOINT: Final = "adapter.safetensors"
DIFFUSERS_FILE: Final = "pytorch_lora_weights.safetensors"
COMFYUI_FILE: Final = "comfyui.safetensors"
EXACT: Final = 1e-5
ROUNDED: Final = 2e-2
"""Largest relative error of a reloaded update in float32, or rounded to bf16. A lost alpha is a factor of 2 or more."""


def targets(model: torch.nn.Module, blocks: Iterable[str], unused: set[str]) -> str:
    """A regular expression for the full names of every Linear below `blocks`, except the unused ones."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(re.match(rf"{block}\.", name) for block in blocks)
    ]
    kinds = sorted({re.sub(r"(^|\.)\d+(?=\.)", r"\1#", name) for name in names if name not in unused})
    pattern = "|".join(re.escape(kind).replace(r"\#", r"\d+") for kind in kinds)
    but = "|".join(re.escape(name) for name in sorted(unused))
    return f"(?!(?:{but})$)(?:{pattern})" if but else f"(?:{pattern})"


def attach(denoiser: Denoiser, settings: Settings, dropout: float) -> None:
    """Add LoRA matrices (float32) to each frozen part. The seed is set immediately before each."""
    for model in denoiser.models.values():
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=dropout,
            target_modules=targets(model, denoiser.blocks, denoiser.unused(model)),
        )
        torch.manual_seed(settings.seed)
        model.add_adapter(config)
    for weight in denoiser.models.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def save(models: torch.nn.ModuleDict, folder: Path) -> None:
    """Write the weights exactly, prefixed by their part."""
    save_file(_all_weights(models), folder / CHECKPOINT)


def restore(models: torch.nn.ModuleDict, folder: Path) -> None:
    """Restore exactly the weights that `save` wrote. Raises ValueError if they do not fit."""
    weights = load_file(folder / CHECKPOINT)
    if _all_weights(models).keys() != weights.keys():
        raise ValueError(f"the adapter in {folder.name} does not fit the model")
    for part, model in models.items():
        own = {name: tensor for name, tensor in weights.items() if name.startswith(f"{part}.")}
        set_peft_model_state_dict(model, {name.removeprefix(f"{part}."): tensor for name, tensor in own.items()})


def export(denoiser: Denoiser, settings: Settings, folder: Path) -> None:
    """Write, for each part, a file for diffusers, with alpha in its metadata, and one for ComfyUI or kohya's tools."""
    from diffusers.training_utils import _collate_lora_metadata

    key = denoiser.part  # also for a second denoiser: the loader gets its part as an argument
    for part, model in denoiser.models.items():
        name = _name(DIFFUSERS_FILE, denoiser.parts[part])
        type(denoiser.pipe).save_lora_weights(
            folder,
            weight_name=name,
            **{f"{key}_lora_layers": _weights(model)},
            **{name: _ordered(values) for name, values in _collate_lora_metadata({key: model}).items()},
        )
        _order_metadata(folder / name)
        weights = denoiser.comfyui(_weights(model), settings.lora_alpha / settings.lora_rank, settings.lora_rank)
        contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(contiguous, folder / _name(COMFYUI_FILE, denoiser.parts[part]))


def _ordered(metadata: dict[str, Any]) -> dict[str, Any]:
    """With lists in the place of sets, whose order changes from process to process."""
    return {name: sorted(value) if isinstance(value, set) else value for name, value in metadata.items()}


def _order_metadata(file: Path) -> None:
    """Sort the metadata of a safetensors file by name, in place: the library writes it in the order of a hash map.

    Source of the layout: the safetensors format, 8 bytes (little-endian) with the size of a JSON header, the header,
    padded with spaces, and the tensors.
    """
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        metadata = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))}
        text = json.dumps({**metadata, **header}, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise RunError(f"the header of {file.name} is not what the safetensors library writes")
        stream.seek(8)
        stream.write(text.ljust(size))


def reloaded(denoiser: Denoiser, folder: Path, outputs: Callable[[], torch.Tensor]) -> Iterator[torch.Tensor]:
    """`outputs()` with each of the exported files in turn, instead of the trained adapter of its part."""
    for part, ending in denoiser.parts.items():
        for layout in (DIFFUSERS_FILE, COMFYUI_FILE):
            yield _with_reloaded(denoiser, part, folder / _name(layout, ending), outputs)


def _with_reloaded(denoiser: Denoiser, part: str, file: Path, outputs: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Load a file through the pipeline, as users do; for a part other than the first, with its argument."""
    model, pipe = denoiser.models[part], denoiser.pipe
    options = {} if part == denoiser.part else {f"load_into_{part}": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a second adapter beside the trained one, and its removal
        try:
            pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="reloaded", **options)
            if "reloaded" not in model.peft_config:
                raise RunError(f"{file.name} was loaded without any effect")
            _require_same(model, file.name, EXACT if denoiser.base.dtype is torch.float32 else ROUNDED)
            model.set_adapter("reloaded")
            return outputs()
        finally:
            if "reloaded" in model.peft_config:
                model.delete_adapters("reloaded")
            model.set_adapter("default")


def _require_same(model: Any, name: str, tolerance: float) -> None:
    """Raise RunError unless every pair of matrices, with alpha, was reloaded.

    In bf16, outputs would not show this: the libraries round a reloaded adapter to the dtype of the model.
    """
    for module_name, module in model.named_modules():
        scaling = getattr(module, "scaling", None)
        if not isinstance(scaling, dict) or "default" not in scaling:
            continue
        if "reloaded" not in scaling:
            raise RunError(f"{name} has lost {module_name}")
        trained, found = (
            scaling[adapter] * module.lora_B[adapter].weight.float() @ module.lora_A[adapter].weight.float()
            for adapter in ("default", "reloaded")
        )
        if (trained - found).norm() > tolerance * trained.norm():
            raise RunError(f"{name} has changed {module_name}")


def prefixed(weights: dict[str, torch.Tensor], prefix: str, scale: float, rank: int) -> dict[str, torch.Tensor]:
    """`<prefix>.<module>.lora_A.weight`, `.lora_B.weight` and `.alpha`."""
    found = {f"{prefix}.{name}": tensor for name, tensor in weights.items()}
    for name in weights:
        if name.endswith(".lora_A.weight"):
            found[f"{prefix}.{name.removesuffix('.lora_A.weight')}.alpha"] = torch.tensor(scale * rank)
    return found


def folded(weights: dict[str, torch.Tensor], prefix: str, scale: float) -> dict[str, torch.Tensor]:
    """`<prefix>.<module>.lora_A.weight` and `.lora_B.weight`, the latter scaled, without alpha."""
    return {
        f"{prefix}.{name}": tensor * scale if name.endswith(".lora_B.weight") else tensor
        for name, tensor in weights.items()
    }


def _name(file: str, ending: str) -> str:
    stem, _, kind = file.rpartition(".")
    return f"{stem}{ending}.{kind}"


def _all_weights(models: torch.nn.ModuleDict) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": tensor for part, model in models.items() for name, tensor in _weights(model).items()}


def _weights(model: Any) -> dict[str, torch.Tensor]:
    found = get_peft_model_state_dict(model, adapter_name="default")
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
