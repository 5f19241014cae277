"""Image and video families, each on a tiny checkpoint: the numbers, the interruption, and the files that users load."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.trainer import tiny_diffusion
from tests.trainer.datasets import picture, write_jsonl
from tests.trainer.plain_diffusion import ALPHA, PLAIN, RANK, RATE, SEED, Family, Row, plain_losses, targets
from tests.trainer.runs import TrainerRun
from tests.trainer.tiny_diffusion import AREA, CONDITION_AREA

STEPS, PER_STEP = 6, 2
VIDEO = ("textToVideo", "imageToVideo")
ENDINGS = {1: ("",), 2: ("-high-noise", "-low-noise")}
"""Of the names of one denoiser's files, or of two."""
SMALL = {"targetArea": AREA, "controlArea": AREA, "conditionArea": CONDITION_AREA, "sampleSteps": 2}
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # diffusers' own
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def write_pictures(folder: Path, family: Family, rows: int = 5) -> list[Row]:
    """train.jsonl; two shapes of targets and controls, so that some samples fit together and some do not.

    Clips have seven frames, the second one or, where something must come after the first, nine.
    """
    clips, short = family.recipe in VIDEO, 9 if family.recipe == "imageToVideo" else 1
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table, found = [], []
    for number in range(rows):
        size = (64, 64) if number < 3 else (96, 48)
        row: dict[str, Any] = {"caption": f"paint it {'very ' * number}red"}
        for place, column in enumerate(("image", "first", "second")[: family.controls + 1]):
            path = folder / "images" / f"{column}{number}.png"
            picture(3 * number + place, size if place < 2 else (40, 80)).save(path)
            row[column] = f"images/{path.name}"
        if clips:
            path = folder / "images" / f"clip{number}.png"
            frames = [picture(20 * number + frame, size) for frame in range(short if number == 1 else 7)]
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=60)
            row["image"] = f"images/{path.name}"
        table.append(row)
        opened = [loaded(folder / row[column]) for column in list(row)[1:]]
        kept = (min(len(frames), 9) - 1) // 4 * 4 + 1 if clips else 0
        found.append(Row(row["caption"], opened[0], opened[1:], frames[:kept] if clips else []))
    write_jsonl(folder / "train.jsonl", table)
    return found


