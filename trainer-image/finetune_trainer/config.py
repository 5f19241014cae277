"""The configuration file of a run: the operator's model, and the advanced options that only the trainer knows."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from finetune_operator.api.base import NonNegative, PositiveInt, Ratio, SpecModel
from finetune_operator.api.trainer_config import TrainerConfig
from finetune_trainer.errors import ConfigError


class Advanced(SpecModel):
    """The `advanced` block. Every field has a default; unknown fields are rejected."""

    shuffle: bool = Field(default=True, description="False trains the rows in file order in every epoch.")
    max_skipped_share: Ratio = Field(default=0.0, description="Share of bad rows that may be left out (counted).")
    too_long: Literal["downscale", "skip", "error"] = Field(
        default="downscale",
        description="Rows longer than seqLength: smaller images where that helps, left out (counted), or refused.",
    )
    weight_decay: NonNegative = Field(default=0.0, description="AdamW weight decay.")
    max_grad_norm: NonNegative = Field(default=1.0, description="Gradient clipping; 0 is off.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(default="constant", description="After the warm-up.")
    warmup_ratio: Ratio = Field(default=0.0, description="Share of all updates with a rising learning rate.")
    lora_dropout: Ratio = Field(default=0.0, description="Dropout before the LoRA matrices.")
    activation_checkpointing: bool | Ratio | None = Field(
        default=None,
        description="Recompute the activations of all blocks, none, or a share. Default: as few as fit into memory.",
    )
    compile: bool = Field(default=False, description="Compile the repeated blocks for training (torch.compile).")
    target_area: PositiveInt | None = Field(
        default=None, description="Area in pixels of the pictures to learn. Default: what the model was made for."
    )
    control_area: PositiveInt | None = Field(
        default=None, description="Area in pixels of images to edit. Default: the constant of the model's pipeline."
    )
    condition_area: PositiveInt | None = Field(
        default=None, description="Area in pixels of images for the text encoder. Default: the pipeline's constant."
    )
    sample_steps: PositiveInt = Field(default=25, description="Denoising steps of samples made while training.")
    keep_checkpoints: PositiveInt = Field(default=2, description="Complete checkpoints that are kept.")
    max_image_pixels: PositiveInt = Field(default=64_000_000, description="Larger images count as bad rows.")


def read_config(path: Path) -> tuple[TrainerConfig, Advanced]:
    """Parse the file at `path`. Raises ConfigError that names every invalid field."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error}") from error
    try:
        config = TrainerConfig.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"the configuration is not valid: {_problems(error)}") from error
    try:
        return config, Advanced.model_validate(config.advanced or {})
    except ValidationError as error:
        raise ConfigError(f"the block advanced is not valid: {_problems(error)}") from error


def _problems(error: ValidationError) -> str:
    found = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}" for problem in error.errors()
    ]
    return "; ".join(found[:10])
