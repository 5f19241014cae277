"""What one family of diffusion models does its own way; everything else is shared (`trainee.py`)."""

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

from finetune_trainer.config import Advanced
from finetune_trainer.data.clips import LOWEST_RATE
from finetune_trainer.diffusion.areas import Areas, Size, fitted
from finetune_trainer.errors import ConfigError
from finetune_trainer.models import check_weights, read_json

Tensors = dict[str, torch.Tensor]
EMBEDS: Final = "embeds"
"""Name of the text embedding of variable length, (tokens, width); a batch pads it and gets a mask."""
MASK: Final = "embeds_mask"
POOLED: Final = "pooled"
"""Name of a text encoder's pooled vector, (width,)."""
TRAINED_GUIDANCE: Final = 1.0
"""What guidance-distilled models are told while training, as diffusers' and ai-toolkit's trainers do."""
SCHEDULED: Final = ("scheduler", "vae")
"""The components that stay loaded beside the trained parts."""


@dataclass(frozen=True)
class Base:
    """The base model's folder, what the user calls it, and where and in which numbers it runs."""

    folder: Path
    name: str
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Noisy:
    """A micro-batch half way to noise. latents: (samples, *latent) in the model's dtype; sigma: (samples,) float32.

    controls: one (samples, *latent) per image to edit. text: what `encode_text` gave, batched.
    """

    latents: torch.Tensor
    sigma: torch.Tensor
    controls: list[torch.Tensor]
    text: Tensors


@dataclass(frozen=True)
class SampleRequest:
    """A sample to make. texts and negative: as `encode_text` gives them."""

    text: Tensors
    negative: Tensors
    controls: tuple[Image.Image, ...]
    size: Size
    steps: int
    seed: int


