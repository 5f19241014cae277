"""Encoded rows: latents and text embeddings, from the cache where they have been encoded before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image

from finetune_trainer.diffusion.areas import Size
from finetune_trainer.diffusion.cache import TensorCache, fingerprint
from finetune_trainer.diffusion.denoiser import Denoiser, Tensors

Role = Literal["target", "control"]


@dataclass(frozen=True)
class Picture:
    """An image or clip.

    digest: of the file's bytes. size: (width, height), upright. load: decodes its first frames, at most so many.
    """

    digest: str
    size: Size
    load: Callable[[int], list[Image.Image]] = field(compare=False)


@dataclass(frozen=True)
class Row:
    """A row of the dataset: caption, target, and images to edit."""

    caption: str
    target: Picture
    controls: tuple[Picture, ...]


class Conditions:
    """Encodes rows, unless the cache has them."""

    def __init__(self, denoiser: Denoiser, cache: TensorCache) -> None:
        self._denoiser, self._cache = denoiser, cache
        base = denoiser.base
        self._numbers = f"{base.dtype}:{type(denoiser).__name__}:{denoiser.rate:g}"
        self._vae = fingerprint(base.folder / "vae")
        self._text = [fingerprint(folder) for folder in denoiser.text_folders]

    def shapes(self, row: Row) -> tuple[Any, ...]:
        """The sizes of target (with frames) and controls: rows with equal ones can share a forward pass."""
        return (
            self.target(row).shape if self._denoiser.clips else (),
            self._denoiser.target_size(row.target.size),
            *(self._denoiser.control_size(control.size) for control in row.controls),
        )

    def target(self, row: Row) -> torch.Tensor:
        """The latent of the target."""
        return self._latent(row.target, self._denoiser.target_size(row.target.size), "target")

    def controls(self, row: Row) -> list[torch.Tensor]:
        """The latents of the images to edit, or of the given frames."""
        return [self._latent(control, self._denoiser.control_size(control.size), "control") for control in row.controls]

    @torch.no_grad()
    def text(self, prompt: str, controls: tuple[Picture, ...]) -> Tensors:
        """The text encoder's output for a prompt and its images; the encoder is loaded if it is needed."""
        seen = [(control.digest, self._denoiser.condition_size(control.size)) for control in controls]
        key = self._cache.key(
            text=prompt,
            pictures=seen,
            frames=self._denoiser.conditioning_frames,
            encoder=self._text,
            numbers=self._numbers,
        )
        found = self._cache.get(key)
        if found is None:
            found = self._denoiser.encode_text(prompt, self.conditioning_images(controls))
            found = {name: tensor.detach().cpu() for name, tensor in found.items()}
            self._cache.put(key, found)
        return found

    def conditioning_images(self, controls: tuple[Picture, ...]) -> list[Image.Image]:
        """The frames of the images for the text encoder, one image after another."""
        return [frame for control in controls for frame in control.load(self._denoiser.conditioning_frames)]

    @torch.no_grad()
    def _latent(self, picture: Picture, size: Size, role: Role) -> torch.Tensor:
        denoiser = self._denoiser
        frames = denoiser.frames
        key = self._cache.key(
            picture=picture.digest, size=size, frames=frames, role=role, encoder=self._vae, numbers=self._numbers
        )
        found = self._cache.get(key)
        if found is None:
            encode = denoiser.encode_control if role == "control" else denoiser.encode_picture
            with denoiser.vae_on_device():
                found = {"latent": encode(picture.load(frames), size).cpu()}
            self._cache.put(key, found)
        return found["latent"]
