"""Plain training loops, one per diffusion family, from the mathematics and diffusers alone: no batching, no cache."""

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig
from PIL import Image

from tests.trainer.tiny_diffusion import AREA, CONDITION_AREA

SEED, RANK, ALPHA, RATE = 7, 4, 32, 0.005
TWO = ("transformer", "transformer_2")


@dataclass
class Row:
    caption: str
    target: Image.Image
    controls: list[Image.Image] = field(default_factory=list)
    frames: list[Image.Image] = field(default_factory=list)


@dataclass
class Encoded:
    """x: (1, *latent)."""

    x: torch.Tensor
    controls: list[torch.Tensor]
    text: dict[str, torch.Tensor]
    size: tuple[int, int]


@dataclass(frozen=True)
class Family:
    """encode: a row by the pipeline's encoders. predict: the model's answer. call: the pipeline's arguments.

    parts: what is trained, the one for much noise first. given: latent frames in front that are not learnt.
    """

    recipe: str
    encode: Callable[[Any, Row], Encoded]
    predict: Callable[[Any, Any, torch.Tensor, torch.Tensor, Encoded], torch.Tensor]
    call: Callable[[Row], dict[str, Any]]
    parts: tuple[str, ...] = ("transformer",)
    pipeline: str = "DiffusionPipeline"
    given: int = 0
    blocks: tuple[str, ...] = ("transformer_blocks",)
    dead: Callable[[int], set[str]] = lambda layers: set()
    controls: int = 0
    patches: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def areas(self):
        """The pipeline's constants, small."""
        if not self.patches:
            yield
            return
        name, values = next(iter(self.patches.items()))
        with patch.multiple(name, **values):
            yield


def seed_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def generator(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(text))


def fitted(size: tuple[int, int], area: int, multiple: int = 32) -> tuple[int, int]:
    width = math.sqrt(area * size[0] / size[1])
    height = width * size[1] / size[0]
    return round(width / multiple) * multiple, round(height / multiple) * multiple


def interpolated(timestep: float) -> float:
    """trainers.md's table."""
    import numpy as np

    knots = (
        "1000 .906, 990 1.043, 980 1.176, 960 1.330, 930 1.460, 876 1.523, 800 1.441, 700 1.264, 600 1.083, 500 .925, "
        "400 .805, 300 .731, 220 .714, 150 .729, 100 .716, 70 .652, 40 .545, 20 .476, 1 .447"
    )
    pairs = sorted((float(pair.split()[0]), float(pair.split()[1])) for pair in knots.split(","))
    return float(np.interp(timestep, [pair[0] for pair in pairs], [pair[1] for pair in pairs]))


def targets(part: torch.nn.Module, family: Family) -> list[str]:
    names = [name for name, module in part.named_modules() if isinstance(module, torch.nn.Linear)]
    inside = [name for name in names if any(name.startswith(f"{block}.") for block in family.blocks)]
    layers = len(part.transformer_blocks) if hasattr(part, "transformer_blocks") else 0
    return [name for name in inside if name not in family.dead(layers)]


def plain_losses(
    family: Family,
    folder: Path,
    rows: Sequence[Row],
    steps: int,
    per_step: int,
    timestep_type: str = "weighted",
    lora: bool = True,
) -> list[float]:
    import diffusers

    pipe = getattr(diffusers, family.pipeline).from_pretrained(folder)
    parts = [getattr(pipe, name).requires_grad_(False) for name in family.parts]
    with torch.no_grad(), family.areas():
        encoded = [family.encode(pipe, row) for row in rows]
    for part in parts:
        torch.manual_seed(SEED)
        if lora:
            part.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets(part, family)))
        else:
            part.requires_grad_(True)
        part.train()
    weights = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    order = [row for epoch in range(steps * per_step) for row in
             torch.randperm(len(rows), generator=generator(f"{SEED}:epoch:{epoch}")).tolist()]  # fmt: skip
    losses = []
    for step in range(steps):
        total = torch.zeros(())
        for index in range(per_step):
            row = encoded[order[step * per_step + index]]
            source = generator(f"{SEED}:{step}:{index}")
            if timestep_type == "sigmoid":
                sigma = 1 - torch.sigmoid(torch.randn(1, generator=source))
            else:
                sigma = torch.rand(1, generator=source)
            noise = torch.randn(row.x.shape, generator=source)
            noisy, goal = path(pipe, row.x, noise, sigma)
            part = parts[-1] if 1000 * sigma.item() < boundary(pipe) else parts[0]
            errors = (family.predict(pipe, part, noisy, sigma, row) - goal) ** 2
            error = errors[:, :, family.given :].mean() if family.given else errors.mean()
            total = total + error * (interpolated(1000 * sigma.item()) if timestep_type == "weighted" else 1.0)
        loss = total / per_step
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def boundary(pipe: Any) -> float:
    """The timestep below which the second of two denoisers answers."""
    return 1000 * (getattr(pipe.config, "boundary_ratio", None) or 0.0)


