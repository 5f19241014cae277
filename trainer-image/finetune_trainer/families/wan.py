"""Wan 2.1 and 2.2: clips and stills. A clip is an animated image (GIF, WebP, PNG); a still is one frame.

The autoencoder takes 4n + 1 frames: of longer clips the first `numFrames`, of shorter ones as many as that allows.

Wan2.2-A14B has two denoisers: `transformer` where the share of noise is at least the checkpoint's `boundary_ratio`,
`transformer_2` below. Image to video gives a model the first frame of the clip that it learns, the way the pipeline
gives it the image to animate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import torch
from PIL import Image

from finetune_trainer.config import Advanced
from finetune_trainer.diffusion.adapter import prefixed
from finetune_trainer.diffusion.areas import Areas, Size
from finetune_trainer.diffusion.denoiser import EMBEDS, Base, Denoiser, Noisy, Shown, Tensors, read_index, replaced
from finetune_trainer.errors import ConfigError

IMAGE: Final = "image"
"""Name of CLIP's embedding of the image to animate, (tokens, width)."""
TWO: Final = {"transformer": "-high-noise", "transformer_2": "-low-noise"}
"""The two denoisers, and what the names of their files end with."""
ORIGINAL_NAMES = (
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "o."),
    ("add_k_proj.", "k_img."),
    ("add_v_proj.", "v_img."),
    ("ffn.net.0.proj.", "ffn.0."),
    ("ffn.net.2.", "ffn.2."),
)
"""What diffusers' modules are called in the original model, which is the form that everybody else loads."""


def image_to_video(base: Base, advanced: Advanced, frames: int = 1) -> Wan:
    """The class for a checkpoint that takes an image, or text to video for one that does not."""
    index = read_index(base)
    if index.get("expand_timesteps") or index.get("_class_name") == WanImageToVideo.pipeline:
        return WanImageToVideo(base, advanced, frames)
    wan = Wan(base, advanced, frames)
    wan.notes = ("the base model takes no image: it learns its clips from the captions alone, as in textToVideo",)
    return wan


