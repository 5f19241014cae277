"""`spec.backend.scenario`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_operator.api.base import INTEGRAL, Label, NonNegative, PositiveInt, Prompt, Ratio, SecretRef, SpecModel
from finetune_operator.api.providers.backend import UpstreamBackend


class ScenarioParameters(SpecModel):
    """parameters are Scenario's training parameters that no field of a recipe stands for, under Scenario's names."""

    nb_epochs: PositiveInt | None = Field(
        default=None,
        description="nbEpochs is the number of epochs. It is between 1 and 30 for Flux LoRA, and between 1 and 100 "
        "for the Musubi families, where it defaults to 10.",
    )
    nb_repeats: PositiveInt | None = Field(
        default=None,
        description="nbRepeats is the number of times that each image is repeated. It is between 1 and 30 for Flux "
        "LoRA, and between 1 and 100 for the Musubi families, where it defaults to 20.",
    )
    learning_rate_text_encoder: Annotated[float, Field(ge=0, le=0.001)] | None = Field(
        default=None,
        description="learningRateTextEncoder is the learning rate of the text encoder. For Flux LoRA it is at least "
        "0.000001 and defaults to 0.00001; for SDXL it defaults to 0.00005.",
    )
    learning_rate_unet: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="learningRateUnet is the learning rate of the UNet (SDXL LoRA)."
    )
    num_text_train_steps: Annotated[int, Field(ge=0, le=40_000), INTEGRAL] | None = Field(
        default=None,
        description="numTextTrainSteps is the number of training steps for the text encoder (SDXL LoRA).",
    )
    num_unet_train_steps: Annotated[int, Field(ge=0, le=40_000), INTEGRAL] | None = Field(
        default=None,
        alias="numUNetTrainSteps",
        description="numUNetTrainSteps is the number of training steps for the UNet (SDXL LoRA).",
    )
    optimize_for: Literal["likeness", "all", "none"] | None = Field(
        default=None,
        description="optimizeFor selects the transformer blocks that are trained (Flux LoRA): those that matter for a "
        "likeness, all, or none in particular.",
    )
    class_prompt: Prompt | None = Field(
        default=None, description="classPrompt is the prompt that describes the class of the images (SD 1.5)."
    )
    sample_source_images: Annotated[list[Label], Field(max_length=4)] | None = Field(
        default=None,
        description="sampleSourceImages are the IDs of Scenario assets, one for each sample of the recipe (Flux LoRA).",
    )
    lr_scheduler: (
        Literal["constant", "constant-with-warmup", "cosine", "cosine-with-restarts", "linear", "polynomial"] | None
    ) = Field(
        default=None,
        description="lrScheduler is the schedule of the learning rate (SD 1.5, SDXL). Scenario defaults it to "
        "constant.",
    )
    prior_loss_weight: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="priorLossWeight is the weight of the prior preservation loss (SD 1.5, SDXL)."
    )
    random_crop: bool | None = Field(
        default=None,
        description="randomCrop tells whether images are cropped at random (SD 1.5, SDXL). Scenario defaults it to "
        "false.",
    )
    random_crop_ratio: Ratio | None = Field(
        default=None, description="randomCropRatio is the ratio of random crops (SD 1.5, SDXL)."
    )
    random_crop_scale: Ratio | None = Field(
        default=None, description="randomCropScale is the scale of random crops (SD 1.5, SDXL)."
    )
    scale_lr: bool | None = Field(
        default=None, description="scaleLr is a legacy parameter that Scenario ignores (SD 1.5, SDXL)."
    )
    text_encoder_training_ratio: Annotated[float, Field(ge=0, le=0.99)] | None = Field(
        default=None,
        description="textEncoderTrainingRatio is a legacy parameter: the share of the steps that train the text "
        "encoder (SD 1.5, SDXL).",
    )
    validation_frequency: NonNegative | None = Field(
        default=None,
        description="validationFrequency is the number of steps between two validations, at most the recipe's steps "
        "(SD 1.5, SDXL).",
    )
    validation_prompt: Prompt | None = Field(
        default=None, description="validationPrompt is the prompt that is used for validations (SD 1.5, SDXL)."
    )


class Scenario(UpstreamBackend):
    """scenario runs the fine-tune at Scenario (scenario.com)."""

    secret_ref: SecretRef = Field(
        description="secretRef names the Secret with the credentials for the provider, under the keys api-key and "
        "api-secret, or under the key token."
    )
    project_id: Label | None = Field(
        default=None, description="projectId is the ID of the Scenario project that owns the model."
    )
    model_type: Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")] = Field(
        description="modelType is Scenario's type of the model to train: one that ends in -lora, for example "
        "flux.1-lora, or elevenlabs-voice with recipe voice."
    )
    description: Annotated[str, Field(max_length=180)] | None = Field(
        default=None,
        description="description is the text that is put into Scenario's shortDescription, in front of the operator's "
        "marker.",
    )
    class_slug: Annotated[str, Field(max_length=128, pattern=r"^[a-z0-9-]+$")] | None = Field(
        default=None, description="classSlug is the slug of Scenario's class for the model."
    )
    collection_ids: Annotated[list[Label], Field(max_length=16)] | None = Field(
        default=None, description="collectionIds are the IDs of the Scenario collections that the model is added to."
    )
    parameters: ScenarioParameters | None = Field(
        default=None,
        description="parameters are Scenario's training parameters that no field of a recipe stands for, under "
        "Scenario's names.",
    )