def loaded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def recipe_of(family: Family, **recipe: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {"captionColumn": "caption", "imageColumn": "image"}
    if family.recipe == "multiImageEditing":
        columns["controlImageColumns"] = ["first", "second"][: family.controls]
    if family.recipe == "imageEditing":
        columns["controlImageColumn"] = "first"
    if family.recipe in VIDEO:
        columns["numFrames"] = 10
    if family.controls:
        columns |= {"sampleWidth": 64, "sampleHeight": 64}
    defaults = {
        "steps": STEPS,
        "batchSize": PER_STEP,
        "loraRank": RANK,
        "loraAlpha": ALPHA,
        "learningRate": RATE,
        "seed": SEED,
        "timestepType": "weighted",
    }
    return {**columns, **defaults, **recipe}


class Trained:
    """A finished run of a family, and its rows."""

    def __init__(self, name: str, root: Path) -> None:
        torch.set_num_threads(1)
        self.name, self.family = name, PLAIN[name]
        folder = tiny_diffusion.make(name, root / "checkpoint")
        (root / "run").mkdir()
        self.run = TrainerRun(
            root / "run",
            folder,
            kind=self.family.recipe,
            recipe=recipe_of(self.family, sampleEvery=3, samples=[{"prompt": "an ox"}]),
            advanced={**SMALL, "keepCheckpoints": 10},
        )
        self.rows = write_pictures(self.run.data, self.family)
        self.result = self.run.execute()


@pytest.fixture(scope="module", params=list(PLAIN))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    root = tmp_path_factory.mktemp(request.param)
    yield Trained(request.param, root)
    shutil.rmtree(root)


def test_losses_equal_a_plain_loop(trained: Trained) -> None:
    assert (trained.result.code, trained.result.message) == (0, "")
    expected = plain_losses(trained.family, trained.run.checkpoint, trained.rows, STEPS, PER_STEP, "weighted")
    assert trained.run.losses() == pytest.approx(expected, abs=1e-5)


def test_four_and_two_steps_are_six_bit_for_bit(trained: Trained) -> None:
    run, output = trained.run, trained.run.output_dir
    before = contents(output)
    pictures = {path.name: path.read_bytes() for path in sorted((output / "samples").iterdir())}
    metrics = run.metrics()
    for step in (5, 6):
        shutil.rmtree(run.checkpoints / f"step-{step:08d}", ignore_errors=True)
    for path in [*output.glob("*.safetensors"), *output.glob("samples/step-6-*"), output / "manifest.json"]:
        path.unlink()

    assert run.execute().code == 0

    assert run.metrics() == metrics
    torch.testing.assert_close(contents(output), before, rtol=0, atol=0)
    assert {path.name: path.read_bytes() for path in sorted((output / "samples").iterdir())} == pictures
    kind = "webp" if trained.family.recipe in VIDEO else "png"
    assert sorted(pictures) == ["contact-sheet.png", f"step-3-0.{kind}", f"step-6-0.{kind}"]


def contents(output: Path) -> dict[str, Any]:
    """Tensors and metadata of the adapter files (the order of the metadata in the bytes is any)."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in sorted(output.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {f"{path.name}:{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found[path.name] = torch.tensor(list(str(sorted((file.metadata() or {}).items())).encode()))
    return found


def test_both_files_give_the_same_picture_where_users_load_them(trained: Trained) -> None:
    base = image(trained, lambda pipe: None)
    expected = image(trained, lambda pipe: put_checkpoint(pipe, trained))
    assert np.abs(expected - base).max() > 0.01

    for layout in ("pytorch_lora_weights", "comfyui"):
        names = [f"{layout}{ending}.safetensors" for ending in ENDINGS[len(trained.family.parts)]]
        for name in names:
            assert (trained.run.output_dir / name).stat().st_mode & 0o777 == 0o644
        found = image(trained, partial(load_files_of_adapter, trained.run.output_dir, names))
        assert np.abs(found - expected).max() <= 5e-6, layout  # a lost alpha is 5e-3 and more


JOINT = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
COMFYUI_MAPS = {
    "qwen_image": rf"diffusion_model\.transformer_blocks\.\d+\.({JOINT}|(img|txt)_(mod\.1|mlp\.net\.(0\.proj|2)))",
    "flux2": (
        rf"transformer\.(transformer_blocks\.\d+\.({JOINT}|ff(_context)?\.linear_(in|out))"
        r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out))"
    ),
    "flux": (
        rf"transformer\.(transformer_blocks\.\d+\.({JOINT}|norm1(_context)?\.linear|ff(_context)?\.net\.(0\.proj|2))"
        r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|norm\.linear|proj_mlp|proj_out))"
    ),
    "z_image": (
        r"diffusion_model\.layers\.\d+\.(attention\.(to_[qkv]|to_out\.0)|feed_forward\.w[123]|adaLN_modulation\.0)"
    ),
    "wan": r"diffusion_model\.blocks\.\d+\.((self|cross)_attn\.[qkvo]|cross_attn\.[kv]_img|ffn\.[02])",
    "stable_diffusion": (
        r"lora_unet_((down|up)_blocks_\d+|mid_block)_attentions_\d+_"
        r"(proj_in|proj_out|transformer_blocks_\d+_(attn[12]_to_([qkv]|out_0)|ff_net_(0_proj|2)))"
    ),
}
"""What ComfyUI puts into its models, by the beginning of the family's name: read in its comfy/lora.py, comfy/utils.py
and model files (Comfy-Org/ComfyUI, commits 17358c8 and 09708ea). Other keys it leaves out with a warning."""


def test_the_metadata_has_the_order_of_its_names(trained: Trained) -> None:
    """The same run gives the same bytes: safetensors itself writes it in the order of a hash map."""
    for ending in ENDINGS[len(trained.family.parts)]:
        data = (trained.run.output_dir / f"pytorch_lora_weights{ending}.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert next(iter(header)) == "__metadata__"
        assert list(header["__metadata__"]) == ["format", "lora_adapter_metadata"]


def test_comfyui_maps_every_key(trained: Trained) -> None:
    mapped = next(pattern for start, pattern in COMFYUI_MAPS.items() if trained.name.startswith(start))
    for ending in ENDINGS[len(trained.family.parts)]:
        keys = set(load_file(trained.run.output_dir / f"comfyui{ending}.safetensors"))
        pairs = [("lora_A", "lora_B"), ("lora_down", "lora_up")]
        down, up = next(pair for pair in pairs if any(pair[0] in key for key in keys))
        modules = {key.removesuffix(f".{down}.weight") for key in keys if key.endswith(f".{down}.weight")}
        assert all(re.fullmatch(mapped, module) for module in modules)
        alphas = {f"{module}.alpha" for module in modules}
        matrices = {f"{module}.{part}.weight" for module in modules for part in (down, up)}
        assert keys in (matrices, matrices | alphas)  # without alphas they are multiplied in
        assert modules


def image(trained: Trained, prepare: Callable[[Any], None]) -> Any:
    """One picture of the stock pipeline, (height, width, 3) in [0, 1], or the frames of one clip."""
    import diffusers

    pipe = getattr(diffusers, trained.family.pipeline).from_pretrained(trained.run.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    prepare(pipe)
    with trained.family.areas():
        result = pipe(
            **trained.family.call(trained.rows[0]),
            width=64,
            height=64,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )
    return np.asarray(result[0][0])


def load_files_of_adapter(folder: Path, names: list[str], pipe: Any) -> None:
    pipe.load_lora_weights(folder, weight_name=names[0])
    for name in names[1:]:
        pipe.load_lora_weights(folder, weight_name=name, load_into_transformer_2=True)


def put_checkpoint(pipe: Any, trained: Trained) -> None:
    """The trained matrices themselves, out of the last checkpoint."""
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(trained.run.checkpoints / f"step-{STEPS:08d}" / "adapter.safetensors")
    assert {name.split(".")[0] for name in weights} == set(trained.family.parts)
    for name in trained.family.parts:
        part = getattr(pipe, name)
        part.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets(part, trained.family)))
        own = {key.removeprefix(f"{name}."): weight for key, weight in weights.items() if key.startswith(f"{name}.")}
        assert not set_peft_model_state_dict(part, own).unexpected_keys
