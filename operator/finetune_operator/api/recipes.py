"""The nine recipes: Oxen's eight script types and Scenario's voice cloning, with the providers' own field names.

Hyper-parameters have no schema default (a default could not be told from a choice); `parameter` keeps the documented
one beside the field, `defaults.resolve_parameters` applies it once per run. Source of names, types, bounds and
defaults: the Oxen fine-tuning reference and the Scenario training reference.
"""

from __future__ import annotations

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
from finetune_operator.api.documented import DOCUMENTED_DEFAULT, parameter

_OF_SOME: Final = " with backends job and oxen"
"""After the default of a field that recipes of other backends have too."""


class Recipe(SpecModel):
    """Recipe has the parameters that all recipes share."""

    seed: Seed | None = parameter(
        "seed initialises every random choice of the run. Defaults to 42 with backend job. Backends oxen and bfl, and "
        "some of Scenario's model types, do not support it."
    )


class TextRecipe(Recipe):
    """TextRecipe has the parameters of the three recipes that train a language model."""

    batch_size: PositiveInt | None = parameter(
        "batchSize is the number of rows in a micro-batch on each GPU. An optimizer step learns from gradAccum "
        "micro-batches.",
        default=1,
    )
    enable_thinking: bool | None = parameter(
        "enableThinking tells the chat template of the model to open a thinking block in front of the answer.",
        default=False,
    )
    epochs: PositiveInt | None = parameter("epochs is the number of passes over the dataset.", default=1)
    grad_accum: PositiveInt | None = parameter(
        "gradAccum is the number of micro-batches whose gradients are accumulated before an optimizer step.", default=1
    )
    learning_rate: NonNegative | None = parameter("learningRate is the peak learning rate.", default=0.0001)
    logging_steps: PositiveInt | None = parameter(
        "loggingSteps is the number of optimizer steps between two reports of the loss.", default=10
    )
    lora_alpha: PositiveInt | None = parameter(
        "loraAlpha determines the scale of the LoRA, which is loraAlpha / loraRank.", default=16
    )
    lora_rank: PositiveInt | None = parameter(
        "loraRank is the rank of the LoRA matrices. Values between 1 and 128 are sensible.", default=16
    )
    neftune_noise_alpha: NonNegative | None = parameter(
        "neftuneNoiseAlpha is the strength of the noise that NEFTune adds to the embeddings during training; 0 turns "
        "it off.",
        default=0,
    )
    save_steps_ratio: Ratio | None = parameter(
        "saveStepsRatio is the share of all optimizer steps between two checkpoints if saveStrategy is steps. Backend "
        "job then requires a value greater than 0.",
        default=0.25,
    )
    save_strategy: Literal["epoch", "steps"] | None = parameter(
        "saveStrategy is when checkpoints are saved: epoch saves one after every pass over the dataset, steps at the "
        "interval that saveStepsRatio sets.",
        default="epoch",
    )
    seq_length: PositiveInt | None = parameter("seqLength is the maximum length of a row in tokens.", default=1024)
    use_lora: bool | None = parameter(
        "useLora selects what is trained: true trains a LoRA adapter, false trains all weights of the model.",
        default=True,
    )


class TextGeneration(TextRecipe):
    """textGeneration trains a language model on prompts and answers (Oxen's script type text_generation)."""

    question_column: Column = Field(description="questionColumn is the column of the dataset that holds the prompt.")
    answer_column: Column = Field(
        description="answerColumn is the column of the dataset that holds the answer to learn."
    )


class TextChatMessages(TextRecipe):
    """textChatMessages trains a language model on whole conversations (Oxen's script type text_chat_messages)."""

    messages_column: Column = Field(
        description="messagesColumn is the column of the dataset that holds a list of messages, each with role and "
        "content."
    )


class ImageToText(TextRecipe):
    """imageToText trains a vision-language model on images, a question and its answer (Oxen's image_to_text)."""

    question_column: Column = Field(
        description="questionColumn is the column of the dataset that holds the prompt or the question about the "
        "images."
    )
    answer_column: Column = Field(
        description="answerColumn is the column of the dataset that holds the caption or the answer to learn."
    )
    image_columns: Annotated[list[Column], Field(max_length=16)] = Field(
        description="imageColumns are the columns of the dataset that hold the images, in the order of the prompt. An "
        "image is given as bytes or as a path relative to the dataset."
    )
    seq_length: PositiveInt | None = parameter(
        "seqLength is the maximum length of a row in tokens, images included.", default=4096
    )


class Sample(SpecModel):
    """Sample is an image or clip that is generated during training, to show how far the model has come."""

    prompt: Prompt = Field(description="prompt is the prompt to generate the sample from.")


