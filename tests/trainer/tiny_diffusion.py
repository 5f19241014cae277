"""Tiny, randomly initialised diffusion checkpoint folders: files and classes of the real ones, no download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.demo.checkpoint import CHAT_TEMPLATE, _byte_level_tokenizer

AREA = 64 * 64
"""Pixels of every picture in the tests."""
CONDITION_AREA = 56 * 56
BOUNDARY = 0.8
"""Of two denoisers: with the tests' seed some steps train the first, some the second, and some both."""


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


def qwen_vae(width: int = 8) -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=width,
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


def qwen_image_edit_plus(vae_width: int = 8) -> Any:
    from diffusers import QwenImageEditPlusPipeline

    tokenizer = _byte_level_tokenizer()
    return QwenImageEditPlusPipeline(
        scheduler=flow_scheduler(),
        vae=qwen_vae(vae_width),
        text_encoder=qwen_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=qwen_processor(tokenizer),
        transformer=qwen_transformer(zero_cond_t=True),
    )


def qwen_image_edit() -> Any:
    from diffusers import QwenImageEditPipeline

    tokenizer = _byte_level_tokenizer()
    return QwenImageEditPipeline(
        scheduler=flow_scheduler(),
        vae=qwen_vae(),
        text_encoder=qwen_text_encoder(tokenizer),
        tokenizer=tokenizer,
        processor=qwen_processor(tokenizer),
        transformer=qwen_transformer(),
    )


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline

    tokenizer = _byte_level_tokenizer()
    return QwenImagePipeline(
        scheduler=flow_scheduler(),
        vae=qwen_vae(),
        text_encoder=qwen_text_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=qwen_transformer(),
    )


def tokens(length: int) -> Any:
    """Bytes, for encoders of a fixed length."""
    tokenizer = _byte_level_tokenizer()
    tokenizer.model_max_length = length
    return tokenizer


def clip(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=2,  # the pooled vector is that of the highest id, as in the real ones
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def vae(channels: int, shift: float | None) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        scaling_factor=0.36,
        shift_factor=shift,
    )


def flux_parts(guidance: bool) -> dict[str, Any]:
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 264}
    return {
        "scheduler": flow_scheduler(),
        "vae": vae(4, 0.1),
        "text_encoder": clip(),
        "tokenizer": tokens(77),
        "text_encoder_2": T5EncoderModel(T5Config(**shape)),
        "tokenizer_2": tokens(512),
        "transformer": FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 6, 6),
        ),
    }


def flux() -> Any:
    from diffusers import FluxPipeline

    return FluxPipeline(**flux_parts(guidance=True))


def flux_kontext() -> Any:
    from diffusers import FluxKontextPipeline

    return FluxKontextPipeline(**flux_parts(guidance=True))


def unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        **options,
    )


def stable_diffusion() -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae(4, None),
        text_encoder=clip(),
        tokenizer=tokens(77),
        unet=unet(cross_attention_dim=16),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=vae(4, None),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=tokens(77),
        tokenizer_2=tokens(77),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=8 * 6 + 16,
            use_linear_projection=True,
            transformer_layers_per_block=2,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def qwen3(layers: int, causal: bool) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Qwen3ForCausalLM(config) if causal else Qwen3Model(config)


def z_image() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(4, 0.1),
        text_encoder=qwen3(2, causal=False),
        tokenizer=tokens(512),
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
    )


def flux2_klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    return Flux2KleinPipeline(
        scheduler=flow_scheduler(),
        vae=AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
        ),
        text_encoder=qwen3(28, causal=True),
        tokenizer=tokens(512),
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


def wan_transformer(channels: int = 4, **options: Any) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **options,
    )


def wan_parts() -> dict[str, Any]:
    """All but the transformers."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 264}
    return {
        "tokenizer": tokens(512),
        "text_encoder": UMT5EncoderModel(UMT5Config(**shape)),
        "vae": AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.2, 0.9],
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def wan() -> Any:
    from diffusers import WanPipeline

    return WanPipeline(**wan_parts(), transformer=wan_transformer())


def wan_two() -> Any:
    """Wan2.2-T2V-A14B."""
    from diffusers import WanPipeline

    high, low = wan_transformer(), wan_transformer()
    return WanPipeline(**wan_parts(), transformer=high, transformer_2=low, boundary_ratio=BOUNDARY)


def wan_image_parts() -> dict[str, Any]:
    """With CLIP, which says five tokens of an image."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    side = {"height": 28, "width": 28}
    return {
        **wan_parts(),
        "image_encoder": CLIPVisionModel(vision),
        "image_processor": CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side),
    }


def wan_image() -> Any:
    """Wan2.1-I2V: latent, mask and first frame in, and CLIP's embedding of the first frame."""
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(
        **wan_image_parts(), transformer=wan_transformer(4 + 4 + 4, image_dim=16, added_kv_proj_dim=24)
    )


def wan_first_last() -> Any:
    """Wan2.1-FLF2V: the last frame as well."""
    from diffusers import WanImageToVideoPipeline

    transformer = wan_transformer(4 + 4 + 4, image_dim=16, added_kv_proj_dim=24, pos_embed_seq_len=2 * 5)
    with torch.no_grad():
        transformer.condition_embedder.image_embedder.pos_embed.normal_()  # zeros would hide the order of the two
    return WanImageToVideoPipeline(**wan_image_parts(), transformer=transformer)


def wan_image_two() -> Any:
    """Wan2.2-I2V-A14B: without CLIP."""
    from diffusers import WanImageToVideoPipeline

    high, low = wan_transformer(4 + 4 + 4), wan_transformer(4 + 4 + 4)
    return WanImageToVideoPipeline(**wan_parts(), transformer=high, transformer_2=low, boundary_ratio=BOUNDARY)


def wan_image_in_place() -> Any:
    """Wan2.2-TI2V: published as a text-to-video pipeline, and loaded by both."""
    from diffusers import WanPipeline

    return WanPipeline(**wan_parts(), transformer=wan_transformer(), expand_timesteps=True)


MAKERS: dict[str, Callable[..., Any]] = {
    maker.__name__: maker
    for maker in (
        qwen_image_edit_plus,
        qwen_image,
        qwen_image_edit,
        flux_kontext,
        flux,
        stable_diffusion_xl,
        stable_diffusion,
        z_image,
        flux2_klein,
        wan,
        wan_two,
        wan_image,
        wan_first_last,
        wan_image_two,
        wan_image_in_place,
    )
}


def make(name: str, folder: Path, **options: Any) -> Path:
    """Write the checkpoint `name` into `folder` and return it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = MAKERS[name](**options)
        loud(pipeline)
    pipeline.save_pretrained(folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def loud(pipeline: Any) -> None:
    """Random weights instead of the zeros that some output layers start with: silent models would prove nothing."""
    parts = [getattr(pipeline, name, None) for name in ("transformer", "transformer_2", "unet")]
    for weight in (weight for part in parts if part is not None for weight in part.parameters()):
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
