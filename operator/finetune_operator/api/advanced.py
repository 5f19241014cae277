"""Settings of the trainer that no provider has: `spec.backend.job.advanced`, and what the trainer makes of it.

A default stands in the field's text and here, never in the schema: what a user has not set stays absent from the
configuration, whose hash a checkpoint carries.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

from finetune_operator.api.base import INTEGRAL, Ratio, SpecModel
from finetune_operator.api.documented import default_in_words

MAX_AREA = 2**26
MAX_CHECKPOINT_MINUTES = 1440
CHECKPOINT_MINUTES = 15
"""The default of checkpointMinutes, for every recipe."""

Area = Annotated[int, Field(ge=1, le=MAX_AREA), INTEGRAL]


def _in_words(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("flag_or_ratio", "must be true, false or a number between 0 and 1") from None


# A structural schema knows no "boolean or number": every other type fails the second branch by an impossible bound.
FlagOrRatio = Annotated[
    bool | Ratio,
    WrapValidator(_in_words),
    WithJsonSchema(
        {
            "x-kubernetes-preserve-unknown-fields": True,
            "anyOf": [
                {"enum": [True, False]},
                {
                    "minimum": 0,
                    "maximum": 1,
                    "pattern": r"[^\s\S]",
                    "minItems": 1,
                    "maxItems": 0,
                    "minProperties": 1,
                    "maxProperties": 0,
                },
            ],
        }
    ),
]


def _setting(description: str, default: bool | int | float | str) -> Any:
    """A field with a default that the schema does not show."""

    def without_default(schema: dict[str, Any]) -> None:
        schema.pop("default", None)

    return Field(
        default=default,
        description=f"{description} {default_in_words(default)}",
        json_schema_extra=without_default,
    )


class Advanced(SpecModel):
    """advanced holds settings of the trainer that no provider has."""

    shuffle: bool = _setting(
        "shuffle tells whether every epoch trains the rows in a new random order, or in the order of the files.",
        True,
    )
    max_skipped_share: Ratio = _setting(
        "maxSkippedShare is the share of the rows that may be left out because something is wrong with them; they are "
        "counted in the result's manifest. With 0, the first bad row ends the run.",
        0.0,
    )
    too_long: Literal["downscale", "skip", "error"] = _setting(
        "tooLong is what happens to a row that is longer than seqLength: downscale makes its images smaller where that "
        "helps and refuses it otherwise, skip leaves it out, error ends the run.",
        "downscale",
    )
    weight_decay: Annotated[float, Field(ge=0, le=100)] = _setting("weightDecay is the weight decay of AdamW.", 0.0)
    max_grad_norm: Annotated[float, Field(ge=0, le=1_000_000)] = _setting(
        "maxGradNorm is the norm to which the gradient of an optimizer step is clipped; 0 turns clipping off.", 1.0
    )
    lr_schedule: Literal["constant", "linear", "cosine"] = _setting(
        "lrSchedule is how the learning rate goes on after the warm-up: constant, or falling to 0 at the end in a line "
        "(linear) or half a cosine (cosine).",
        "constant",
    )
    warmup_ratio: Ratio = _setting(
        "warmupRatio is the share of all optimizer steps during which the learning rate rises to learningRate.", 0.0
    )
    lora_dropout: Ratio = _setting(
        "loraDropout is the probability with which an input of the LoRA matrices is set to 0 during training.", 0.0
    )
    activation_checkpointing: FlagOrRatio | None = Field(
        default=None,
        description="activationCheckpointing is how many of the model's blocks recompute their activations in the "
        "backward pass, which saves memory and takes time: true for all, false for none, or a share between 0 and 1. "
        "By default as few as fit into memory.",
    )
    compile: bool = _setting(
        "compile tells whether the repeated blocks of the model are compiled for training (torch.compile).", False
    )
    target_area: Area | None = Field(
        default=None,
        description="targetArea is the area in pixels to which the images to learn are resized. By default what the "
        "model was made for.",
    )
    control_area: Area | None = Field(
        default=None,
        description="controlArea is the area in pixels to which images to edit are resized. By default the constant "
        "of the model's pipeline.",
    )
    condition_area: Area | None = Field(
        default=None,
        description="conditionArea is the area in pixels to which images are resized for the text encoder. By default "
        "the constant of the model's pipeline.",
    )
    sample_steps: Annotated[int, Field(ge=1, le=1000), INTEGRAL] = _setting(
        "sampleSteps is the number of denoising steps of the samples that are made during training.", 25
    )
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000), INTEGRAL] = _setting(
        "keepCheckpoints is the number of complete checkpoints that are kept; older ones are deleted.", 2
    )
    checkpoint_minutes: Annotated[float, Field(ge=0, le=MAX_CHECKPOINT_MINUTES)] | None = Field(
        default=None,
        description="checkpointMinutes is the time in minutes after which a checkpoint is saved between those of the "
        "recipe, so that a pod that is lost costs no more; 0 turns it off. A checkpoint that takes long to save is "
        f"saved less often, so that saving takes at most a twentieth of the time. Defaults to {CHECKPOINT_MINUTES}.",
    )
    max_image_pixels: Annotated[int, Field(ge=1, le=2**31 - 1), INTEGRAL] = _setting(
        "maxImagePixels is the largest number of pixels of an image of the dataset; a larger one counts as a bad row.",
        64_000_000,
    )
