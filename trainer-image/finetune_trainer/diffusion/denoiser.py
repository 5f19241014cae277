"""What distinguishes a family of diffusion models; everything else is shared (`trainee.py`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Final

import torch
from PIL import Image

from finetune_operator.api.advanced import Advanced
from finetune_trainer.data.clips import LOWEST_RATE
from finetune_trainer.diffusion.areas import Areas, Size, fitted
from finetune_trainer.errors import ConfigError
from finetune_trainer.models import check_weights, read_json

Tensors = dict[str, torch.Tensor]
EMBEDS: Final = "embeds"
"""Name of the text embedding of variable length, (tokens, width); padded in a batch, with a mask."""
MASK: Final = "embeds_mask"
POOLED: Final = "pooled"
"""Name of a text encoder's pooled vector, (width,)."""
TRAINED_GUIDANCE: Final = 1.0
"""The guidance that guidance-distilled models get in training, as in diffusers' and ai-toolkit's trainers."""
SCHEDULED: Final = ("scheduler", "vae")
"""The components that stay loaded, beside the trained parts."""


@dataclass(frozen=True)
class Base:
    """The base model. name: as the user names it. device, dtype: where and in which number format it runs."""

    folder: Path
    name: str
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Noisy:
    """A noised micro-batch.

    latents: (samples, *latent), in the model's dtype. sigma: (samples,) float32. controls: (samples, *latent) for each
    image to edit. text: the batched outputs of `encode_text`.
    """

    latents: torch.Tensor
    sigma: torch.Tensor
    controls: list[torch.Tensor]
    text: Tensors


@dataclass(frozen=True)
class SampleRequest:
    """A sample to generate.

    text, negative: outputs of `encode_text` for the prompt and the negative prompt. controls: images to edit. steps: of
    denoising.
    """

    text: Tensors
    negative: Tensors
    controls: tuple[Image.Image, ...]
    size: Size
    steps: int
    seed: int


