"""The nine recipes: Oxen's eight script types and Scenario's voice cloning, with the providers' own field names.

Hyper-parameters have no schema default (a default could not be told from a choice); `parameter` keeps the documented
one beside the field, `defaults.resolve_parameters` applies it once per run. Source of names, types, bounds and
defaults: the Oxen fine-tuning reference and the Scenario training reference.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from finetune_operator.api.base import (
    Column,
    NonNegative,
    PositiveInt,
    Prompt,
    Ratio,
    Seed,
    SpecModel,
    Url,
)

DOCUMENTED_DEFAULT: Final = "x-documented-default"


def parameter(description: str, *, default: bool | int | float | str | None = None) -> Any:
    """An optional hyper-parameter. `default`: what the job and oxen backends use when it is not set."""
    if default is None:
        return Field(default=None, description=description)
    return Field(
        default=None,
        description=f"{description} Default: {json.dumps(default)}.",
        json_schema_extra={DOCUMENTED_DEFAULT: default},
    )


class Recipe(SpecModel):
    """What every recipe has."""

    seed: Seed | None = parameter(
        "Seed of every random choice of the run. Default of backend job: 42. Backends oxen and bfl take none."
    )


class TextRecipe(Recipe):
    """What the three recipes have that train a language model."""

    batch_size: PositiveInt | None = parameter("Rows per step on each device.", default=1)
    enable_thinking: bool | None = parameter("Let the chat template open a thinking block.", default=False)
    epochs: PositiveInt | None = parameter("Passes over the dataset.", default=1)
    grad_accum: PositiveInt | None = parameter("Steps whose gradients are added before an update.", default=1)
    learning_rate: NonNegative | None = parameter("Peak learning rate.", default=0.0001)
    logging_steps: PositiveInt | None = parameter("Updates between two reports of the loss.", default=10)
    lora_alpha: PositiveInt | None = parameter("LoRA scale numerator.", default=16)
    lora_rank: PositiveInt | None = parameter("Rank of the LoRA matrices (1 to 128 is sensible).", default=16)
    neftune_noise_alpha: NonNegative | None = parameter("NEFTune noise on the embeddings; 0 is off.", default=0)
    save_steps_ratio: Ratio | None = parameter(
        "With saveStrategy steps: the share of all updates between two checkpoints.", default=0.25
    )
    save_strategy: Literal["epoch", "steps"] | None = parameter("When a checkpoint is written.", default="epoch")
    seq_length: PositiveInt | None = parameter("Longest row in tokens.", default=1024)
    use_lora: bool | None = parameter("Train a LoRA adapter; false trains all weights.", default=True)


class TextGeneration(TextRecipe):
    """Oxen script type text_generation: a question and its answer."""

    question_column: Column = Field(description="Column with the prompt.")
    answer_column: Column = Field(description="Column with the answer to learn.")


class TextChatMessages(TextRecipe):
    """Oxen script type text_chat_messages: whole conversations."""

    messages_column: Column = Field(description="Column with a list of messages, each with role and content.")


class ImageToText(TextRecipe):
    """Oxen script type image_to_text: images and a question, and the answer."""

    question_column: Column = Field(description="Column with the prompt or question about the images.")
    answer_column: Column = Field(description="Column with the caption or answer to learn.")
    image_columns: Annotated[list[Column], Field(max_length=16)] = Field(
        description="Columns with the images (bytes, or paths relative to the dataset), in the order of the prompt."
    )
    seq_length: PositiveInt | None = parameter("Longest row in tokens, images included.", default=4096)


class Sample(SpecModel):
    """A picture or clip to make while training, to see progress."""

    prompt: Prompt = Field(description="What to generate.")


class EditSample(Sample):
    """A sample that edits one image."""

    ctrl_img_url: Url | None = Field(default=None, description="The image to edit (https).")


class MultiEditSample(Sample):
    """A sample that edits several images."""

    ctrl_img_urls: Annotated[list[Url], Field(max_length=16)] | None = Field(
        default=None, description="The images to edit (https), in the order of controlImageColumns."
    )


class ImageRecipe(Recipe):
    """What the five recipes have that train a diffusion model."""

    caption_column: Column = Field(description="Column with the caption or instruction.")
    image_column: Column = Field(description="Column with the picture or clip to learn.")
    batch_size: PositiveInt | None = parameter("Rows per step on each device.", default=1)
    gradient_accumulation: PositiveInt | None = parameter(
        "Steps whose gradients are added before an update.", default=1
    )
    learning_rate: NonNegative | None = parameter("Learning rate.", default=0.0002)
    lora_alpha: PositiveInt | None = parameter("LoRA scale numerator.", default=16)
    lora_rank: PositiveInt | None = parameter("Rank of the LoRA matrices.", default=16)
    sample_every: PositiveInt | None = parameter("Updates between two rounds of samples.", default=200)
    steps: PositiveInt | None = parameter("Updates in all.", default=3000)
    timestep_type: Literal["weighted", "sigmoid", "linear"] | None = parameter(
        "How timesteps are drawn.", default="weighted"
    )
    use_lora: bool | None = parameter("Train a LoRA adapter; false trains all weights.", default=True)


class ImageGeneration(ImageRecipe):
    """Oxen script type image_generation: text to image."""

    steps: PositiveInt | None = parameter("Updates in all.", default=2000)
    timestep_type: Literal["weighted", "sigmoid", "linear"] | None = parameter(
        "How timesteps are drawn.", default="sigmoid"
    )
    samples: Annotated[list[Sample], Field(max_length=32)] | None = parameter(
        "What to generate in each round of samples."
    )
    trigger_word: Annotated[str, Field(min_length=1, max_length=64)] | None = parameter(
        "Word that calls the learnt subject or style; put before captions that lack it. No default, but TOK with bfl."
    )


class ImageEditing(ImageRecipe):
    """Oxen script type image_editing: one image in, one image out."""

    control_image_column: Column = Field(description="Column with the image to edit.")
    cache_text_embeddings: bool | None = parameter("Encode every caption once, before training.", default=False)
    sample_height: PositiveInt | None = parameter("Height of samples in pixels.", default=1024)
    sample_width: PositiveInt | None = parameter("Width of samples in pixels.", default=1024)
    samples: Annotated[list[EditSample], Field(max_length=32)] | None = parameter(
        "What to generate in each round of samples."
    )


class MultiImageEditing(ImageRecipe):
    """Oxen script type multi_image_editing: several images in, one image out."""

    control_image_columns: Annotated[list[Column], Field(max_length=16)] = Field(
        description="Columns with the images to edit, in the order of the instruction. Empty: none are given."
    )
    sample_height: PositiveInt | None = parameter("Height of samples in pixels.", default=1024)
    sample_width: PositiveInt | None = parameter("Width of samples in pixels.", default=1024)
    samples: Annotated[list[MultiEditSample], Field(max_length=32)] | None = parameter(
        "What to generate in each round of samples."
    )


class VideoRecipe(ImageRecipe):
    """What the two recipes have that train a video model."""

    samples: Annotated[list[Sample], Field(max_length=32)] | None = parameter(
        "What to generate in each round of samples."
    )
    num_frames: PositiveInt | None = parameter("Frames per clip.", default=81)
    use_lora: bool | None = parameter(
        "Train a LoRA adapter; false trains all weights. Default of backend job: true; Oxen documents none."
    )


class ImageToVideo(VideoRecipe):
    """Oxen script type image_to_video."""


class TextToVideo(VideoRecipe):
    """Oxen script type text_to_video."""


class Voice(Recipe):
    """Scenario's voice cloning (model type elevenlabs-voice); the dataset is a folder of recordings."""

    clone_type: Literal["instant", "professional"] | None = parameter(
        "How the voice is cloned: instant is fast; professional is better and needs a captcha solved at Scenario."
    )
    age: Annotated[str, Field(max_length=64)] | None = parameter("Age group of the voice (professional).")
    gender: Annotated[str, Field(max_length=64)] | None = parameter("Gender of the voice (professional).")
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = parameter(
        "Language of the recordings, ISO 639-1, for example en."
    )
    voice_description: Annotated[str, Field(max_length=1024)] | None = parameter("What the voice sounds like.")
    remove_background_noise: bool | None = parameter(
        "Clean the recordings first; each must then be at least 5 seconds long."
    )