def path(pipe: Any, x: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The noisy latent and what the model should say: rectified flow, or Stable Diffusion's schedule."""
    if not hasattr(pipe, "unet"):
        return (1 - sigma) * x + sigma * noise, noise - x
    timestep = (sigma * 1000).long().clamp(max=999)
    alpha = pipe.scheduler.alphas_cumprod[timestep]
    return alpha.sqrt() * x + (1 - alpha).sqrt() * noise, noise


# ------------------------------------------------------------------------------------------------- Qwen-Image


def qwen_latent(pipe: Any, image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    pixels = pipe.image_processor.preprocess(image, size[1], size[0]).unsqueeze(2)
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(pipe.vae.config.latents_std).view(1, -1, 1, 1, 1)
    return (pipe.vae.encode(pixels).latent_dist.mode() - mean) / std


def qwen_edit_plus_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    seen = [image.resize(fitted(image.size, CONDITION_AREA), Image.Resampling.LANCZOS) for image in row.controls]
    marks = "".join(f"Picture {i + 1}: <|vision_start|><|image_pad|><|vision_end|>" for i in range(len(seen)))
    inputs = pipe.processor(
        text=[pipe.prompt_template_encode.format(marks + row.caption)],
        images=seen or None,
        padding=True,
        return_tensors="pt",
    )
    assert "mm_token_type_ids" in inputs
    hidden = pipe.text_encoder(**inputs, output_hidden_states=True).hidden_states[-1][:, 64:]
    controls = [qwen_latent(pipe, image, fitted(image.size, AREA)) for image in row.controls]
    return Encoded(qwen_latent(pipe, row.target, size), controls, {"embeds": hidden}, size)


def qwen_tokens(x: torch.Tensor) -> torch.Tensor:
    _, channels, _, height, width = x.shape
    return torch.nn.functional.pixel_unshuffle(x[:, :, 0], 2).flatten(2).transpose(1, 2).reshape(
        1, height * width // 4, channels * 4
    )  # fmt: skip


def qwen_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    parts = [noisy, *row.controls]
    answer = part(
        hidden_states=torch.cat([qwen_tokens(one) for one in parts], dim=1),
        timestep=sigma,
        encoder_hidden_states=row.text["embeds"],
        img_shapes=[[(1, one.shape[3] // 2, one.shape[4] // 2) for one in parts]],
    ).sample
    height, width = noisy.shape[3] // 2, noisy.shape[4] // 2
    picture = answer[:, : height * width].transpose(1, 2).reshape(1, -1, height, width)
    return torch.nn.functional.pixel_shuffle(picture, 2).unsqueeze(2)


def qwen_dead(layers: int) -> set[str]:
    names = ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    return {f"transformer_blocks.{layers - 1}.{name}" for name in names}


QWEN_EDIT_PLUS = Family(
    recipe="multiImageEditing",
    encode=qwen_edit_plus_encode,
    predict=qwen_predict,
    call=lambda row: {"prompt": row.caption, "negative_prompt": " ", "image": row.controls},
    dead=qwen_dead,
    controls=2,
    patches={
        "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus": {
            "VAE_IMAGE_SIZE": AREA,
            "CONDITION_IMAGE_SIZE": CONDITION_AREA,
        }
    },
)


def qwen_edit_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    seen = row.controls[0].resize(fitted(row.controls[0].size, CONDITION_AREA), Image.Resampling.LANCZOS)
    text = pipe.prompt_template_encode.format(row.caption)
    inputs = pipe.processor(text=[text], images=[seen], padding=True, return_tensors="pt")
    hidden = pipe.text_encoder(**inputs, output_hidden_states=True).hidden_states[-1][:, 64:]
    control = qwen_latent(pipe, row.controls[0], fitted(row.controls[0].size, AREA))
    return Encoded(qwen_latent(pipe, row.target, size), [control], {"embeds": hidden}, size)


def small_dimensions(_area: int, ratio: float) -> tuple[int, int, None]:
    return *fitted((round(1000 * ratio), 1000), AREA), None


QWEN_EDIT = Family(
    recipe="imageEditing",
    encode=qwen_edit_encode,
    predict=qwen_predict,
    call=lambda row: {"prompt": row.caption, "negative_prompt": " ", "image": row.controls[0]},
    dead=qwen_dead,
    controls=1,
    patches={"diffusers.pipelines.qwenimage.pipeline_qwenimage_edit": {"calculate_dimensions": small_dimensions}},
)


def qwen_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    ids = pipe.tokenizer([pipe.prompt_template_encode.format(row.caption)], return_tensors="pt")["input_ids"]
    hidden = pipe.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, 34:]
    return Encoded(qwen_latent(pipe, row.target, size), [], {"embeds": hidden}, size)


QWEN = Family(
    recipe="imageGeneration",
    encode=qwen_encode,
    predict=qwen_predict,
    call=lambda row: {"prompt": row.caption, "negative_prompt": " "},
    dead=qwen_dead,
)

# -------------------------------------------------------------------------------------------------- FLUX.1


def pixels(pipe: Any, image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    return pipe.image_processor.preprocess(image, size[1], size[0])


def kl_latent(pipe: Any, image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    config = pipe.vae.config
    mode = pipe.vae.encode(pixels(pipe, image, size)).latent_dist.mode()
    return (mode - (config.shift_factor or 0)) * config.scaling_factor


def flux_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    embeds, pooled, ids = pipe.encode_prompt(row.caption, None)
    controls = [kl_latent(pipe, image, fitted(image.size, AREA)) for image in row.controls]
    text = {"embeds": embeds, "pooled": pooled, "ids": ids}
    return Encoded(kl_latent(pipe, row.target, size), controls, text, size)


def flux_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    tokens, ids = [], []
    for number, latent in enumerate([noisy, *row.controls]):
        _, channels, height, width = latent.shape
        tokens.append(pipe._pack_latents(latent, 1, channels, height, width))
        place = pipe._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32)
        place[..., 0] = number
        ids.append(place)
    answer = part(
        hidden_states=torch.cat(tokens, dim=1),
        timestep=sigma,
        guidance=torch.ones(1),
        pooled_projections=row.text["pooled"],
        encoder_hidden_states=row.text["embeds"],
        txt_ids=row.text["ids"],
        img_ids=torch.cat(ids),
    ).sample
    height, width = noisy.shape[2:]
    scale = pipe.vae_scale_factor
    return pipe._unpack_latents(answer[:, : height * width // 4], height * scale, width * scale, scale)


def prompted(row: Row) -> dict[str, Any]:
    return {"prompt": row.caption}


FLUX_BLOCKS = ("transformer_blocks", "single_transformer_blocks")
FLUX = Family("imageGeneration", flux_encode, flux_predict, prompted, blocks=FLUX_BLOCKS)


def kontext_call(row: Row) -> dict[str, Any]:
    return {"prompt": row.caption, "image": row.controls[0].resize((64, 64)), "_auto_resize": False, "max_area": AREA}


KONTEXT = Family("imageEditing", flux_encode, flux_predict, kontext_call, blocks=FLUX_BLOCKS, controls=1)

# ---------------------------------------------------------------------------------------- Stable Diffusion


def sd_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA, 64)
    embeds, _ = pipe.encode_prompt(row.caption, "cpu", 1, False)
    return Encoded(kl_latent(pipe, row.target, size), [], {"embeds": embeds}, size)


def sd_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    return part(noisy, (sigma * 1000).long(), encoder_hidden_states=row.text["embeds"]).sample


def xl_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA, 64)
    embeds, _, pooled, _ = pipe.encode_prompt(row.caption, do_classifier_free_guidance=False)
    before = (row.target.size[1], row.target.size[0])
    ids = torch.tensor([[*before, 0, 0, size[1], size[0]]], dtype=torch.float32)
    text = {"embeds": embeds, "pooled": pooled, "ids": ids}
    return Encoded(kl_latent(pipe, row.target, size), [], text, size)


def xl_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    return part(
        noisy,
        (sigma * 1000).long(),
        encoder_hidden_states=row.text["embeds"],
        added_cond_kwargs={"text_embeds": row.text["pooled"], "time_ids": row.text["ids"]},
    ).sample


UNET_BLOCKS = ("down_blocks.1.attentions", "mid_block.attentions", "up_blocks.0.attentions")
SD15 = Family("imageGeneration", sd_encode, sd_predict, prompted, parts=("unet",), blocks=UNET_BLOCKS)
SDXL = Family("imageGeneration", xl_encode, xl_predict, prompted, parts=("unet",), blocks=UNET_BLOCKS)

# ------------------------------------------------------------------------------------------- Z-Image, FLUX.2


def z_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    embeds, _ = pipe.encode_prompt(row.caption, do_classifier_free_guidance=False)
    return Encoded(kl_latent(pipe, row.target, size), [], {"embeds": embeds[0]}, size)


def z_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    return -part([noisy[0].unsqueeze(1)], 1 - sigma, [row.text["embeds"]], return_dict=False)[0][0].squeeze(1)[None]


def flux2_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    embeds, ids = pipe.encode_prompt(row.caption)
    x = pipe._encode_vae_image(pixels(pipe, row.target, size), None)
    return Encoded(x, [], {"embeds": embeds, "ids": ids}, size)


def flux2_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    ids = pipe._prepare_latent_ids(noisy)
    answer = part(
        hidden_states=pipe._pack_latents(noisy),
        timestep=sigma,
        guidance=None,
        encoder_hidden_states=row.text["embeds"],
        txt_ids=row.text["ids"],
        img_ids=ids,
    ).sample
    return pipe._unpack_latents_with_ids(answer, ids, *noisy.shape[2:])


Z_IMAGE = Family("imageGeneration", z_encode, z_predict, prompted, blocks=("layers",))
FLUX2 = Family("imageGeneration", flux2_encode, flux2_predict, prompted, blocks=FLUX_BLOCKS)

# ----------------------------------------------------------------------------------------------------- Wan


def wan_encode(pipe: Any, row: Row) -> Encoded:
    size = fitted(row.target.size, AREA)
    embeds, _ = pipe.encode_prompt(row.caption, do_classifier_free_guidance=False, max_sequence_length=512)
    frames = [pipe.video_processor.preprocess(frame, size[1], size[0]) for frame in row.frames]
    mode = pipe.vae.encode(torch.stack(frames, dim=2)).latent_dist.mode()
    config = pipe.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    return Encoded((mode - mean) / std, [], {"embeds": embeds}, size)


def wan_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    return part(noisy, timestep=sigma * 1000, encoder_hidden_states=row.text["embeds"]).sample


def wan_call(row: Row) -> dict[str, Any]:
    return {**prompted(row), "num_frames": 5}


WAN = Family("textToVideo", wan_encode, wan_predict, wan_call, blocks=("blocks",))
WAN_TWO = Family("textToVideo", wan_encode, wan_predict, wan_call, blocks=("blocks",), parts=TWO)


def wan_image_encode(pipe: Any, row: Row, ends: Sequence[int] = (0,)) -> Encoded:
    """The latent of a clip that is grey but for its ends, or of the first frame itself (timesteps per token)."""
    found = wan_encode(pipe, row)
    clip = torch.zeros(1, 3, 1 if pipe.config.expand_timesteps else len(row.frames), *reversed(found.size))
    for end in ends:
        clip[:, :, end] = pipe.video_processor.preprocess(row.frames[end], found.size[1], found.size[0])
    config = pipe.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    found.controls.append((pipe.vae.encode(clip).latent_dist.mode() - mean) / std)
    if pipe.image_encoder is not None:
        seen = pipe.image_processor(images=[row.frames[end] for end in ends], return_tensors="pt")
        found.text["image"] = pipe.image_encoder(**seen, output_hidden_states=True).hidden_states[-2]
    return found


def wan_image_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    return wan_masked(part, noisy, sigma, row, frames=[1] * 4 + [0] * (4 * noisy.shape[2] - 4))


def wan_first_last_predict(
    pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded
) -> torch.Tensor:
    return wan_masked(part, noisy, sigma, row, frames=[1] * 4 + [0] * (4 * noisy.shape[2] - 5) + [1])


def wan_masked(
    part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded, frames: Sequence[int]
) -> torch.Tensor:
    """frames: which are given, the first one four times, so that each latent has four."""
    mask = torch.zeros(1, 4, *noisy.shape[2:])
    for place, given in enumerate(frames):
        mask[:, place % 4, place // 4] = given
    return part(
        torch.cat([noisy, mask, row.controls[0]], dim=1),
        timestep=sigma * 1000,
        encoder_hidden_states=row.text["embeds"],
        encoder_hidden_states_image=row.text.get("image"),
    ).sample


def wan_in_place_predict(pipe: Any, part: Any, noisy: torch.Tensor, sigma: torch.Tensor, row: Encoded) -> torch.Tensor:
    times = torch.ones_like(noisy[0, 0, :, ::2, ::2]) * sigma * 1000
    times[0] = 0
    seen = noisy.clone()
    seen[:, :, :1] = row.controls[0]
    return part(seen, timestep=times.flatten()[None], encoder_hidden_states=row.text["embeds"]).sample


def wan_image_call(row: Row) -> dict[str, Any]:
    return {**wan_call(row), "image": row.frames[0]}


def wan_first_last_call(row: Row) -> dict[str, Any]:
    return {**wan_image_call(row), "last_image": row.frames[4]}


def wan_image_family(
    predict: Any, encode: Any = wan_image_encode, call: Any = wan_image_call, **options: Any
) -> Family:
    plain = {"diffusers.pipelines.wan.pipeline_wan_i2v": {"prompt_clean": str.strip}}  # diffusers' own needs ftfy
    return Family("imageToVideo", encode, predict, call, blocks=("blocks",), patches=plain, **options)


WAN_IMAGE = wan_image_family(wan_image_predict)
WAN_FIRST_LAST = wan_image_family(
    wan_first_last_predict, lambda pipe, row: wan_image_encode(pipe, row, (0, -1)), wan_first_last_call
)
WAN_IMAGE_TWO = wan_image_family(wan_image_predict, parts=TWO)
WAN_IMAGE_IN_PLACE = wan_image_family(wan_in_place_predict, pipeline="WanImageToVideoPipeline", given=1)

PLAIN: dict[str, Family] = {
    "qwen_image_edit_plus": QWEN_EDIT_PLUS,
    "qwen_image": QWEN,
    "qwen_image_edit": QWEN_EDIT,
    "flux_kontext": KONTEXT,
    "flux": FLUX,
    "stable_diffusion_xl": SDXL,
    "stable_diffusion": SD15,
    "z_image": Z_IMAGE,
    "flux2_klein": FLUX2,
    "wan": WAN,
    "wan_two": WAN_TWO,
    "wan_image": WAN_IMAGE,
    "wan_first_last": WAN_FIRST_LAST,
    "wan_image_two": WAN_IMAGE_TWO,
    "wan_image_in_place": WAN_IMAGE_IN_PLACE,
}
