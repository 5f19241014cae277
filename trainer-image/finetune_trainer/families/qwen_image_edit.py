"""Qwen-Image-Edit (one image) and Qwen-Image-Edit-2509/-2511 (several): an instruction and images in, an image out.

The text encoder also gets the images. diffusers does not pass the processor's `mm_token_type_ids` to it, without which
image tokens get one-dimensional positions under transformers 5. So prompts are encoded here with everything that the
processor returns, for training and for samples. `zero_cond_t` of -2511 is in the transformer's config, which diffusers
reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from PIL import Image

from finetune_trainer.diffusion.areas import Areas
from finetune_trainer.diffusion.denoiser import EMBEDS, SampleRequest, Tensors, patched
from finetune_trainer.families.qwen_image import QwenImage

IMAGE_PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"


class QwenImageEdit(QwenImage):
    """Qwen-Image-Edit: one image, of the same size for the text encoder and the autoencoder."""

    requires_image: ClassVar[bool] = True
    window: ClassVar[int] = 0
    notes: tuple[str, ...] = (
        "prompts are encoded with the token types of the images to edit; diffusers 0.42 omits them under "
        "transformers 5, so that its own prompt embeddings differ slightly",
    )

    def encode_text(self, prompt: str, controls: Sequence[Image.Image]) -> Tensors:
        """The last hidden states after the template's first 64 tokens."""
        pipe = self.text_pipeline()
        sizes = [self.condition_size(image.size) for image in controls]
        images = [
            pipe.image_processor.resize(image, height, width)
            for image, (width, height) in zip(controls, sizes, strict=True)
        ]
        text = pipe.prompt_template_encode.format(self.image_placeholders(len(images)) + prompt)
        encoded = pipe.processor(text=[text], images=images or None, padding=True, return_tensors="pt")
        encoded = encoded.to(self.base.device)
        if images:
            encoded["pixel_values"] = encoded["pixel_values"].to(self.base.dtype)
        hidden = pipe.text_encoder.model(**encoded, use_cache=False).last_hidden_state
        return {EMBEDS: hidden[0, pipe.prompt_template_encode_start_idx :].to(self.base.dtype)}

    def image_placeholders(self, images: int) -> str:
        """The text before the instruction; empty here, because the template has the placeholder itself."""
        del images
        return ""

    def pipeline_arguments(self, request: SampleRequest) -> dict[str, Any]:
        """With the images to edit; the pipeline resizes them."""
        return {**super().pipeline_arguments(request), "image": list(request.controls)}

    @contextmanager
    def pipeline_areas(self) -> Iterator[None]:
        """The pipeline passes its area to a function of its module."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module

        original = module.calculate_dimensions

        def dimensions(_area: int, ratio: float) -> Any:
            return original(self._areas.control, ratio)

        with patched(module, calculate_dimensions=dimensions):
            yield


class QwenImageEditPlus(QwenImageEdit):
    """Qwen-Image-Edit-2509 and -2511: several images, numbered in the prompt."""

    areas: ClassVar[Areas] = Areas(1024**2, 1024**2, 384**2)

    def image_placeholders(self, images: int) -> str:
        """The numbered images before the instruction."""
        return "".join(f"Picture {number}: {IMAGE_PLACEHOLDER}" for number in range(1, images + 1))

    @contextmanager
    def pipeline_areas(self) -> Iterator[None]:
        """The pipeline has its areas as constants of its module."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

        with patched(module, VAE_IMAGE_SIZE=self._areas.control, CONDITION_IMAGE_SIZE=self._areas.conditioning):
            yield