class RecipeSpec(SpecModel):
    """What is trained, and how: exactly one member."""

    text_generation: TextGeneration | None = Field(default=None, description="Text in, text out.")
    text_chat_messages: TextChatMessages | None = Field(default=None, description="Conversations.")
    image_to_text: ImageToText | None = Field(default=None, description="Images and text in, text out.")
    image_generation: ImageGeneration | None = Field(default=None, description="Text in, image out.")
    image_editing: ImageEditing | None = Field(default=None, description="Image and instruction in, image out.")
    multi_image_editing: MultiImageEditing | None = Field(
        default=None, description="Several images and an instruction in, image out."
    )
    image_to_video: ImageToVideo | None = Field(default=None, description="Image and text in, video out.")
    text_to_video: TextToVideo | None = Field(default=None, description="Text in, video out.")
    voice: Voice | None = Field(default=None, description="Clone a voice (scenario only).")

    @model_validator(mode="after")
    def _exactly_one(self) -> RecipeSpec:
        if len(self.members()) != 1:
            raise ValueError(f"a recipe has exactly one of {', '.join(RECIPES)}")
        return self

    def members(self) -> list[str]:
        """The wire names of the members that are there."""
        return [wire for wire, attribute in _ATTRIBUTES.items() if getattr(self, attribute) is not None]

    @property
    def kind(self) -> str:
        """The member's name on the wire, for example `imageToText`."""
        return self.members()[0]

    @property
    def parameters(self) -> Recipe:
        """The one member."""
        member: Recipe = getattr(self, _ATTRIBUTES[self.kind])
        return member


_ATTRIBUTES: Final = {str(field.alias): attribute for attribute, field in RecipeSpec.model_fields.items()}
RECIPES: Final[tuple[str, ...]] = tuple(_ATTRIBUTES)
"""The nine members' names on the wire."""
RECIPE_MODELS: Final[dict[str, type[Recipe]]] = {
    "textGeneration": TextGeneration,
    "textChatMessages": TextChatMessages,
    "imageToText": ImageToText,
    "imageGeneration": ImageGeneration,
    "imageEditing": ImageEditing,
    "multiImageEditing": MultiImageEditing,
    "imageToVideo": ImageToVideo,
    "textToVideo": TextToVideo,
    "voice": Voice,
}
