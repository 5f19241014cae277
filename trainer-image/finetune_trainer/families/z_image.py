"""Z-Image: text to image. Its time runs from noise (0) to image (1), and it predicts the opposite velocity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from finetune_trainer.diffusion.adapter import prefixed
from finetune_trainer.diffusion.denoiser import EMBEDS, MASK, Denoiser, Noisy, SampleRequest, Tensors


class ZImage(Denoiser):
    """Z-Image. Latents are (channels, height, width)."""

    blocks: ClassVar[tuple[str, ...]] = ("layers",)
    window: ClassVar[int] = 512

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """The hidden states before the last layer, without padding."""
        del controls
        embeds, _ = self.text_pipeline().encode_prompt(
            prompt, device=self.base.device, do_classifier_free_guidance=False
        )
        return {EMBEDS: embeds[0]}

    def count_tokens(self, pipe: Any, prompt: str) -> int:
        """With the template of the text encoder."""
        messages = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return super().count_tokens(pipe, pipe.tokenizer.apply_chat_template(messages, **options))

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(x - shift) * scale."""
        config = self.pipe.vae.config
        return (self.pipe.vae.encode(pixels).latent_dist.mode() - config.shift_factor) * config.scaling_factor

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """In lists of one entry for each sample, so that texts can differ in length."""
        embeds, mask = noisy.text[EMBEDS], noisy.text.get(MASK)
        texts = list(embeds) if mask is None else [row[kept] for row, kept in zip(embeds, mask, strict=True)]
        outputs = model(list(noisy.latents.unsqueeze(2)), 1 - noisy.sigma, texts, return_dict=False)[0]
        return -torch.stack(list(outputs)).squeeze(2)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With classifier-free guidance against the empty prompt."""
        device = self.base.device
        return {
            "prompt_embeds": [request.text[EMBEDS].to(device)],
            "negative_prompt_embeds": [request.negative[EMBEDS].to(device)],
            "guidance_scale": 4.0,
        }

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """`diffusion_model.` and diffusers' names, which ComfyUI maps onto its fused matrices."""
        return prefixed(weights, "diffusion_model", scale, rank)
