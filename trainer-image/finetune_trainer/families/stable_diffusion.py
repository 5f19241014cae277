"""Stable Diffusion 1.5 and XL: a U-Net that predicts the noise (or the velocity) on a schedule of 1000 timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from finetune_operator.api.advanced import Advanced
from finetune_trainer.diffusion.areas import Areas, Size
from finetune_trainer.diffusion.denoiser import EMBEDS, POOLED, Base, Denoiser, Noisy, SampleRequest, Tensors

ORIGINAL = "original"


class StableDiffusion(Denoiser):
    """Stable Diffusion 1.5. Every Linear of the attention blocks gets LoRA matrices, as with kohya's tools."""

    part: ClassVar[str] = "unet"
    blocks: ClassVar[tuple[str, ...]] = (r"(?:down_blocks|up_blocks)\.\d+\.attentions", r"mid_block\.attentions")
    areas: ClassVar[Areas] = Areas(512**2, 512**2)
    multiple: ClassVar[int] = 64
    guidance: ClassVar[float] = 7.5

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        from diffusers import DDPMScheduler

        super().__init__(base, advanced, frames)
        self._schedule = DDPMScheduler.from_config(self.pipe.scheduler.config)

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """77 tokens of CLIP."""
        del controls
        embeds, _ = self.text_pipeline().encode_prompt(prompt, self.base.device, 1, do_classifier_free_guidance=False)
        return {EMBEDS: embeds[0]}

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """x * scale."""
        return self.pipe.vae.encode(pixels).latent_dist.mode() * self.pipe.vae.config.scaling_factor

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The noise schedule's mixture at timestep floor(1000 sigma)."""
        return self._schedule.add_noise(latents, noise, self._timesteps(sigma))

    def target(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The noise, or the velocity for models that predict it."""
        if self._schedule.config.prediction_type == "v_prediction":
            return self._schedule.get_velocity(latents, noise, self._timesteps(sigma))
        return noise

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The output of the U-Net."""
        return model(
            noisy.latents,
            self._timesteps(noisy.sigma),
            encoder_hidden_states=noisy.text[EMBEDS],
            added_cond_kwargs=self.added_conditions(noisy),
            return_dict=False,
        )[0]

    def added_conditions(self, noisy: Noisy) -> dict[str, torch.Tensor] | None:
        """Further conditions of the U-Net; None here."""
        del noisy
        return None

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With classifier-free guidance against the empty prompt."""
        device = self.base.device
        return {
            "prompt_embeds": request.text[EMBEDS][None].to(device),
            "negative_prompt_embeds": request.negative[EMBEDS][None].to(device),
            "guidance_scale": self.guidance,
        }

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """kohya's names. Alpha is set here, because diffusers' conversion writes the rank in its place."""
        from diffusers.utils import convert_state_dict_to_kohya

        names = convert_state_dict_to_kohya({f"unet.{name}": tensor for name, tensor in weights.items()})
        return {
            name: torch.tensor(scale * rank) if name.endswith(".alpha") else tensor for name, tensor in names.items()
        }

    def _timesteps(self, sigma: torch.Tensor) -> torch.Tensor:
        return (sigma * 1000).long().clamp(max=self._schedule.config.num_train_timesteps - 1)


class StableDiffusionXL(StableDiffusion):
    """SDXL: two text encoders, and the image's original size as a condition (no cropping)."""

    areas: ClassVar[Areas] = Areas(1024**2, 1024**2)
    guidance: ClassVar[float] = 5.0

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """The hidden states of both encoders, concatenated, and the pooled vector of the second."""
        del controls
        found = self.text_pipeline().encode_prompt(prompt, device=self.base.device, do_classifier_free_guidance=False)
        return {EMBEDS: found[0][0], POOLED: found[2][0]}

    def extra_conditioning(self, size: Size) -> Tensors:
        """(height, width) of the image before it was resized."""
        return {ORIGINAL: torch.tensor([size[1], size[0]], dtype=torch.float32)}

    def added_conditions(self, noisy: Noisy) -> dict[str, torch.Tensor] | None:
        """The pooled text, and the time ids: original height and width, crop 0, 0, and target height and width."""
        original = noisy.text[ORIGINAL]
        scale = self.pipe.vae_scale_factor
        target = original.new_tensor([noisy.latents.shape[-2] * scale, noisy.latents.shape[-1] * scale])
        sizes = torch.cat([original, torch.zeros_like(original), target.expand_as(original)], dim=1)
        return {"text_embeds": noisy.text[POOLED], "time_ids": sizes}

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the pooled vectors."""
        device = self.base.device
        return {
            **super().pipeline_arguments(request),
            "pooled_prompt_embeds": request.text[POOLED][None].to(device),
            "negative_pooled_prompt_embeds": request.negative[POOLED][None].to(device),
        }
