"""Scenario's request bodies: names and types of the swagger document, widened by what the newer reference adds.

The reference knows more model types, upload kinds and training parameters than the swagger document of 2025; where the
two disagree on a bound, the trainer family's own bound counts (`family_problems`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MODEL_TYPES = frozenset(
    [
        *("custom", "elevenlabs-voice", "gpt-image-1"),
        *("flux.1", "flux.1-composition", "flux.1-kontext-dev", "flux.1-kontext-lora", "flux.1-krea-dev"),
        *("flux.1-krea-lora", "flux.1-lora", "flux.1-pro", "flux.1.1-pro-ultra", "flux1.1-pro"),
        *("flux.2-dev-edit-lora", "flux.2-dev-lora", "flux.2-klein-4b-edit-lora", "flux.2-klein-4b-lora"),
        *("flux.2-klein-9b-edit-lora", "flux.2-klein-9b-lora", "flux.2-klein-base-4b-edit-lora"),
        *("flux.2-klein-base-4b-lora", "flux.2-klein-base-9b-edit-lora", "flux.2-klein-base-9b-lora"),
        *("qwen-image-2512-lora", "qwen-image-edit-2509-lora", "qwen-image-edit-2511-lora"),
        *("qwen-image-edit-lora", "qwen-image-lora", "zimage-de-turbo-lora", "zimage-lora", "zimage-turbo-lora"),
        *("sd-1_5", "sd-1_5-composition", "sd-1_5-lora", "sd-xl", "sd-xl-composition", "sd-xl-lora"),
    ]
)


class Strict(BaseModel):
    """Nothing that the documents do not mention."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Concept(Strict):
    modelId: str
    scale: Annotated[float, Field(ge=-2, le=2)]
    modelEpoch: str | None = None


class PostModels(Strict):
    name: Annotated[str, Field(max_length=64)] | None = None
    type: str | None = None
    shortDescription: Annotated[str, Field(max_length=256)] | None = None
    baseModelId: str | None = None
    classSlug: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    collectionIds: list[str] | None = None
    concepts: list[Concept] | None = None


class PostTrainingImages(Strict):
    data: str | None = None
    name: str | None = None
    assetId: str | None = None
    assetIds: list[str] | None = None
    preset: Literal["default", "style", "subject"] | None = None


class Pair(Strict):
    sourceId: str
    targetId: str
    instruction: str


class PutAsset(Strict):
    description: str | None = None
    name: str | None = None
    disableSnapshot: bool | None = None


class PostAsset(Strict):
    name: str
    image: str | None = None
    hide: bool | None = None
    collectionIds: list[str] | None = None
    parentId: str | None = None


class PostUploads(Strict):
    kind: Literal["3d", "asset", "audio", "avatar", "image", "model", "text", "video"]
    fileName: Annotated[str, Field(min_length=1)]
    contentType: Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9.+-]+$")]
    fileSize: Annotated[int, Field(ge=1)]
    parts: Annotated[int, Field(ge=1, le=10_000)]
    assetOptions: dict[str, Any] | None = None


class UploadAction(Strict):
    action: Literal["complete"]


class TrainAction(Strict):
    action: Literal["cancel"]


class PutTags(Strict):
    add: list[str] | None = None
    delete: list[str] | None = None
    strict: bool | None = None


class PostDownload(Strict):
    modelEpoch: str | None = None