class Denoiser(ABC):
    """Encoders, the trained parts, and the pipeline that users run. Latents have no batch dimension unless said.

    Almost every model has one trained part; where there are two, each answers for its own share of noise.
    """

    part: ClassVar[str] = "transformer"
    """The component that is trained."""
    pipeline: ClassVar[str] = "DiffusionPipeline"
    """The class of diffusers that runs the model; DiffusionPipeline is the one that the checkpoint names."""
    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """Where its repeated blocks are; every Linear inside gets LoRA matrices."""
    areas: ClassVar[Areas] = Areas(1024**2, 1024**2)
    multiple: ClassVar[int] = 32
    """Sides of pictures are multiples of this."""
    negative_prompt: ClassVar[str] = ""
    clips: ClassVar[bool] = False
    """Whether what is learnt may have several frames."""
    rate: float = LOWEST_RATE
    """Frames per second of its clips."""
    takes_first_frame: ClassVar[bool] = False
    """Whether the first frame of what is learnt is given, in the place of an image to edit."""
    requires_image: ClassVar[bool] = False
    """Whether its pipeline cannot do without an image to edit."""
    conditioning_frames: int = 1
    """How many frames of what is given the text encoder and a sample may look at."""
    notes: tuple[str, ...] = ()
    """What users of this family should know."""

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
        """The components that are trained, and what the names of each one's adapter files end with."""
        self.models = torch.nn.ModuleDict()
        """The trained parts by component, once loaded."""

    # ------------------------------------------------------------------ sizes

    def target_size(self, size: Size) -> Size:
        """What a picture to learn is brought to."""
        return fitted(size, self._areas.target, self.multiple)

    def control_size(self, size: Size) -> Size:
        """What an image to edit is brought to."""
        return fitted(size, self._areas.control, self.multiple)

    def condition_size(self, size: Size) -> Size:
        """What the text encoder sees of an image to edit."""
        return fitted(size, self._areas.seen, self.multiple)

    # --------------------------------------------------------------- encoders

    @property
    def text_folders(self) -> list[Path]:
        """The folders of everything that decides a text embedding."""
        return [
            self.base.folder / name
            for name in self._components()
            if name not in {*SCHEDULED, *self._trained_components()}
        ]

    def text_pipeline(self) -> Any:
        """The pipeline with its text encoders, loaded now if they are not."""
        if self._text_pipeline is None:
            self._text_pipeline = self._pipeline(set(self._components()) - {"vae", *self._trained_components()})
        return self._text_pipeline

    def encoders(self) -> dict[str, torch.nn.Module]:
        """The frozen encoders that are loaded, by component."""
        found = {"vae": self.pipe.vae, **({} if self._text_pipeline is None else self._text_pipeline.components)}
        return {name: part for name, part in found.items() if isinstance(part, torch.nn.Module)}

    def free_text_encoders(self) -> None:
        """Give the text encoders' memory back."""
        self._text_pipeline = None
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def offloadable(self) -> list[torch.nn.Module]:
        """The encoders that are loaded and take the device's memory while nobody asks them."""
        movable = self.base.device.type == "cuda" and not self._vae_offloaded
        return [part for name, part in self.encoders().items() if name != "vae" or movable]

    def offload(self) -> None:
        """Free the text encoders; keep the autoencoder in the host's memory between its uses."""
        self._vae_offloaded = self.base.device.type == "cuda"
        if self._vae_offloaded:
            self.pipe.vae.to("cpu")
        self.free_text_encoders()

    @contextmanager
    def vae_on_device(self) -> Iterator[None]:
        """The autoencoder is on the device inside. One thread at a time where it was put away."""
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
        """Everything that the model is told about a prompt (and, for some, the images to edit)."""

    def extra_conditioning(self, size: Size) -> Tensors:
        """What the model is told beside the text about a picture whose size was this."""
        del size
        return {}

    def encode_picture(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of a picture at this size: the mode of the autoencoder's distribution, normalised."""
        pixels = self.pipe.image_processor.preprocess(frames[0], size[1], size[0])
        return self.encode_pixels(pixels.to(self.base.device, self.base.dtype))[0]

    def encode_control(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of an image to edit at this size."""
        return self.encode_picture(frames, size)

    @abstractmethod
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, height, width) in [-1, 1] to a batch of one latent."""

    # ------------------------------------------------------------ the model

    def load_model(self) -> None:
        """Load the trained parts, frozen. Raises ConfigError."""
        self.models = self._load_parts(self.base.folder, self.base.name)
        self.pipe.register_modules(**self.models)

    def load_exported(self, folder: Path) -> torch.nn.ModuleDict:
        """The trained parts as they are read back from an export of all weights."""
        return self._load_parts(folder, "just exported", torch.float32)

    def part_at(self, sigma: float) -> str:
        """The component that answers, and learns, at this share of noise."""
        del sigma
        return self.part

    def unused(self, model: Any) -> set[str]:
        """Linear modules inside a part's blocks that no output depends on: LoRA matrices there would never learn."""
        del model
        return set()

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """float32 batches in, float32 out. Rectified flow: (1 - sigma) x + sigma noise."""
        share = _spread(sigma, latents)
        return (1 - share) * latents + share * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What `predict` should say, float32. Rectified flow: noise - x."""
        del sigma
        return noise - latents

    @abstractmethod
    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The model's answer in the shape of the target. model: the trained part that answers."""

    # ------------------------------------------------------------- samples

    @abstractmethod
    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """Arguments of the pipeline's call, without size, steps, generator."""

    @contextmanager
    def pipeline_areas(self) -> Iterator[None]:
        """The pipeline uses the areas that `advanced` asks for inside."""
        yield

    def generate(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """One sample, a list of its frames."""
        return list(self.run_pipeline(request, on_step).images[:1])

    def run_pipeline(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> Any:
        """One call of the pipeline that users run."""
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
        """The adapter in the key layout of ComfyUI or kohya. weights: peft names; scale: alpha / rank."""

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
            raise ConfigError(f"the base model {name} names a class that diffusers does not have: {self._index[part]}")
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
    """Whatever a broken folder makes of the libraries becomes a ConfigError inside."""
    try:
        yield
    except (torch.OutOfMemoryError, ConfigError):
        raise
    except Exception as error:
        raise ConfigError(f"the base model {name} cannot be loaded: {error}") from error


@contextmanager
def patched(module: Any, **values: Any) -> Iterator[None]:
    """The module has these attributes inside: the constants of diffusers' pipelines are no parameters."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def standardised(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(1, 3, frames, height, width) in [-1, 1] to a batch of one latent, (x - mean) / std per channel."""
    latents: torch.Tensor = vae.encode(pixels).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


def batched(texts: Sequence[Mapping[str, torch.Tensor]]) -> Tensors:
    """Texts of several samples with a batch dimension; embeddings padded with zeros, and a mask where they differ."""
    from torch.nn.utils.rnn import pad_sequence

    together: Tensors = {}
    for name in texts[0]:
        rows = [text[name] for text in texts]
        if name == EMBEDS and len({len(row) for row in rows}) > 1:
            together[MASK] = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
            together[name] = pad_sequence(rows, batch_first=True)
        else:
            together[name] = torch.stack(rows)
    return together


def _spread(sigma: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return sigma.view(-1, *[1] * (latents.dim() - 1))
