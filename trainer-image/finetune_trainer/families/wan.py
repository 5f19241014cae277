"""Wan 2.1 and 2.2: clips and stills. A clip is a video or an animated image (GIF, WebP, PNG); a still is one frame.

The autoencoder takes 4n + 1 frames: the first `numFrames` of longer clips, and as many as possible of shorter ones.

Wan2.2-A14B has two denoisers: `transformer` for sigma of at least the checkpoint's `boundary_ratio`, `transformer_2`
below. In image to video the model gets the first frame of the target clip, as the pipeline gives it the image to
animate; a model for first and last frame (FLF2V) also gets the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import torch
from PIL import Image

from finetune_operator.api.advanced import Advanced
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
    standardized,
)
from finetune_trainer.errors import ConfigError
from finetune_trainer.models import read_json

IMAGE: Final = "image"
"""Name of CLIP's embedding of the given frames, (frames, tokens, width)."""
TWO_PARTS: Final = {"transformer": "-high-noise", "transformer_2": "-low-noise"}
"""The two denoisers, and the suffixes of their files."""
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
"""Names of diffusers' modules, and in the original model, whose names every other program loads."""


def image_to_video(base: Base, advanced: Advanced, frames: int = 1) -> Wan:
    """The denoiser of a checkpoint for image to video; of one that takes no image, that for text to video."""
    index = read_json(base.folder / "model_index.json", base.name)
    if index.get("_class_name") == WanImageToVideo.pipeline:
        both_ends = read_json(base.folder / "transformer" / "config.json", base.name).get("pos_embed_seq_len")
        return (WanFirstLastToVideo if both_ends else WanImageToVideo)(base, advanced, frames)
    if index.get("expand_timesteps"):
        return WanImageToVideo(base, advanced, frames)
    wan = Wan(base, advanced, frames)
    wan.notes = ("the base model takes no image: it is trained on captions alone, as in textToVideo",)
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
            self.parts = TWO_PARTS

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """512 tokens of UMT5, padded with zeros."""
        del controls
        embeds, _ = self.text_pipeline().encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=512, device=self.base.device
        )
        return {EMBEDS: embeds[0]}

    def encode_picture(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of a clip at this size: the mode of the autoencoder's distribution, normalized."""
        return self.encode_pixels(self._pixels(frames[: self._kept(len(frames))], size))[0]

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, frames, height, width) to (x - mean) / std per channel."""
        return standardized(self.pipe.vae, pixels)

    def part_at(self, sigma: float) -> str:
        """The first denoiser for much noise, the second for little, if there are two."""
        return "transformer" if self._boundary is None or sigma >= self._boundary else "transformer_2"

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """At timestep 1000 sigma, in some models one for each token."""
        timestep = noisy.sigma * 1000
        if self.pipe.config.expand_timesteps:
            timestep = _per_token(timestep, noisy.latents, model).flatten(1)
        return _output(model, noisy, noisy.latents, timestep)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With classifier-free guidance against the empty prompt."""
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
        return {*TWO_PARTS}

    def _kept(self, frames: int) -> int:
        stride = self.pipe.vae_scale_factor_temporal
        return int((frames - 1) // stride * stride + 1)

    def _pixels(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """(1, 3, frames, height, width) in [-1, 1]."""
        pixels = self.pipe.video_processor.preprocess(list(frames), size[1], size[0])
        return pixels.transpose(0, 1).unsqueeze(0).to(self.base.device, self.base.dtype)


class WanImageToVideo(Wan):
    """Image to video. Most models get the first frame as further channels of the latent, and CLIP's embedding (2.1).

    A model with a timestep for each token (TI2V) gets the clean latent instead of its first frame, at timestep 0. The
    pipeline never uses the output there, so that it is not part of the loss.
    """

    pipeline: ClassVar[str] = "WanImageToVideoPipeline"
    takes_first_frame: ClassVar[bool] = True

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        if self.frames == 1:
            raise ConfigError(f"numFrames {frames} is only the first frame: image to video needs at least 5")
        self._in_place: bool = self.pipe.config.expand_timesteps

    def control_size(self, size: Size) -> Size:
        """The size of the clip that the frame starts."""
        return self.target_size(size)

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """Also CLIP's last hidden layer but one, of the given frames, if the model has it."""
        from diffusers.pipelines.wan import pipeline_wan, pipeline_wan_i2v

        # Its own prompt_clean requires ftfy; that of the other pipeline is the same without it.
        with patched(pipeline_wan_i2v, prompt_clean=pipeline_wan.prompt_clean):
            encoded = super().encode_text(prompt, ())
        if "image_encoder" in self._components():
            encoded[IMAGE] = (
                self.text_pipeline().encode_image(self._given(controls), self.base.device).to(self.base.dtype)
            )
        return encoded

    def encode_control(self, frames: Sequence[Image.Image], size: Size) -> torch.Tensor:
        """The latent of the first frame, or of a clip in which all frames that are not given are grey."""
        start, *end = (self._pixels([frame], size) for frame in self._given(frames))
        if self._in_place:
            return self.encode_pixels(start)[0]
        grey = start.new_zeros(1, 3, self._kept(len(frames)) - 1 - len(end), *start.shape[3:])
        return self.encode_pixels(torch.cat([start, grey, *end], dim=2))[0]

    def target(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """noise - x, without the first frame if the model gets it in its place."""
        target = super().target(latents, noise, sigma)
        return target[:, :, 1:] if self._in_place else target

    def predict(self, model: Any, noisy: Noisy) -> torch.Tensor:
        """The first frame in its place at timestep 0; or in further channels, with a mask of the given frames.

        The mask has a channel for each frame that a latent frame encodes; the first encodes one frame, which fills all.
        """
        timestep, (start,) = noisy.sigma * 1000, noisy.controls
        if self._in_place:
            timestep = _per_token(timestep, noisy.latents, model).clone()
            timestep[:, 0] = 0
            seen = torch.cat([start, noisy.latents[:, :, 1:]], dim=2)
            return _output(model, noisy, seen, timestep.flatten(1))[:, :, 1:]
        mask = start.new_zeros(len(start), self.pipe.vae_scale_factor_temporal, *start.shape[2:])
        mask[:, :, 0] = 1
        self._mark_end(mask)
        return _output(model, noisy, torch.cat([noisy.latents, mask, start], dim=1), timestep)

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the image to animate."""
        return {**super().pipeline_arguments(request), "image": self._given(request.controls)[0]}

    def generate(self, request: SampleRequest, on_step: Callable[..., dict[str, Any]]) -> list[Image.Image]:
        """With the cached embedding: the pipeline accepts an image or its embedding, but not both as arguments."""
        if IMAGE not in request.text:
            return super().generate(request, on_step)
        embedding = request.text[IMAGE].to(self.base.device)
        with patched(self.pipe, encode_image=lambda *_: embedding):
            return super().generate(request, on_step)

    def _given(self, frames: Sequence[Image.Image]) -> list[Image.Image]:
        return list(frames[:1])

    def _mark_end(self, mask: torch.Tensor) -> None:
        """Mark the frames that are given at the end.

        mask: (samples, frames per latent frame, latent frames, height, width).
        """


class WanFirstLastToVideo(WanImageToVideo):
    """First and last frame to video (Wan2.1-FLF2V)."""

    def __init__(self, base: Base, advanced: Advanced, frames: int = 1) -> None:
        super().__init__(base, advanced, frames)
        self.conditioning_frames = self.frames

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the image of the last frame."""
        return {**super().pipeline_arguments(request), "last_image": self._given(request.controls)[-1]}

    def _given(self, frames: Sequence[Image.Image]) -> list[Image.Image]:
        return [frames[0], frames[self._kept(len(frames)) - 1]]

    def _mark_end(self, mask: torch.Tensor) -> None:
        mask[:, -1, -1] = 1


def _per_token(timestep: torch.Tensor, latents: torch.Tensor, model: Any) -> torch.Tensor:
    """Timesteps for each token: (samples,) to (samples, frames, tokens of a frame)."""
    _, _, frames, height, width = latents.shape
    _, high, wide = model.config.patch_size
    return timestep[:, None, None].expand(-1, frames, (height // high) * (width // wide))


def _output(model: Any, noisy: Noisy, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    given = noisy.text.get(IMAGE)
    return model(
        hidden_states=latents,
        timestep=timestep,
        encoder_hidden_states=noisy.text[EMBEDS],
        encoder_hidden_states_image=None if given is None else given.flatten(0, 1),
        return_dict=False,
    )[0]
