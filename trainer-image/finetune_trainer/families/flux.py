"""FLUX.1: text to image, and Kontext, which edits an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from finetune_operator.api.advanced import Advanced
from finetune_trainer.diffusion.adapter import prefixed
from finetune_trainer.diffusion.areas import Size
from finetune_trainer.diffusion.denoiser import (
    EMBEDS,
    POOLED,
    TRAINED_GUIDANCE,
    Base,
    Denoiser,
    Noisy,
    SampleRequest,
    Tensors,
)
from finetune_trainer.diffusion.patches import pack, unpack


class Flux(Denoiser):
    """FLUX.1. Latents are (channels, height, width)."""

    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    guidance: ClassVar[float] = 3.5

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """512 tokens of T5, and CLIP's pooled vector."""
        del controls
        embeds, pooled, _ = self.text_pipeline().encode_prompt(prompt, device=self.base.device)
        return {EMBEDS: embeds[0], POOLED: pooled[0]}

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(x - shift) * scale."""
        config = self.pipe.vae.config
        return (self.pipe.vae.encode(pixels).latent_dist.mode() - config.shift_factor) * config.scaling_factor

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """Patches of the image, then those of the image to edit, whose positions start with 1 instead of 0."""
        count, _, height, width = noisy.latents.shape
        tokens = torch.cat([pack(part.to(noisy.latents.dtype)) for part in (noisy.latents, *noisy.controls)], dim=1)
        positions = [self._positions(noisy.latents, 0), *(self._positions(control, 1) for control in noisy.controls)]
        guided = model.config.guidance_embeds
        answer = model(
            hidden_states=tokens,
            timestep=noisy.sigma,
            guidance=noisy.sigma.new_full((count,), TRAINED_GUIDANCE) if guided else None,
            pooled_projections=noisy.text[POOLED],
            encoder_hidden_states=noisy.text[EMBEDS],
            txt_ids=noisy.sigma.new_zeros(noisy.text[EMBEDS].shape[1], 3),
            img_ids=torch.cat(positions),
            return_dict=False,
        )[0]
        return unpack(answer[:, : height * width // 4], height, width)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the guidance of the model card."""
        device = self.base.device
        return {
            "prompt_embeds": request.text[EMBEDS][None].to(device),
            "pooled_prompt_embeds": request.text[POOLED][None].to(device),
            "guidance_scale": self.guidance,
        }

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """`transformer.` and diffusers' names, which both ComfyUI and diffusers read; others have no effect."""
        return prefixed(weights, "transformer", scale, rank)

    def _positions(self, latents: torch.Tensor, image: int) -> torch.Tensor:
        height, width = latents.shape[-2] // 2, latents.shape[-1] // 2
        rows = torch.arange(height, device=latents.device)[:, None].expand(height, width)
        columns = torch.arange(width, device=latents.device)[None].expand(height, width)
        return torch.stack([torch.full_like(rows, image), rows, columns], dim=-1).reshape(-1, 3).float()


class FluxKontext(Flux):
    """FLUX.1-Kontext: one image to edit, resized to one of the sizes that the model was trained on."""

    guidance: ClassVar[float] = 2.5

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        self._preferred = advanced.control_area is None

    def control_size(self, size: Size) -> Size:
        """The preferred size with the closest aspect ratio, as in the pipeline."""
        from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

        if not self._preferred:
            return super().control_size(size)
        ratio = size[0] / size[1]
        _, width, height = min(
            (abs(ratio - width / height), width, height) for width, height in PREFERRED_KONTEXT_RESOLUTIONS
        )
        multiple = self.pipe.vae_scale_factor * 2
        return width // multiple * multiple, height // multiple * multiple

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the image to edit, resized."""
        image = request.controls[0]
        width, height = self.control_size(image.size)
        return {
            **super().pipeline_arguments(request),
            "image": self.pipe.image_processor.resize(image, height, width),
            "_auto_resize": False,
            "max_area": request.size[0] * request.size[1],
        }
