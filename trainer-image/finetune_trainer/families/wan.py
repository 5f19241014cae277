"""Wan 2.1 and 2.2: clips and stills. A clip is a video or an animated image (GIF, WebP, PNG); a still is one frame.

The autoencoder takes 4n + 1 frames: of longer clips the first `numFrames`, of shorter ones as many as that allows.

Wan2.2-A14B has two denoisers: `transformer` where the share of noise is at least the checkpoint's `boundary_ratio`,
`transformer_2` below. Image to video gives a model the first frame of the clip that it learns, the way the pipeline
gives it the image to animate, and a model made for both ends (FLF2V) the last one too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import torch
from PIL import Image

from finetune_trainer.config import Advanced
from finetune_trainer.diffusion.adapter import prefixed
from finetune_trainer.diffusion.areas import Areas, Size
from finetune_trainer.diffusion.denoiser import (
    EMBEDS,
    Base,
    Denoiser,
    Noisy,
    SampleRequest,
    Tensors,
    patched,
    standardised,
)
from finetune_trainer.errors import ConfigError
from finetune_trainer.models import read_json

IMAGE: Final = "image"
"""Name of CLIP's embedding of the frames that are given, (frames, tokens, width)."""
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
    index = read_json(base.folder / "model_index.json", base.name)
    if index.get("_class_name") == WanImageToVideo.pipeline:
        both_ends = read_json(base.folder / "transformer" / "config.json", base.name).get("pos_embed_seq_len")
        return (WanFirstLastToVideo if both_ends else WanImageToVideo)(base, advanced, frames)
    if index.get("expand_timesteps"):
        return WanImageToVideo(base, advanced, frames)
    wan = Wan(base, advanced, frames)
    wan.notes = ("the base model takes no image: it learns its clips from the captions alone, as in textToVideo",)
    return wan