class Denoiser(ABC):
    """The encoders, the trained parts, and the pipeline that users run.

    Latents have no batch dimension unless stated otherwise. Almost every model has one trained part; of two, each is
    for its own range of sigma.
    """

    part: ClassVar[str] = "transformer"
    """The component that is trained."""
    pipeline: ClassVar[str] = "DiffusionPipeline"
    """The class of diffusers that runs the model; DiffusionPipeline selects the one that the checkpoint names."""
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """The lists of repeated blocks; every Linear inside gets LoRA matrices."""
    areas: ClassVar[Areas] = Areas(1024**2, 1024**2)
    multiple: ClassVar[int] = 32
    """The sides of images are multiples of this."""
    negative_prompt: ClassVar[str] = ""
    clips: ClassVar[bool] = False
    """Whether targets may have several frames."""
    rate: float = LOWEST_RATE
    """Frames per second of clips."""
    takes_first_frame: ClassVar[bool] = False
    """Whether the model gets the first frame of the target, in place of an image to edit."""
    requires_image: ClassVar[bool] = False
    """Whether the pipeline requires an image to edit."""
    conditioning_frames: int = 1
    """Frames of an image or clip, at most, for the text encoder and for a sample."""
    notes: tuple[str, ...] = ()
    """What the user should know about this family."""

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        self.base, self.frames = base, frames
        self._areas = Areas(
            advanced.target_area or self.areas.target,
            advanced.control_area or self.areas.control,
            advanced.condition_area or self.areas.condition,
        )
        self._index = read_json(base.folder / "model_index.json", base.name)
        self.pipe = self._pipeline(set(SCHEDULED))
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.vae.requires_grad_(False)
        self._text_pipeline: Any = None
        self._vae_offloaded = False
        self._vae_lock = RLock()
        self.parts: dict[str, str] = {self.part: ""}
        """The trained components, and the suffix of the adapter files of each."""
        self.models = torch.nn.ModuleDict()
        """The trained parts by component, once they are loaded."""

    # ------------------------------------------------------------------ sizes

    def target_size(self, size: Size) -> Size:
        """The size to which a target is resized."""
        return fitted(size, self._areas.target, self.multiple)

    def control_size(self, size: Size) -> Size:
        """The size to which an image to edit is resized."""
        return fitted(size, self._areas.control, self.multiple)

    def condition_size(self, size: Size) -> Size:
        """The size to which an image to edit is resized for the text encoder."""
        return fitted(size, self._areas.conditioning, self.multiple)

    # --------------------------------------------------------------- encoders

    @property
    def text_folders(self) -> list[Path]:
        """The folders of every component that decides a text embedding."""
        return [
            self.base.folder / name
            for name in self._components()
            if name not in {*SCHEDULED, *self._trained_components()}
        ]

    def text_pipeline(self) -> Any:
        """The pipeline with its text encoders, which are loaded now if needed."""
        if self._text_pipeline is None:
            self._text_pipeline = self._pipeline(set(self._components()) - {"vae", *self._trained_components()})
        return self._text_pipeline

    def encoders(self) -> dict[str, torch.nn.Module]:
        """The loaded frozen encoders, by component."""
        found = {"vae": self.pipe.vae, **({} if self._text_pipeline is None else self._text_pipeline.components)}
        return {name: part for name, part in found.items() if isinstance(part, torch.nn.Module)}

    def free_text_encoders(self) -> None:
        """Free the memory of the text encoders."""
        self._text_pipeline = None
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def offloadable(self) -> list[torch.nn.Module]:
        """The loaded encoders that take the device's memory although no step needs them."""
        movable = self.base.device.type == "cuda" and not self._vae_offloaded
        return [part for name, part in self.encoders().items() if name != "vae" or movable]

    def offload(self) -> None:
        """Free the text encoders, and keep the autoencoder in the host's memory between its uses."""
        self._vae_offloaded = self.base.device.type == "cuda"
        if self._vae_offloaded:
            self.pipe.vae.to("cpu")
        self.free_text_encoders()

    @contextmanager
    def vae_on_device(self) -> Iterator[None]:
        """Inside the block the autoencoder is on the device; one thread at a time, if it is offloaded."""
        if not self._vae_offloaded:
            yield
            return
        with self._vae_lock:
            self.pipe.vae.to(self.base.device)
            try:
                yield
            finally:
                self.pipe.vae.to("cpu")

    @abstractmethod
    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """Everything that conditions the model on a prompt, and in some families on the images to edit."""

    def extra_conditioning(self, size: Size) -> Tensors:
        """Further conditioning, on the original size of a target."""
        del size
        return {}

    def encode_picture(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of an image at this size: the mode of the autoencoder's distribution, normalized."""
        pixels = self.pipe.image_processor.preprocess(frames[0], size[1], size[0])
        return self.encode_pixels(pixels.to(self.base.device, self.base.dtype))[0]

    def encode_control(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of an image to edit at this size."""
        return self.encode_picture(frames, size)

    @abstractmethod
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """A batch of one latent. pixels: (1, 3, height, width) in [-1, 1]."""

    # ------------------------------------------------------------ the model

    def load_model(self) -> None:
        """Load the parts that will be trained, frozen. Raises ConfigError."""
        self.models = self._load_parts(self.base.folder, self.base.name)
        self.pipe.register_modules(**self.models)

    def load_exported(self, folder: Path) -> torch.nn.ModuleDict:
        """The trained parts, loaded from an export of all weights."""
        return self._load_parts(folder, "just exported", torch.float32)

    def part_at(self, sigma: float) -> str:
        """The component that is used, and trained, at this share of noise."""
        del sigma
        return self.part

    def unused(self, model: Any) -> set[str]:
        """Linear modules in a part's blocks that no output depends on: LoRA matrices there would have no gradient."""
        del model
        return set()

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The noised latents. All batches are float32. Rectified flow: (1 - sigma) x + sigma noise."""
        share = _spread(sigma, latents)
        return (1 - share) * latents + share * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The target of `predict`, float32. Rectified flow: noise - x."""
        del sigma
        return noise - latents

    @abstractmethod
    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The model's prediction, in the shape of the target. model: the trained part for the batch."""

    # ------------------------------------------------------------- samples

    @abstractmethod
    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """Arguments of a call of the pipeline, without size, steps and generator."""

    @contextmanager
    def pipeline_areas(self) -> Iterator[None]:
        """Inside the block the pipeline uses the areas of `advanced`."""
        yield

    def generate(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """Generate a sample; returns its frames."""
        return list(self.run_pipeline(request, on_step).images[:1])

    def run_pipeline(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> Any:
        """Call the pipeline that users run."""
        with self.pipeline_areas():
            return self.pipe(
                **self.pipeline_arguments(request),
                width=request.size[0],
                height=request.size[1],
                num_inference_steps=request.steps,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                callback_on_step_end=on_step,
            )

    # --------------------------------------------------------------- files

    @abstractmethod
    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """The adapter with the keys of ComfyUI or kohya. weights: with peft's names. scale: alpha / rank."""

    # ------------------------------------------------------------- inside

    def _components(self) -> list[str]:
        return [name for name, value in self._index.items() if isinstance(value, list) and value[0] is not None]

    def _trained_components(self) -> set[str]:
        return {*self.parts}

    def _pipeline(self, wanted: set[str]) -> Any:
        import diffusers

        absent = {name: None for name, value in self._index.items() if isinstance(value, list) and name not in wanted}
        with as_config_error(self.base.name):
            pipe = getattr(diffusers, self.pipeline).from_pretrained(
                self.base.folder, dtype=self.base.dtype, local_files_only=True, **absent
            )
        return pipe.to(self.base.device)

    def _load_parts(self, folder: Path, name: str, dtype: torch.dtype | None = None) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({part: self._load_part(part, folder, name, dtype) for part in self.parts})

    def _load_part(self, part: str, folder: Path, name: str, dtype: torch.dtype | None) -> Any:
        import diffusers

        check_weights(folder / part, name)
        kind = getattr(diffusers, self._index[part][1], None)
        if kind is None:
            raise ConfigError(f"the base model {name} has a class that diffusers does not have: {self._index[part]}")
        with as_config_error(name):
            model, info = kind.from_pretrained(
                folder,
                subfolder=part,
                dtype=dtype or self.base.dtype,
                local_files_only=True,
                output_loading_info=True,
            )
        lost = [*info["missing_keys"], *info["mismatched_keys"]]
        if lost:
            raise ConfigError(f"the base model {name} lacks {len(lost)} weights, for example {lost[0]}")
        return model.requires_grad_(False).to(self.base.device)


@contextmanager
def as_config_error(name: str) -> Iterator[None]:
    """Raise whatever the libraries raise on a broken folder as ConfigError. name: of the base model."""
    try:
        yield
    except (torch.OutOfMemoryError, ConfigError):
        raise
    except Exception as error:
        raise ConfigError(f"the base model {name} cannot be loaded: {error}") from error


@contextmanager
def patched(module: Any, **values: Any) -> Iterator[None]:
    """Replace attributes of a module inside the block: constants of diffusers' pipelines are not parameters."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def standardized(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """A batch of one latent, (x - mean) / std per channel. pixels: (1, 3, frames, height, width) in [-1, 1]."""
    latents: torch.Tensor = vae.encode(pixels).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


def batched(texts: Sequence[Mapping[str, torch.Tensor]]) -> Tensors:
    """The text embeddings of several samples as a batch; padded with zeros, with a mask if lengths differ."""
    from torch.nn.utils.rnn import pad_sequence

    stacked: Tensors = {}
    for name in texts[0]:
        rows = [text[name] for text in texts]
        if name == EMBEDS and len({len(row) for row in rows}) > 1:
            stacked[MASK] = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
            stacked[name] = pad_sequence(rows, batch_first=True)
        else:
            stacked[name] = torch.stack(rows)
    return stacked


def _spread(sigma: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return sigma.view(-1, *[1] * (latents.dim() - 1))
