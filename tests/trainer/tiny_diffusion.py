"""Tiny, randomly initialised diffusion checkpoint folders: files and classes of the real ones, no download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.demo.checkpoint import CHAT_TEMPLATE, _byte_level_tokenizer

AREA = 64 * 64
"""Pixels of every picture in the tests."""
CONDITION_AREA = 56 * 56


def qwen_text_encoder(tokenizer: Any) -> Any:
    """A Qwen2.5-VL of two layers."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen_processor(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    pixels = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    images = Qwen2VLImageProcessor(patch_size=14, merge_size=2, size=pixels)
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.2, 0.9],
    )


def qwen_transformer(**options: Any) -> Any:
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        **options,
    )


def flow_scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def qwen_image_edit_plus() -> Any:
    from diffusers import QwenImageEditPlusPipeline

    tokenizer = _byte_level_tokenizer()
    return QwenImageEditPlusPipeline(
        scheduler=flow_scheduler(),
        vae=qwen_vae(),
        text_encoder=qwen_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=qwen_processor(tokenizer),
        transformer=qwen_transformer(zero_cond_t=True),
    )


MAKERS: dict[str, Callable[[], Any]] = {"qwen_image_edit_plus": qwen_image_edit_plus}


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint `name` into `folder` and return it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = MAKERS[name]()
        loud(pipeline)
    pipeline.save_pretrained(folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def loud(pipeline: Any) -> None:
    """Random weights instead of the zeros that some output layers start with: silent models would prove nothing."""
    part = getattr(pipeline, "transformer", None) or pipeline.unet
    for weight in part.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
