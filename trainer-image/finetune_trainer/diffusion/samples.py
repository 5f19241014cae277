"""Samples that are generated during training, by the pipeline that users run, to show progress.

Every round generates the same samples from the same noise. An interrupted sample is not written; the resumed run
generates it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from PIL import Image

from finetune_operator.api.recipes import MultiImageEditing
from finetune_trainer.data.fetch import Fetcher, FetchError
from finetune_trainer.data.images import ImageError, decode
from finetune_trainer.data.needs import Needs
from finetune_trainer.diffusion.conditions import Conditions, Picture, Row
from finetune_trainer.diffusion.denoiser import Denoiser, SampleRequest
from finetune_trainer.errors import ConfigError
from finetune_trainer.files import flush
from finetune_trainer.schedule import seed_of
from finetune_trainer.settings import parameter

if TYPE_CHECKING:
    from finetune_trainer.contract import Inputs
    from finetune_trainer.diffusion.areas import Size

FOLDER: Final = "samples"
MAX_BYTES: Final = 100 * 2**20


class _StoppedError(Exception):
    """The pod was asked to stop while a sample was generated."""


@dataclass(frozen=True)
class _Prompt:
    text: str
    controls: tuple[Picture, ...]


class Samples:
    """The samples of a recipe. Raises ConfigError for an image that cannot be fetched."""

    def __init__(
        self, inputs: Inputs, denoiser: Denoiser, conditions: Conditions, first: Row, notes: list[str]
    ) -> None:
        self._denoiser, self._conditions = denoiser, conditions
        self._seed, self._steps = inputs.settings.seed, inputs.advanced.sample_steps
        self._every: int = parameter(inputs.recipe, "sample_every") or 200
        self._trigger: str | None = getattr(inputs.recipe, "trigger_word", None)
        self._size = self._choose_size(inputs, first)
        self._fetcher = Fetcher(inputs.allowed_hosts)
        self._needs = Needs(max_pixels=inputs.advanced.max_image_pixels)
        samples = parameter(inputs.recipe, "samples") or []
        if isinstance(inputs.recipe, MultiImageEditing) and inputs.recipe.samples is None:
            notes.append(
                "no samples were made: the documented default of samples has its images at the provider's hub, and is "
                "not applied to a Job; set recipe.multiImageEditing.samples"
            )
        self._prompts = [self._prompt(number, sample, first, notes) for number, sample in enumerate(samples)]

    def due(self, step: int, last: bool) -> bool:
        """Whether samples are generated after this step: every `sampleEvery` steps, and at the end."""
        return bool(self._prompts) and (last or step % self._every == 0)

    def encode(self) -> None:
        """Encode the prompts into the cache, while the text encoders are loaded."""
        for prompt in self._prompts:
            self._embeddings(prompt)

    def generate(self, step: int, folder: Path, stopped: Callable[[], bool]) -> None:
        """Write `samples/step-<step>-<number>.png` (`.webp` for clips); returns early once `stopped()`."""

        def on_step(_pipe: Any, _index: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            if stopped():
                raise _StoppedError
            return {}

        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(self._prompts):
            path = folder / FOLDER / f"step-{step}-{number}.{'png' if self._denoiser.frames == 1 else 'webp'}"
            if path.exists():
                continue
            try:
                with torch.no_grad():
                    frames = self._denoiser.generate(self._request(number, prompt), on_step)
            except _StoppedError:
                return
            partial_path = path.with_name(f".{path.name}")
            _write(frames, partial_path, self._denoiser.rate)
            partial_path.chmod(0o644)
            flush(partial_path)
            partial_path.rename(path)

    def _request(self, number: int, prompt: _Prompt) -> SampleRequest:
        text, negative = self._embeddings(prompt)
        controls = tuple(self._conditions.conditioning_images(prompt.controls))
        seed = seed_of(f"{self._seed}:sample:{number}") % 2**63
        return SampleRequest(text, negative, controls, self._size, self._steps, seed)

    def _embeddings(self, prompt: _Prompt) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        texts = prompt.text, self._denoiser.negative_prompt
        text, negative = (self._conditions.text(text, prompt.controls) for text in texts)
        return text, negative

    def _choose_size(self, inputs: Inputs, first: Row) -> Size:
        width, height = parameter(inputs.recipe, "sample_width"), parameter(inputs.recipe, "sample_height")
        if width is None or height is None:
            return self._denoiser.target_size(first.target.size if self._denoiser.takes_first_frame else (1, 1))
        multiple = self._denoiser.multiple
        return max(multiple, width // multiple * multiple), max(multiple, height // multiple * multiple)

    def _prompt(self, number: int, sample: Any, first: Row, notes: list[str]) -> _Prompt:
        single = getattr(sample, "ctrl_img_url", None)
        urls = getattr(sample, "ctrl_img_urls", None) or ([single] if single else [])
        prompt = sample.prompt.replace("[trigger]", self._trigger) if self._trigger else sample.prompt
        if not urls and first.controls:
            notes.append(f"samples[{number}] has no images: those of the dataset's first row are used")
            return _Prompt(prompt, first.controls)
        if not urls and self._denoiser.requires_image:
            raise ConfigError(f"samples[{number}] has no images, and neither has the dataset: there is nothing to edit")
        return _Prompt(prompt, tuple(self._fetched(number, url) for url in urls))

    def _fetched(self, number: int, url: str) -> Picture:
        try:
            data = self._fetcher.get(url, MAX_BYTES)
            image = decode(data, self._needs)
        except (FetchError, ImageError) as error:
            raise ConfigError(f"samples[{number}]: {error}") from None
        return Picture(sha256(data).hexdigest(), image.size, partial(_reopened, image))


def _write(frames: list[Image.Image], path: Path, rate: float) -> None:
    if len(frames) == 1:
        frames[0].save(path, "PNG")
    else:
        duration = int(1000 / rate)
        frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:], duration=duration, quality=90)


def _reopened(image: Image.Image, _most: int) -> list[Image.Image]:
    return [image.copy()]
