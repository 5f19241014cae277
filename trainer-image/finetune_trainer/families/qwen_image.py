"""Qwen-Image: text to image. The editing models derive from it, and add images to the prompt and to the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from finetune_trainer.diffusion.adapter import prefixed
from finetune_trainer.diffusion.denoiser import EMBEDS, MASK, Denoiser, Noisy, SampleRequest, Tensors, standardized
from finetune_trainer.diffusion.patches import pack, unpack


class QwenImage(Denoiser):
    """Qwen-Image. Latents are (channels, 1, height, width)."""

    negative_prompt = " "
    window: ClassVar[int] = 1024

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """The last hidden states after the template's own tokens, at most as many as the pipeline uses."""
        del controls
        embeds, _ = self.text_pipeline().encode_prompt(prompt, device=self.base.device)
        return {EMBEDS: embeds[0]}

    def count_tokens(self, pipe: Any, prompt: str) -> int:
        """Without the template's own tokens, which the pipeline counts apart."""
        text = pipe.prompt_template_encode.format(prompt)
        return super().count_tokens(pipe, text) - int(pipe.prompt_template_encode_start_idx)

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(x - mean) / std per channel."""
        return standardized(self.pipe.vae, pixels.unsqueeze(2))

    def unused(self, model: Any) -> set[str]:
        """The modules of the last block that write to the text stream, which ends there."""
        last = f"transformer_blocks.{len(model.transformer_blocks) - 1}"
        return {f"{last}.attn.to_add_out", f"{last}.txt_mlp.net.0.proj", f"{last}.txt_mlp.net.2"}

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """2x2 patches of the image, then those of the images to edit; only the outputs for the former are used."""
        parts = [noisy.latents, *noisy.controls]
        count, _, _, height, width = noisy.latents.shape
        tokens = torch.cat([pack(part.to(noisy.latents.dtype)) for part in parts], dim=1)
        shapes = [(1, part.shape[-2] // 2, part.shape[-1] // 2) for part in parts]
        answer = model(
            hidden_states=tokens,
            timestep=noisy.sigma,
            encoder_hidden_states=noisy.text[EMBEDS],
            encoder_hidden_states_mask=noisy.text.get(MASK),
            img_shapes=[shapes] * count,
            return_dict=False,
        )[0]
        return unpack(answer[:, : height * width // 4], height, width).unsqueeze(2)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With true classifier-free guidance, as in the model card."""
        device = self.base.device
        return {
            "prompt_embeds": request.text[EMBEDS][None].to(device),
            "prompt_embeds_mask": torch.ones(1, len(request.text[EMBEDS]), device=device, dtype=torch.long),
            "negative_prompt_embeds": request.negative[EMBEDS][None].to(device),
            "negative_prompt_embeds_mask": torch.ones(
                1, len(request.negative[EMBEDS]), device=device, dtype=torch.long
            ),
            "true_cfg_scale": 4.0,
        }

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """`diffusion_model.` and diffusers' names, which ComfyUI's model shares."""
        return prefixed(weights, "diffusion_model", scale, rank)
