"""LoRA through peft: attached, saved, restored, and reloaded as users load it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from finetune_trainer.settings import Settings


def attach(
    model: Any, targets: str, settings: Settings, dropout: float, base_model: str, revision: str | None
) -> PeftModel:
    """Freeze a model, and add LoRA matrices (float32) to its modules.

    targets: regular expression for the full names of the modules. base_model, revision: where users find the
    base model. The seed is set immediately before, so that the initial matrices depend on nothing else.
    """
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft's own
        torch.manual_seed(settings.seed)
        peft_model = get_peft_model(model, config)
    # By default peft writes the folder that the model was loaded from, which means nothing outside this pod.
    peft_model.peft_config["default"].base_model_name_or_path = base_model
    peft_model.peft_config["default"].revision = revision
    return peft_model


def save(model: PeftModel, folder: Path) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`."""
    # False: "auto" would look for the base model's vocabulary on the hub.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty template


def restore(model: PeftModel, folder: Path) -> None:
    """Restore exactly the weights that `save` wrote. Raises ValueError if they do not fit."""
    weights = load_file(folder / "adapter_model.safetensors")
    result = set_peft_model_state_dict(model, weights)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if result.unexpected_keys or expected != weights.keys():
        raise ValueError(f"the adapter in {folder.name} does not fit the model")


def with_reloaded(model: PeftModel, folder: Path, outputs: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`outputs()` of the model with the adapter that peft loads from the folder, instead of the trained one."""
    model.load_adapter(str(folder), adapter_name="reloaded")
    try:
        model.set_adapter("reloaded")
        return outputs()
    finally:
        model.set_adapter("default")
        model.delete_adapter("reloaded")