class Wan(Denoiser):
    """Text to video. Latents are (channels, frames, height, width)."""

    pipeline: ClassVar[str] = "WanPipeline"
    blocks: ClassVar[tuple[str, ...]] = ("blocks",)
    areas: ClassVar[Areas] = Areas(480 * 832, 480 * 832, 480 * 832)
    multiple: ClassVar[int] = 32
    clips: ClassVar[bool] = True

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        self.frames = self._kept(frames)
        self._boundary: float | None = self.pipe.config.boundary_ratio
        if self._boundary is not None:
            self.parts = TWO

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """512 tokens of UMT5, zeros behind the text."""
        del controls
        embeds, _ = self.texts().encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=512, device=self.base.device
        )
        return {EMBEDS: embeds[0]}

    def encode_picture(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of a clip at this size: the mode of the autoencoder's distribution, normalised."""
        return self.encode_pixels(self._pixels(frames[: self._kept(len(frames))], size))[0]

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, frames, height, width) to (x - mean) / std per channel."""
        latents = self.pipe.vae.encode(pixels).latent_dist.mode()
        config = self.pipe.vae.config
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents.device, latents.dtype)
            for values in (config.latents_mean, config.latents_std)
        )
        return (latents - mean) / std

    def part_at(self, sigma: float) -> str:
        """The first denoiser for much noise, the second for little, where there are two."""
        return "transformer" if self._boundary is None or sigma >= self._boundary else "transformer_2"

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The timestep is 1000 sigma, for some models one per token."""
        timestep = noisy.sigma * 1000
        if self.pipe.config.expand_timesteps:
            timestep = _per_token(timestep, noisy.latents, model).flatten(1)
        return _answer(model, noisy, noisy.latents, timestep)

    def call(self, shown: Shown) -> dict[str, Any]:
        """Classifier-free guidance against the empty prompt."""
        device = self.base.device
        return {
            "prompt_embeds": shown.text[EMBEDS][None].to(device),
            "negative_prompt_embeds": shown.negative[EMBEDS][None].to(device),
            "num_frames": self.frames,
            "output_type": "pil",
        }

    def show(self, shown: Shown, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """The frames of one clip."""
        return list(self.run_pipeline(shown, on_step).frames[0])

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """`diffusion_model.` and the original model's names."""
        renamed: Tensors = {}
        for name, tensor in weights.items():
            original = name
            for ours, theirs in ORIGINAL_NAMES:
                original = original.replace(f".{ours}", f".{theirs}")
            renamed[original] = tensor
        return prefixed(renamed, "diffusion_model", scale, rank)

    def _heavy(self) -> set[str]:
        return {*TWO}

    def _kept(self, frames: int) -> int:
        stride = self.pipe.vae_scale_factor_temporal
        return int((frames - 1) // stride * stride + 1)

    def _pixels(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """(1, 3, frames, height, width) in [-1, 1]."""
        pixels = self.pipe.video_processor.preprocess(list(frames), size[1], size[0])
        return pixels.transpose(0, 1).unsqueeze(0).to(self.base.device, self.base.dtype)


class WanImageToVideo(Wan):
    """Given the first frame. Most models have its latent in further channels, and CLIP's embedding of it (2.1).

    A model with timesteps per token (TI2V) has the clean latent in the place of its first frame, at timestep 0. What
    it says there is never used by the pipeline, so it counts for nothing here: the loss is that of the other frames.
    """

    pipeline: ClassVar[str] = "WanImageToVideoPipeline"
    starts: ClassVar[bool] = True

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        if self.frames == 1:
            raise ConfigError(f"numFrames {frames} leaves the first frame alone: image to video needs at least 5")
        self._in_place: bool = self.pipe.config.expand_timesteps

    def load_model(self) -> None:
        """Raises ConfigError for a model that wants the last frame as well."""
        super().load_model()
        if any(model.config.pos_embed_seq_len for model in self.models.values()):
            raise ConfigError(
                f"the base model {self.base.name} wants the first and the last frame, and this trainer gives the first",
                "ModelNotSupported",
            )

    def control_size(self, size: Size) -> Size:
        """That of the clip which it starts."""
        return self.target_size(size)

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """With CLIP's last layer but one, of the first frame as it is, where the model has that encoder."""
        from diffusers.pipelines.wan import pipeline_wan, pipeline_wan_i2v

        # Its own cleaning wants ftfy, and fails without; the other pipeline's is the same but for that.
        with replaced(pipeline_wan_i2v, prompt_clean=pipeline_wan.prompt_clean):
            told = super().encode_text(prompt, ())
        if "image_encoder" in self._components():
            told[IMAGE] = self.texts().encode_image(controls[0], self.base.device)[0].to(self.base.dtype)
        return told

    def encode_control(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """Of the first frame alone, or followed by as many grey ones as the clip has."""
        start = self._pixels(frames[:1], size)
        if self._in_place:
            return self.encode_pixels(start)[0]
        after = start.new_zeros(1, 3, self._kept(len(frames)) - 1, *start.shape[3:])
        return self.encode_pixels(torch.cat([start, after], dim=2))[0]

    def goal(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """noise - x, of the frames that are not given in their place."""
        goal = super().goal(latents, noise, sigma)
        return goal[:, :, 1:] if self._in_place else goal

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The first frame in place at timestep 0, or a mask of it (one channel for each frame of a latent) and it."""
        timestep, (start,) = noisy.sigma * 1000, noisy.controls
        if self._in_place:
            timestep = _per_token(timestep, noisy.latents, model).clone()
            timestep[:, 0] = 0
            seen = torch.cat([start, noisy.latents[:, :, 1:]], dim=2)
            return _answer(model, noisy, seen, timestep.flatten(1))[:, :, 1:]
        mask = start.new_zeros(len(start), self.pipe.vae_scale_factor_temporal, *start.shape[2:])
        mask[:, :, 0] = 1
        return _answer(model, noisy, torch.cat([noisy.latents, mask, start], dim=1), timestep)

    def call(self, shown: Shown) -> dict[str, Any]:
        """With the image to animate."""
        return {**super().call(shown), "image": shown.controls[0]}

    def show(self, shown: Shown, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """The pipeline takes an image or its embedding, and wants both: it gets the embedding from where it asks."""
        if IMAGE not in shown.text:
            return super().show(shown, on_step)
        embedding = shown.text[IMAGE][None].to(self.base.device)
        with replaced(self.pipe, encode_image=lambda *_: embedding):
            return super().show(shown, on_step)


def _per_token(timestep: torch.Tensor, latents: torch.Tensor, model: Any) -> torch.Tensor:
    """(samples,) to (samples, frames, tokens of a frame)."""
    _, _, frames, height, width = latents.shape
    _, high, wide = model.config.patch_size
    return timestep[:, None, None].expand(-1, frames, (height // high) * (width // wide))


def _answer(model: Any, noisy: Noisy, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return model(
        hidden_states=latents,
        timestep=timestep,
        encoder_hidden_states=noisy.text[EMBEDS],
        encoder_hidden_states_image=noisy.text.get(IMAGE),
        return_dict=False,
    )[0]
