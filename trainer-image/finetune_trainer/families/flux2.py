"""FLUX.2 (dev and klein): text to image, on latents that are already patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from finetune_trainer.diffusion.adapter import folded
from finetune_trainer.diffusion.denoiser import EMBEDS, TRAINED_GUIDANCE, Denoiser, Noisy, SampleRequest, Tensors


class Flux2(Denoiser):
    """FLUX.2. Latents are (4 * channels, height / 2, width / 2), normalised by the autoencoder's batch statistics."""

    blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks", "single_transformer_blocks")
    guidance: ClassVar[float] = 4.0
    window: ClassVar[int] = 512

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """Hidden states of three layers, concatenated."""
        del controls
        embeds, _ = self.text_pipeline().encode_prompt(prompt, device=self.base.device)
        return {EMBEDS: embeds[0]}

    def count_tokens(self, pipe: Any, prompt: str) -> int:
        """With the system message of the pipeline."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        (messages,) = format_input([prompt])
        encoded = pipe.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        return len(_flat(encoded["input_ids"]))

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """2x2 patches, (x - mean) / std per channel."""
        vae = self.pipe.vae
        latents = self.pipe._patchify_latents(vae.encode(pixels).latent_dist.mode())
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents)
        std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(latents)
        return (latents - mean) / std

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """One token per patch."""
        count, _, height, width = noisy.latents.shape
        embeds, device = noisy.text[EMBEDS], noisy.latents.device
        guided = getattr(model.config, "guidance_embeds", True)
        answer = model(
            hidden_states=noisy.latents.flatten(2).transpose(1, 2),
            timestep=noisy.sigma,
            guidance=noisy.sigma.new_full((count,), TRAINED_GUIDANCE) if guided else None,
            encoder_hidden_states=embeds,
            txt_ids=self.pipe._prepare_text_ids(embeds).to(device),
            img_ids=self.pipe._prepare_latent_ids(noisy.latents).to(device),
            return_dict=False,
        )[0]
        return answer.transpose(1, 2).reshape(count, -1, height, width)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the guidance of the model card."""
        return {"prompt_embeds": request.text[EMBEDS][None].to(self.base.device), "guidance_scale": self.guidance}

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """`transformer.` and diffusers' names, scaled by alpha: diffusers rejects alpha keys here."""
        del rank
        return folded(weights, "transformer", scale)


class Flux2Klein(Flux2):
    """FLUX.2 klein: classifier-free guidance instead of a guidance embedding; distilled models ignore it."""

    def count_tokens(self, pipe: Any, prompt: str) -> int:
        """With the template of the text encoder."""
        messages = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        return len(pipe.tokenizer(pipe.tokenizer.apply_chat_template(messages, **options))["input_ids"])

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the empty prompt's embedding."""
        return {
            **super().pipeline_arguments(request),
            "negative_prompt_embeds": request.negative[EMBEDS][None].to(self.base.device),
        }


def _flat(ids: Any) -> Any:
    """The ids of one text: a processor returns a batch, a tokenizer does not."""
    return ids[0] if len(ids) == 1 and isinstance(ids[0], list) else ids