class Parameters(Strict):
    """Every training parameter."""

    age: str | None = None
    batchSize: Annotated[float, Field(ge=1, le=8)] | None = None
    classPrompt: str | None = None
    cloneType: Literal["instant", "professional"] | None = None
    conceptPrompt: str | None = None
    gender: str | None = None
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = None
    learningRate: Annotated[float, Field(gt=0)] | None = None
    learningRateTextEncoder: Annotated[float, Field(ge=0, le=0.001)] | None = None
    learningRateUnet: Annotated[float, Field(gt=0)] | None = None
    lrScheduler: (
        Literal["constant", "constant-with-warmup", "cosine", "cosine-with-restarts", "linear", "polynomial"] | None
    ) = None
    maxTrainSteps: Annotated[float, Field(ge=0, le=40_000)] | None = None
    nbEpochs: Annotated[float, Field(ge=1, le=100)] | None = None
    nbRepeats: Annotated[float, Field(ge=1, le=100)] | None = None
    numTextTrainSteps: Annotated[float, Field(ge=0, le=40_000)] | None = None
    numUNetTrainSteps: Annotated[float, Field(ge=0, le=40_000)] | None = None
    optimizeFor: Literal["likeness", "all", "none"] | None = None
    priorLossWeight: Annotated[float, Field(gt=0)] | None = None
    randomCrop: bool | None = None
    randomCropRatio: Annotated[float, Field(ge=0, le=1)] | None = None
    randomCropScale: Annotated[float, Field(ge=0, le=1)] | None = None
    rank: Annotated[float, Field(ge=2, le=128)] | None = None
    removeBackgroundNoise: bool | None = None
    samplePrompts: Annotated[list[str], Field(max_length=4)] | None = None
    sampleSourceImages: list[str] | None = None
    scaleLr: bool | None = None
    seed: Annotated[float, Field(ge=0, le=9_007_199_254_740_991)] | None = None
    textEncoderTrainingRatio: Annotated[float, Field(ge=0, le=0.99)] | None = None
    validationFrequency: Annotated[float, Field(ge=0)] | None = None
    validationPrompt: str | None = None
    voiceDescription: str | None = None
    wandbKey: Annotated[str, Field(max_length=40)] | None = None


class PutTrain(Strict):
    parameters: Parameters


_FLUX = {"batchSize", "nbEpochs", "nbRepeats", "learningRate", "learningRateTextEncoder", "maxTrainSteps", "rank"}
_FLUX |= {"optimizeFor", "conceptPrompt", "samplePrompts", "sampleSourceImages", "wandbKey"}
_MUSUBI = {"batchSize", "nbEpochs", "nbRepeats", "learningRate", "rank", "conceptPrompt", "seed", "wandbKey"}
_VOICE = {"cloneType", "age", "gender", "language", "voiceDescription", "removeBackgroundNoise"}
_BOUNDS: dict[str, dict[str, tuple[float, float]]] = {
    "flux": {
        "batchSize": (1, 4),
        "nbEpochs": (1, 30),
        "nbRepeats": (1, 30),
        "rank": (2, 64),
        "maxTrainSteps": (0, 1e4),
    },
    "musubi": {"learningRate": (0.00001, 0.001)},
}


def family(model_type: str) -> str:
    """Which trainer runs it."""
    if model_type == "elevenlabs-voice":
        return "voice"
    if model_type.startswith("sd-"):
        return "sd"
    return "flux" if model_type.startswith("flux.1") else "musubi"


def family_problems(model_type: str, parameters: dict[str, Any]) -> Iterator[str]:
    """What this model's trainer does not take."""
    trainer = family(model_type)
    known = {"flux": _FLUX, "musubi": _MUSUBI, "voice": _VOICE}.get(trainer, parameters.keys() - _VOICE)
    for name in sorted(parameters.keys() - known):
        yield f"{name} is not available for {model_type}"
    for name, (low, high) in _BOUNDS.get(trainer, {}).items():
        if name in parameters and not low <= parameters[name] <= high:
            yield f"{name} must be between {low} and {high}"
    if trainer == "musubi" and len(parameters.get("conceptPrompt", "")) > 20:
        yield "conceptPrompt must be at most 20 characters"
    sources, prompts = parameters.get("sampleSourceImages"), parameters.get("samplePrompts") or []
    if sources is not None and len(sources) != len(prompts):
        yield "sampleSourceImages must have the same length as samplePrompts"