class Wan(Denoiser):
    """Text to video. Latents are (channels, frames, height, width)."""

    pipeline: ClassVar[str] = "WanPipeline"
    blocks: ClassVar[tuple[str, ...]] = ("blocks",)
    areas: ClassVar[Areas] = Areas(480 * 832, 480 * 832)
    multiple: ClassVar[int] = 32
    clips: ClassVar[bool] = True

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        self.frames = self._kept(frames)
        if self.pipe.config.expand_timesteps:
            self.rate = 24.0  # TI2V-5B; all others were made for 16
        self._boundary: float | None = self.pipe.config.boundary_ratio
        if self._boundary is not None:
            self.parts = TWO

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """512 tokens of UMT5, zeros behind the text."""
        del controls
        embeds, _ = self.text_pipeline().encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=512, device=self.base.device
        )
        return {EMBEDS: embeds[0]}

    def encode_picture(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of a clip at this size: the mode of the autoencoder's distribution, normalised."""
        return self.encode_pixels(self._pixels(frames[: self._kept(len(frames))], size))[0]

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, frames, height, width) to (x - mean) / std per channel."""
        return standardised(self.pipe.vae, pixels)

    def part_at(self, sigma: float) -> str:
        """The first denoiser for much noise, the second for little, where there are two."""
        return "transformer" if self._boundary is None or sigma >= self._boundary else "transformer_2"

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The timestep is 1000 sigma, for some models one per token."""
        timestep = noisy.sigma * 1000
        if self.pipe.config.expand_timesteps:
            timestep = _per_token(timestep, noisy.latents, model).flatten(1)
        return _answer(model, noisy, noisy.latents, timestep)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """Classifier-free guidance against the empty prompt."""
        device = self.base.device
        return {
            "prompt_embeds": request.text[EMBEDS][None].to(device),
            "negative_prompt_embeds": request.negative[EMBEDS][None].to(device),
            "num_frames": self.frames,
            "output_type": "pil",
        }

    def generate(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """The frames of one clip."""
        return list(self.run_pipeline(request, on_step).frames[0])

    def comfyui(self, weights: Tensors, scale: float, rank: int) -> Tensors:
        """`diffusion_model.` and the original model's names."""
        renamed: Tensors = {}
        for name, tensor in weights.items():
            original = name
            for ours, theirs in ORIGINAL_NAMES:
                original = original.replace(f".{ours}", f".{theirs}")
            renamed[original] = tensor
        return prefixed(renamed, "diffusion_model", scale, rank)

    def _trained_components(self) -> set[str]:
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
    takes_first_frame: ClassVar[bool] = True

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        if self.frames == 1:
            raise ConfigError(f"numFrames {frames} leaves the first frame alone: image to video needs at least 5")
        self._in_place: bool = self.pipe.config.expand_timesteps

    def control_size(self, size: Size) -> Size:
        """That of the clip which it starts."""
        return self.target_size(size)

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """With CLIP's last layer but one, of the frames that are given as they are, where the model has it."""
        from diffusers.pipelines.wan import pipeline_wan, pipeline_wan_i2v

        # Its own cleaning wants ftfy, and fails without; the other pipeline's is the same but for that.
        with patched(pipeline_wan_i2v, prompt_clean=pipeline_wan.prompt_clean):
            encoded = super().encode_text(prompt, ())
        if "image_encoder" in self._components():
            encoded[IMAGE] = (
                self.text_pipeline().encode_image(self._given(controls), self.base.device).to(self.base.dtype)
            )
        return encoded

    def encode_control(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """Of the first frame alone, or of a clip in which the frames that are not given are grey."""
        start, *end = (self._pixels([frame], size) for frame in self._given(frames))
        if self._in_place:
            return self.encode_pixels(start)[0]
        grey = start.new_zeros(1, 3, self._kept(len(frames)) - 1 - len(end), *start.shape[3:])
        return self.encode_pixels(torch.cat([start, grey, *end], dim=2))[0]

    def target(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """noise - x, of the frames that are not given in their place."""
        target = super().target(latents, noise, sigma)
        return target[:, :, 1:] if self._in_place else target

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The first frame in place at timestep 0, or a mask of what is given and that.

        The mask has one channel for each frame of a latent; the first latent is of one frame, which counts for all.
        """
        timestep, (start,) = noisy.sigma * 1000, noisy.controls
        if self._in_place:
            timestep = _per_token(timestep, noisy.latents, model).clone()
            timestep[:, 0] = 0
            seen = torch.cat([start, noisy.latents[:, :, 1:]], dim=2)
            return _answer(model, noisy, seen, timestep.flatten(1))[:, :, 1:]
        mask = start.new_zeros(len(start), self.pipe.vae_scale_factor_temporal, *start.shape[2:])
        mask[:, :, 0] = 1
        self._mark_end(mask)
        return _answer(model, noisy, torch.cat([noisy.latents, mask, start], dim=1), timestep)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the image to animate."""
        return {**super().pipeline_arguments(request), "image": self._given(request.controls)[0]}

    def generate(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """The pipeline takes an image or its embedding, and wants both: it gets the embedding from where it asks."""
        if IMAGE not in request.text:
            return super().generate(request, on_step)
        embedding = request.text[IMAGE].to(self.base.device)
        with patched(self.pipe, encode_image=lambda *_: embedding):
            return super().generate(request, on_step)

    def _given(self, frames: Sequence[Image.Image]) -> list[Image.Image]:
        return list(frames[:1])

    def _mark_end(self, mask: torch.Tensor) -> None:
        """Mark what is given at the end; mask: (samples, frames of a latent, latents, height, width)."""


class WanFirstLastToVideo(WanImageToVideo):
    """Given the first and the last frame (Wan2.1-FLF2V): the last frame of the clip that is learnt."""

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        self.conditioning_frames = self.frames

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the image to end with."""
        return {**super().pipeline_arguments(request), "last_image": self._given(request.controls)[-1]}

    def _given(self, frames: Sequence[Image.Image]) -> list[Image.Image]:
        return [frames[0], frames[self._kept(len(frames)) - 1]]

    def _mark_end(self, mask: torch.Tensor) -> None:
        mask[:, -1, -1] = 1


def _per_token(timestep: torch.Tensor, latents: torch.Tensor, model: Any) -> torch.Tensor:
    """(samples,) to (samples, frames, tokens of a frame)."""
    _, _, frames, height, width = latents.shape
    _, high, wide = model.config.patch_size
    return timestep[:, None, None].expand(-1, frames, (height // high) * (width // wide))


def _answer(model: Any, noisy: Noisy, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    given = noisy.text.get(IMAGE)
    return model(
        hidden_states=latents,
        timestep=timestep,
        encoder_hidden_states=noisy.text[EMBEDS],
        encoder_hidden_states_image=None if given is None else given.flatten(0, 1),
        return_dict=False,
    )[0]