class EditSample(Sample):
    """Sample is an image that is generated during training by editing another one."""

    ctrl_img_url: Url | None = Field(
        default=None, description="ctrlImgUrl is the https:// address of the image to edit."
    )


class MultiEditSample(Sample):
    """Sample is an image that is generated during training from one or several others."""

    ctrl_img_urls: Annotated[list[Url], Field(max_length=16)] | None = Field(
        default=None,
        description="ctrlImgUrls are the https:// addresses of the images to edit, in the order of "
        "controlImageColumns.",
    )


class ImageRecipe(Recipe):
    """ImageRecipe has the parameters of the five recipes that train a diffusion model."""

    caption_column: Column = Field(
        description="captionColumn is the column of the dataset that holds the caption or the instruction."
    )
    image_column: Column = Field(
        description="imageColumn is the column of the dataset that holds the image or clip to learn."
    )
    batch_size: PositiveInt | None = parameter(
        "batchSize is the number of rows in a micro-batch on each GPU. An optimizer step learns from "
        "gradientAccumulation micro-batches.",
        default=1,
        where=_OF_SOME,
    )
    gradient_accumulation: PositiveInt | None = parameter(
        "gradientAccumulation is the number of micro-batches whose gradients are accumulated before an optimizer step.",
        default=1,
        where=_OF_SOME,
    )
    learning_rate: NonNegative | None = parameter(
        "learningRate is the peak learning rate.", default=0.0002, where=_OF_SOME
    )
    lora_alpha: PositiveInt | None = parameter(
        "loraAlpha determines the scale of the LoRA, which is loraAlpha / loraRank.", default=16, where=_OF_SOME
    )
    lora_rank: PositiveInt | None = parameter("loraRank is the rank of the LoRA matrices.", default=16, where=_OF_SOME)
    sample_every: PositiveInt | None = parameter(
        "sampleEvery is the number of optimizer steps between two rounds of samples.", default=200, where=_OF_SOME
    )
    steps: PositiveInt | None = parameter(
        "steps is the number of optimizer steps of the run.", default=3000, where=_OF_SOME
    )
    timestep_type: Literal["weighted", "sigmoid", "linear"] | None = parameter(
        "timestepType is the distribution that the timesteps are drawn from: weighted, sigmoid or linear.",
        default="weighted",
        where=_OF_SOME,
    )
    use_lora: bool | None = parameter(
        "useLora selects what is trained: true trains a LoRA adapter, false trains all weights of the model.",
        default=True,
        where=_OF_SOME,
    )


class ImageGeneration(ImageRecipe):
    """imageGeneration trains a model that generates images from text (Oxen's script type image_generation)."""

    steps: PositiveInt | None = parameter(
        "steps is the number of optimizer steps of the run. Backend octoai requires it.", default=2000, where=_OF_SOME
    )
    timestep_type: Literal["weighted", "sigmoid", "linear"] | None = parameter(
        "timestepType is the distribution that the timesteps are drawn from: weighted, sigmoid or linear.",
        default="sigmoid",
        where=_OF_SOME,
    )
    samples: Annotated[list[Sample], Field(max_length=32)] | None = parameter(
        "samples are the images to generate in each round of samples."
    )
    trigger_word: Annotated[str, Field(min_length=1, max_length=64)] | None = parameter(
        "triggerWord is the word that evokes the learned subject or style. With backend job it replaces [trigger] in "
        "captions and is put in front of captions that lack it. It defaults to TOK with backend bfl; backend octoai "
        "requires it, and backend oxen does not support it."
    )


class ImageEditing(ImageRecipe):
    """imageEditing trains a model that edits one image by an instruction (Oxen's script type image_editing)."""

    control_image_column: Column = Field(
        description="controlImageColumn is the column of the dataset that holds the image to edit."
    )
    cache_text_embeddings: bool | None = parameter(
        "cacheTextEmbeddings tells the trainer to encode every caption once, before training starts.",
        default=False,
        where=_OF_SOME,
    )
    sample_height: PositiveInt | None = parameter(
        "sampleHeight is the height of the samples in pixels.", default=1024, where=_OF_SOME
    )
    sample_width: PositiveInt | None = parameter(
        "sampleWidth is the width of the samples in pixels.", default=1024, where=_OF_SOME
    )
    samples: Annotated[list[EditSample], Field(max_length=32)] | None = parameter(
        "samples are the images to generate in each round of samples."
    )


