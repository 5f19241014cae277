"""What `make bench-gpu` trains: checkpoint folders without weights, and datasets; the real shapes, or tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from examples.demo.checkpoint import TinySize, _byte_level_tokenizer, make_qwen3_vl
from tests.trainer.datasets import picture, write_jsonl
from tests.trainer.tiny_diffusion import flow_scheduler, qwen_processor, qwen_text_encoder, qwen_transformer


@dataclass(frozen=True)
class Case:
    """folder: writes the checkpoint. write: writes the dataset. model: (library, class) whose weights are random."""

    kind: str
    recipe: dict[str, Any]
    folder: Callable[[Path], Path]
    write: Callable[[Path], None]
    model: tuple[str, str]
    advanced: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def random_weights(self) -> Iterator[None]:
        """Inside, the model is made on the device by its configuration, instead of read from files."""
        import importlib

        kind = getattr(importlib.import_module(self.model[0]), self.model[1])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

        def made(folder: Path, *, dtype: torch.dtype, subfolder: str | None = None, **_: Any) -> Any:
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                with device:
                    if subfolder is None:
                        model = kind(kind.config_class.from_pretrained(folder))
                    else:
                        model = kind.from_config(kind.load_config(folder, subfolder=subfolder))
            finally:
                torch.set_default_dtype(before)
            return model, {"missing_keys": [], "mismatched_keys": []}

        with patch.object(kind, "from_pretrained", made):
            yield


# ----------------------------------------------------------------------------------------------------------- Qwen3-VL


def qwen3_vl(real: bool) -> Case:
    """Questions about a picture with answers of different lengths; passes of at most 4096 tokens."""
    length = 4096 if real else 256

    def folder(path: Path) -> Path:
        make_qwen3_vl(path, TinySize(min_pixels=32 * 32, max_pixels=(512 if real else 64) ** 2))
        if real:
            config = json.loads((path / "config.json").read_text())
            config["text_config"].update(EIGHT_BILLION)
            config["vision_config"].update(VISION)
            (path / "config.json").write_text(json.dumps(config))
        return path

    def write(data: Path) -> None:
        (data / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(64 if real else 8):
            picture(number, (512, 512) if real else (64, 32)).save(data / "images" / f"{number}.png")
            text = "what is written here? " * (1 + number % 5)
            answer = "a line of the answer. " * (length // 128 * (1 + number % 7) // 2)
            rows.append({"question": text, "answer": answer[: length // 2], "image": f"images/{number}.png"})
        write_jsonl(data / "train.jsonl", rows)

    recipe = {"seqLength": length, "batchSize": 4 if real else 2, "loraRank": 16, "loraAlpha": 32, "epochs": 1}
    model = ("transformers", "Qwen3VLForConditionalGeneration")
    return Case("imageToText", recipe, folder, write, model, {"compile": real})


EIGHT_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "out_hidden_size": 4096,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}

# ----------------------------------------------------------------------------------------------------- Qwen-Image-Edit


def qwen_image_edit(controls: int, real: bool) -> Case:
    """1 MP pictures with as many images to edit."""
    columns = ("first", "second")[:controls]
    size = (1024, 1024) if real else (64, 64)

    def folder(path: Path) -> Path:
        from diffusers import QwenImageEditPlusPipeline

        tokenizer = _byte_level_tokenizer()
        pipeline = QwenImageEditPlusPipeline(
            scheduler=flow_scheduler(),
            vae=_vae(),
            text_encoder=_text_encoder(tokenizer) if real else qwen_text_encoder(tokenizer),
            tokenizer=tokenizer,
            processor=qwen_processor(tokenizer),
            transformer=qwen_transformer(),
        )
        pipeline.save_pretrained(path)
        described = path / "transformer" / "config.json"
        shape = TWENTY_BILLION if real else {"in_channels": 64, "out_channels": 16}
        described.write_text(json.dumps({**json.loads(described.read_text()), **shape}))
        return path

    def write(data: Path) -> None:
        rows = []
        for number in range(8):
            row = {"caption": f"paint it red, number {number}, " * 8}
            for place, column in enumerate(("image", *columns)):
                name = f"{column}{number}.png"
                picture(10 * number + place, size).save(data / name)
                row[column] = name
            rows.append(row)
        write_jsonl(data / "train.jsonl", rows)

    recipe = {
        "captionColumn": "caption",
        "imageColumn": "image",
        "controlImageColumns": list(columns),
        "steps": 100,
        "batchSize": 1,
        "loraRank": 16,
        "loraAlpha": 16,
        "timestepType": "weighted",
    }
    area = size[0] * size[1]
    advanced = {
        "targetArea": area,
        "controlArea": area,
        "compile": real,
        **({} if real else {"conditionArea": 56 * 56}),
    }
    model = ("diffusers", "QwenImageTransformer2DModel")
    return Case("multiImageEditing", recipe, folder, write, model, advanced)


TWENTY_BILLION = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": [16, 56, 56],
}


def _vae() -> Any:
    """Small, but 8 pixels and 16 channels of latent as the real one."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


def _text_encoder(tokenizer: Any) -> Any:
    """One layer, but embeddings as wide as the real ones."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = qwen_text_encoder(tokenizer).config
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 3584, 512, 1
    text.num_attention_heads, text.num_key_value_heads, text.layer_types = 28, 4, text.layer_types[:1]
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config.vision_config.out_hidden_size = 3584
    return Qwen2_5_VLForConditionalGeneration(config)


def real() -> dict[str, Case]:
    """What the figures in the README are about."""
    return {
        "Qwen3-VL-8B, passes of 4096": qwen3_vl(True),
        "Qwen-Image-Edit, 1 MP + 1 image": qwen_image_edit(1, True),
        "Qwen-Image-Edit, 1 MP + 2 images": qwen_image_edit(2, True),
    }


def tiny() -> dict[str, Case]:
    """The same code in a second, on a CPU."""
    return {"Qwen3-VL": qwen3_vl(False), "Qwen-Image-Edit": qwen_image_edit(1, False)}