class MultiImageEditing(ImageRecipe):
    """multiImageEditing trains a model that makes one image from several and an instruction (multi_image_editing)."""

    control_image_columns: Annotated[list[Column], Field(max_length=16)] = Field(
        description="controlImageColumns are the columns of the dataset that hold the images to edit, in the order in "
        "which the instruction refers to them. An empty list trains without images to edit. Backend scenario requires "
        "exactly one column."
    )
    sample_height: PositiveInt | None = parameter(
        "sampleHeight is the height of the samples in pixels.", default=1024, where=_OF_SOME
    )
    sample_width: PositiveInt | None = parameter(
        "sampleWidth is the width of the samples in pixels.", default=1024, where=_OF_SOME
    )
    samples: Annotated[list[MultiEditSample], Field(max_length=32)] | None = parameter(
        "samples are the images to generate in each round of samples. Backend oxen has a default: two prompts, with "
        "images at its own hub. Backend job has none: without samples, no images are generated."
    )


class VideoRecipe(ImageRecipe):
    """VideoRecipe has the parameters of the two recipes that train a video model."""

    samples: Annotated[list[Sample], Field(max_length=32)] | None = parameter(
        "samples are the clips to generate in each round of samples."
    )
    num_frames: PositiveInt | None = parameter(
        "numFrames is the number of frames that are learned of each clip.", default=81, where=_OF_SOME
    )
    use_lora: bool | None = parameter(
        "useLora selects what is trained: true trains a LoRA adapter, false trains all weights of the model. Defaults "
        "to true with backend job; Oxen documents no default."
    )


class ImageToVideo(VideoRecipe):
    """imageToVideo trains a model that makes a clip from an image and text (Oxen's script type image_to_video)."""


class TextToVideo(VideoRecipe):
    """textToVideo trains a model that makes a clip from text (Oxen's script type text_to_video)."""


class Voice(Recipe):
    """voice clones a voice at Scenario (model type elevenlabs-voice). The dataset is a folder of recordings."""

    clone_type: Literal["instant", "professional"] | None = parameter(
        "cloneType is how the voice is cloned: instant is faster, professional sounds better and needs a captcha to "
        "be solved at Scenario."
    )
    age: Annotated[str, Field(max_length=64)] | None = parameter(
        "age is the age group of the voice, for professional clones."
    )
    gender: Annotated[str, Field(max_length=64)] | None = parameter(
        "gender is the gender of the voice, for professional clones."
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = parameter(
        "language is the language of the recordings, as a two-letter ISO 639-1 code, for example en."
    )
    voice_description: Annotated[str, Field(max_length=1024)] | None = parameter(
        "voiceDescription is a description of what the voice sounds like."
    )
    remove_background_noise: bool | None = parameter(
        "removeBackgroundNoise tells Scenario to remove noise from the recordings first. Each recording must then be "
        "at least 5 seconds long."
    )


class RecipeSpec(SpecModel):
    """recipe is the kind of training, with its parameters. Exactly one of its members must be set."""

    text_generation: TextGeneration | None = Field(
        default=None,
        description="textGeneration trains a language model on prompts and answers.",
    )
    text_chat_messages: TextChatMessages | None = Field(
        default=None,
        description="textChatMessages trains a language model on whole conversations.",
    )
    image_to_text: ImageToText | None = Field(
        default=None,
        description="imageToText trains a vision-language model on images, a question and its answer.",
    )
    image_generation: ImageGeneration | None = Field(
        default=None,
        description="imageGeneration trains a model that generates images from text.",
    )
    image_editing: ImageEditing | None = Field(
        default=None,
        description="imageEditing trains a model that edits one image by an instruction.",
    )
    multi_image_editing: MultiImageEditing | None = Field(
        default=None,
        description="multiImageEditing trains a model that makes one image from several and an instruction.",
    )
    image_to_video: ImageToVideo | None = Field(
        default=None,
        description="imageToVideo trains a model that makes a clip from an image and text.",
    )
    text_to_video: TextToVideo | None = Field(
        default=None,
        description="textToVideo trains a model that makes a clip from text.",
    )
    voice: Voice | None = Field(
        default=None,
        description="voice clones a voice from recordings.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> RecipeSpec:
        if len(self.members()) != 1:
            raise ValueError(f"recipe must set exactly one of {', '.join(RECIPES)}")
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


def aliases(recipe: str) -> tuple[str, ...]:
    """The names of a recipe's fields on the wire."""
    return tuple(str(field.alias) for field in RECIPE_MODELS[recipe].model_fields.values())


def documented_defaults(recipe: str) -> dict[str, Any]:
    """The defaults that the descriptions of a recipe's fields name: Oxen's."""
    return {
        str(field.alias): field.json_schema_extra[DOCUMENTED_DEFAULT]
        for field in RECIPE_MODELS[recipe].model_fields.values()
        if isinstance(field.json_schema_extra, dict) and DOCUMENTED_DEFAULT in field.json_schema_extra
    }
