"""Every field of the image recipes acts, the caches save the encoders, and what cannot work is said."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune_trainer.diffusion import samples, timesteps
from finetune_trainer.diffusion.cache import TensorCache, fingerprint
from finetune_trainer.diffusion.denoiser import Denoiser
from finetune_trainer.diffusion.trainee import with_trigger
from finetune_trainer.families.flux import FluxKontext
from finetune_trainer.families.wan import Wan
from finetune_trainer.training.checkpoint import read_checkpoint
from tests.trainer import tiny_diffusion
from tests.trainer.datasets import encoded, picture, write_jsonl
from tests.trainer.plain_diffusion import PLAIN, SEED, generator, interpolated, plain_losses
from tests.trainer.runs import TrainerRun
from tests.trainer.test_diffusion import SMALL, recipe_of, write_pictures
from tests.trainer.web import Answer, self_signed, web

NewRun = Callable[..., TrainerRun]
EDIT = "qwen_image_edit_plus"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers' own


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tiny_diffusion.make(name, tmp_path_factory.mktemp(name) / "checkpoint")
        return made[name]

    return make


@pytest.fixture
def new(checkpoints: Callable[[str], Path], tmp_path: Path) -> NewRun:
    """Runs of three steps over the same five rows; further arguments go into the recipe."""

    def make(
        name: str, family: str = EDIT, advanced: dict[str, Any] | None = None, env: Any = None, **recipe: Any
    ) -> TrainerRun:
        root = tmp_path / name
        root.mkdir()
        plain = PLAIN[family]
        run = TrainerRun(
            root,
            checkpoints(family),
            kind=plain.recipe,
            recipe=recipe_of(plain, **{"steps": 3, **recipe}),
            advanced={**SMALL, **(advanced or {})},
            env=env or {},
        )
        run.rows = write_pictures(run.data, plain)  # type: ignore[attr-defined]
        return run

    return make


def losses(run: TrainerRun) -> list[float]:
    result = run.execute()
    assert (result.code, result.message) == (0, "")
    return run.losses()


def test_the_weights_are_the_table_and_have_mean_one() -> None:
    values = [timesteps.table(float(t)) for t in range(1, 1001)]
    assert values == pytest.approx([interpolated(t) for t in range(1, 1001)], abs=1e-12)
    assert sum(values) / 1000 == pytest.approx(1.0, abs=0.01)
    assert timesteps.table(0.0) == 0.447


def test_the_timestep_is_the_first_number_of_the_generator() -> None:
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    uniform, normal = torch.rand(1, generator=generator()), torch.randn(1, generator=generator())
    assert timesteps.draw_sigma("linear", generator()) == uniform.item()
    assert timesteps.draw_sigma("weighted", generator()) == uniform.item()
    assert timesteps.draw_sigma("sigmoid", generator()) == (1 - torch.sigmoid(normal)).item()
    assert timesteps.weight("linear", 0.5) == timesteps.weight("sigmoid", 0.5) == 1.0


@pytest.mark.parametrize("kind", ["sigmoid", "linear"])
def test_timestep_types(new: NewRun, kind: str) -> None:
    run = new(kind, "flux", timestepType=kind)
    found = losses(run)
    expected = plain_losses(PLAIN["flux"], run.checkpoint, run.rows, 3, 2, kind)  # type: ignore[attr-defined]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_split_into_micro_batches_and_recomputation_change_nothing(new: NewRun) -> None:
    together = losses(new("together", batchSize=4))
    assert losses(new("apart", batchSize=1, gradientAccumulation=4)) == pytest.approx(together, abs=2e-6)
    recomputed = new("recomputed", batchSize=4, advanced={"activationCheckpointing": True})
    assert losses(recomputed) == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize("family", ["stable_diffusion", "wan_two"])
def test_all_weights(new: NewRun, family: str) -> None:
    from diffusers import UNet2DConditionModel, WanTransformer3DModel

    run, plain = new("full", family, useLora=False), PLAIN[family]
    found = losses(run)
    expected = plain_losses(plain, run.checkpoint, run.rows, 3, 2, lora=False)  # type: ignore[attr-defined]
    assert found == pytest.approx(expected, abs=1e-5)
    kind = UNet2DConditionModel if plain.parts == ("unet",) else WanTransformer3DModel
    trained = [kind.from_pretrained(run.output_dir, subfolder=part) for part in plain.parts]
    for part, model in zip(plain.parts, trained, strict=True):
        before = dict(kind.from_pretrained(run.checkpoint, subfolder=part).named_parameters())
        assert not all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())

    shutil.rmtree(run.checkpoints / "step-00000003")
    for part in plain.parts:
        shutil.rmtree(run.output_dir / part)
    (run.output_dir / "manifest.json").unlink()
    assert losses(run) == found
    for part, model in zip(plain.parts, trained, strict=True):
        again = kind.from_pretrained(run.output_dir, subfolder=part)
        for name, weight in model.named_parameters():
            assert torch.equal(weight, again.get_parameter(name)), name


def test_two_denoisers_recompute_the_same_share_of_blocks(new: NewRun) -> None:
    whole = losses(new("whole", "wan_two", advanced={"activationCheckpointing": False}))
    run = new("half", "wan_two", advanced={"activationCheckpointing": 0.5})
    assert losses(run) == pytest.approx(whole, abs=1e-6)
    memory = run.manifest()["memory"]
    assert (memory["blocks"], memory["recomputedBlocks"]) == (4, 2)
    assert memory["loaded"][:2] == ["transformer", "transformer_2"]


def test_a_denoiser_without_a_sample_in_a_step_stays_as_it_is(new: NewRun) -> None:
    from safetensors.torch import load_file

    run = new("absent", "wan_two", advanced={"keepCheckpoints": 3})
    losses(run)  # the samples of the first step are below the boundary, the third one's above, the second has both
    at = [load_file(run.checkpoints / f"step-{step:08d}" / "adapter.safetensors") for step in (1, 2, 3)]

    def moved(before: int, after: int, part: str) -> bool:
        names = [name for name in at[0] if name.startswith(f"{part}.")]
        return any(not torch.equal(at[before][name], at[after][name]) for name in names)

    assert not any(at[0][name].any() for name in at[0] if name.startswith("transformer.") and "lora_B" in name)
    assert any(at[0][name].any() for name in at[0] if name.startswith("transformer_2.") and "lora_B" in name)
    assert [moved(0, 1, part) for part in ("transformer", "transformer_2")] == [True, True]
    assert [moved(1, 2, part) for part in ("transformer", "transformer_2")] == [True, False]


def test_seed_learning_rate_alpha_and_rank_act(new: NewRun) -> None:
    base = losses(new("base", "flux"))
    assert losses(new("seed", "flux", seed=8)) != pytest.approx(base, abs=1e-5)
    for field, value in (("loraAlpha", 4), ("loraRank", 2), ("learningRate", 0.05)):
        found = losses(new(field, "flux", **{field: value}))
        assert found[0] == pytest.approx(base[0], abs=1e-6), field  # the adapter starts at zero
        assert found[2] != pytest.approx(base[2], abs=1e-5), field


def test_captions_are_encoded_before_or_at_first_use_with_the_same_numbers(new: NewRun) -> None:
    before = losses(new("before", "qwen_image_edit", cacheTextEmbeddings=True))
    assert losses(new("later", "qwen_image_edit", cacheTextEmbeddings=False)) == before


@pytest.mark.parametrize("family", [EDIT, "wan_image"])
def test_a_second_run_needs_no_encoder(new: NewRun, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    first = new("first", family)
    expected = losses(first)
    second = new("second", family)
    shutil.copytree(first.root / "cache", second.root / "cache")

    def refused(*_arguments: Any) -> Any:
        raise AssertionError("an encoder was used")

    with monkeypatch.context() as patched:
        patched.setattr(Denoiser, "text_pipeline", refused)
        patched.setattr(Denoiser, "encode_picture", refused)
        patched.setattr(Wan, "encode_pixels", refused)
        assert losses(second) == expected

    third = new("third", family)
    shutil.copytree(first.root / "cache", third.root / "cache")
    for number, path in enumerate(sorted((third.root / "cache" / "latents").rglob("*.safetensors"))):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * (number % 4) // 4])  # torn at different places
    assert losses(third) == expected


def test_cache_keys_tell_everything_apart(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    keys = [
        cache.key(picture="a", size=(64, 64), encoder="v", numbers="float32"),
        cache.key(picture="b", size=(64, 64), encoder="v", numbers="float32"),
        cache.key(picture="a", size=(64, 32), encoder="v", numbers="float32"),
        cache.key(picture="a", size=(64, 64), encoder="w", numbers="float32"),
        cache.key(picture="a", size=(64, 64), encoder="v", numbers="bfloat16"),
    ]
    assert len(set(keys)) == 5
    cache.put(keys[0], {"x": torch.arange(3)})
    assert (tmp_path / keys[0][:2] / f"{keys[0]}.safetensors").stat().st_mode & 0o777 == 0o644
    found = cache.get(keys[0])
    assert found is not None
    assert torch.equal(found["x"], torch.arange(3))
    assert not cache.has(keys[1])
    (tmp_path / "vae").mkdir()
    weights = tmp_path / "vae" / "model.safetensors"
    weights.write_bytes(b"weights")
    before = fingerprint(tmp_path / "vae")
    weights.write_bytes(b"Weights")
    assert fingerprint(tmp_path / "vae") != before


def test_samples_take_the_images_that_their_urls_name(new: NewRun, tmp_path: Path) -> None:
    tls, trusted = self_signed(tmp_path)
    with web(tls) as server:
        urls = [server.serve(f"/{n}.png", Answer(encoded(picture(n, (64, 48))))) for n in range(2)]
        run = new(
            "fetched",
            env={"FINETUNE_ALLOW_DATASET_HOSTS": server.host, "SSL_CERT_FILE": str(trusted)},
            sampleEvery=2,
            sampleWidth=96,
            sampleHeight=70,
            samples=[{"prompt": "an ox", "ctrlImgUrls": urls}, {"prompt": "a herd", "ctrlImgUrls": urls[:1]}],
        )
        losses(run)
        check_samples(run)


def check_samples(run: TrainerRun) -> None:
    folder = run.output_dir / "samples"
    names = [f"step-{step}-{number}.png" for step in (2, 3) for number in (0, 1)]
    assert {path.name for path in folder.iterdir()} == {"contact-sheet.png", *names}
    with Image.open(folder / names[0]) as image:
        assert image.size == (96, 64)
    assert len({(folder / name).read_bytes() for name in names}) == 4
    listed = {artifact for artifact in run.manifest()["files"] if artifact.startswith("samples/")}
    assert listed == {f"samples/{name}" for name in ["contact-sheet.png", *names]}

    (folder / names[2]).unlink()
    (run.output_dir / "manifest.json").unlink()
    losses(run)  # everything is done but this picture
    assert (folder / names[2]).exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [("https://127.0.0.1/a.png", "not a public address"), ("https://169.254.169.254/latest", "not a public address")],
)
def test_sample_urls_are_guarded(new: NewRun, url: str, words: str) -> None:
    result = new("guarded", samples=[{"prompt": "x", "ctrlImgUrls": [url]}]).execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert words in result.message
    assert "samples[0]" in result.message


def test_sigterm_in_the_middle_of_a_sample_ends_at_once_with_a_checkpoint(new: NewRun) -> None:
    run = new("stopped", "flux", samples=[{"prompt": "x"}], sampleEvery=1, advanced={"sampleSteps": 100_000})
    process = run.start(stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "checkpoint":
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    result = run.finish(process)

    assert (result.code, result.termination["step"]) == (75, 1)
    assert time.monotonic() - started < 30
    assert read_checkpoint(run.checkpoints / "step-00000001") is not None
    assert [path.name for path in (run.output_dir / "samples").iterdir()] == []


def test_trigger_words_stand_in_every_caption(new: NewRun) -> None:
    assert with_trigger("a cat", "TOK") == "TOK a cat"
    assert with_trigger("a TOK cat", "TOK") == "a TOK cat"
    assert with_trigger("a [trigger] cat", "TOK") == "a TOK cat"
    assert with_trigger("a cat", None) == "a cat"
    assert losses(new("with", "flux", triggerWord="TOK")) != pytest.approx(losses(new("without", "flux")), abs=1e-6)


def test_what_cannot_be_trained_is_said(new: NewRun) -> None:
    def ending(name: str, change: Callable[[TrainerRun], None]) -> tuple[int, str]:
        run = new(name)
        change(run)
        result = run.execute()
        assert not (run.output_dir / "manifest.json").exists()
        return result.code, result.message

    def nothing_to_edit(run: TrainerRun) -> None:
        run.recipe |= {"controlImageColumns": [], "samples": [{"prompt": "an ox"}]}

    def two_targets(run: TrainerRun) -> None:
        rows = [json.loads(line) for line in (run.data / "train.jsonl").read_text().splitlines()]
        rows[3]["image"] = [rows[0]["image"], rows[1]["image"]]
        write_jsonl(run.data / "train.jsonl", rows)

    def missing_control(run: TrainerRun) -> None:
        rows = [json.loads(line) for line in (run.data / "train.jsonl").read_text().splitlines()]
        rows[2]["second"] = None
        write_jsonl(run.data / "train.jsonl", rows)

    def torn_weights(run: TrainerRun) -> None:
        path = run.claim("models") / "tiny" / "transformer" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])

    def other_recipe(run: TrainerRun) -> None:
        run.kind, run.recipe = "imageGeneration", recipe_of(PLAIN["flux"])

    assert ending("controls", nothing_to_edit) == (
        2,
        "samples[0] has no images, and neither has the dataset: there is nothing to edit",
    )
    code, message = ending("targets", two_targets)
    assert (code, "has several images in 1 rows" in message, message.endswith("3")) == (3, True, True)
    code, message = ending("control", missing_control)
    assert (code, "row 2: column 'second' has no image" in message) == (3, True)
    code, message = ending("torn", torn_weights)
    assert (code, "diffusion_pytorch_model.safetensors of the base model pvc://models/tiny" in message) == (2, True)
    code, message = ending("recipe", other_recipe)
    assert (code, "supports imageEditing, multiImageEditing, not imageGeneration" in message) == (2, True)


def test_an_editing_model_learns_without_images_to_edit(new: NewRun) -> None:
    run = new("none", controlImageColumns=[])
    for row in run.rows:  # type: ignore[attr-defined]
        row.controls.clear()
    expected = plain_losses(PLAIN[EDIT], run.checkpoint, run.rows, 3, 2)  # type: ignore[attr-defined]
    assert losses(run) == pytest.approx(expected, abs=1e-5)


def test_what_video_models_cannot_learn_from_is_said(new: NewRun) -> None:
    takes_an_image = new("text", "wan_image")
    takes_an_image.kind = "textToVideo"
    result = takes_an_image.execute()
    assert (result.code, result.reason) == (2, "ModelNotSupported")
    assert "(WanImageToVideoPipeline) supports imageToVideo, not textToVideo" in result.message

    result = new("short", "wan_image_in_place", numFrames=4).execute()
    assert (result.code, "numFrames 4 is only the first frame" in result.message) == (2, True)

    still = new("still", "wan_image_two")
    picture(0, (64, 64)).save(still.data / "images" / "clip3.png")
    result = still.execute()
    assert (result.code, "row 3: column 'image' has too few frames" in result.message) == (3, True)


def test_a_model_that_takes_no_image_learns_image_to_video_from_captions(new: NewRun) -> None:
    text, image = new("text", "wan"), new("image", "wan")
    image.kind = "imageToVideo"
    assert losses(image) == losses(text)
    (note,) = image.manifest()["notes"]
    assert note.startswith("the base model takes no image")


@pytest.mark.parametrize(("family", "last"), [("wan_image", {}), ("wan_first_last", {"last_image": -1})])
def test_a_sample_is_the_clip_that_the_pipeline_makes_of_the_first_row_s_first_frame(
    new: NewRun, monkeypatch: pytest.MonkeyPatch, family: str, last: dict[str, int]
) -> None:
    from diffusers import WanImageToVideoPipeline

    made: list[list[Image.Image]] = []
    original = samples._write

    def write(frames: list[Image.Image], path: Path, rate: float) -> None:
        made.append(frames)  # the file is rounded
        original(frames, path, rate)

    monkeypatch.setattr(samples, "_write", write)
    run, plain = new("start", family, samples=[{"prompt": "an ox"}]), PLAIN[family]
    losses(run)
    assert run.manifest()["notes"] == ["samples[0] has no images: those of the dataset's first row are used"]

    pipe = WanImageToVideoPipeline.from_pretrained(run.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(run.output_dir, weight_name="comfyui.safetensors")
    frames = run.rows[0].frames  # type: ignore[attr-defined]
    given = {"image": frames[0], **{name: frames[place] for name, place in last.items()}}
    source = generator(f"{SEED}:sample:0")
    source.manual_seed(source.initial_seed() % 2**63)
    options = {"width": 64, "height": 64, "num_frames": 9, "num_inference_steps": 2, "output_type": "pil"}
    with plain.areas():
        (expected,) = pipe(**given, prompt="an ox", negative_prompt="", generator=source, **options).frames
    for found, frame in zip(made[0], expected, strict=True):
        assert np.abs(np.asarray(found, dtype=int) - np.asarray(frame, dtype=int)).max() <= 1


def test_kontext_prefers_the_sizes_that_it_was_trained_on(checkpoints: Callable[[str], Path]) -> None:
    from finetune_operator.api.advanced import Advanced
    from finetune_trainer.diffusion.denoiser import Base

    base = Base(checkpoints("flux_kontext"), "kontext", torch.device("cpu"), torch.float32)
    denoiser = FluxKontext(base, Advanced())
    assert denoiser.control_size((500, 500)) == (1024, 1024)
    assert denoiser.control_size((1600, 900)) == (1392, 752)
    assert FluxKontext(base, Advanced(control_area=4096)).control_size((1600, 900)) == (96, 64)


def test_the_text_encoder_of_an_editing_model_sees_what_its_pipeline_shows_it(
    checkpoints: Callable[[str], Path],
) -> None:
    from finetune_operator.api.advanced import Advanced
    from finetune_trainer.diffusion.denoiser import Base
    from finetune_trainer.families.qwen_image_edit import QwenImageEdit, QwenImageEditPlus

    def seen(kind: type[QwenImageEdit], name: str, **areas: Any) -> tuple[int, int]:
        base = Base(checkpoints(name), name, torch.device("cpu"), torch.float32)
        return kind(base, Advanced(**areas)).condition_size((100, 100))

    assert seen(QwenImageEdit, "qwen_image_edit") == (1024, 1024)
    assert seen(QwenImageEdit, "qwen_image_edit", control_area=4096) == (64, 64)  # one picture for both encoders
    assert seen(QwenImageEdit, "qwen_image_edit", control_area=4096, condition_area=1024) == (32, 32)
    assert seen(QwenImageEditPlus, EDIT, control_area=4096) == (384, 384)
    assert seen(QwenImageEditPlus, EDIT, condition_area=1024) == (32, 32)


@pytest.mark.parametrize("loss", ["alpha", "module"])
def test_an_adapter_file_that_lost_something_is_no_result(
    new: NewRun, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    from finetune_trainer.families.flux import Flux

    original = Flux.comfyui

    def careless(self: Flux, weights: Any, scale: float, rank: int) -> Any:
        if loss == "alpha":
            return original(self, weights, 1.0, rank)
        kept = {name: tensor for name, tensor in weights.items() if "attn.to_q" not in name}
        return original(self, kept, scale, rank)

    monkeypatch.setattr(Flux, "comfyui", careless)
    run = new(loss, "flux")

    result = run.execute()

    assert result.code == 1
    assert result.message.startswith("comfyui.safetensors has " + ("changed" if loss == "alpha" else "lost"))
    assert not list(run.output_dir.glob("*.safetensors"))


@pytest.mark.parametrize(("family", "kind"), [("qwen_image", "png"), ("wan_image", "webp")])
def test_bf16_as_on_a_gpu_trains_samples_and_exports(
    new: NewRun, monkeypatch: pytest.MonkeyPatch, family: str, kind: str
) -> None:
    from finetune_trainer.diffusion.denoiser import Base

    def rounded(folder: Path, name: str, device: torch.device, _dtype: torch.dtype) -> Base:
        return Base(folder, name, device, torch.bfloat16)

    exact = losses(new("exact", family))
    monkeypatch.setattr("finetune_trainer.diffusion.trainee.Base", rounded)
    run = new("rounded", family, samples=[{"prompt": "an ox"}])

    assert losses(run) == pytest.approx(exact, abs=0.05)
    assert (run.output_dir / "samples" / f"step-3-0.{kind}").exists()
    assert (run.output_dir / "comfyui.safetensors").exists()


@pytest.mark.parametrize(("recipe", "told"), [({}, 1), ({"samples": []}, 0)])
def test_a_documented_default_that_is_not_applied_is_noted(new: NewRun, recipe: dict[str, Any], told: int) -> None:
    run = new("multi", **{"steps": 1, **recipe})
    assert run.kind == "multiImageEditing"
    losses(run)
    notes = run.manifest()["notes"]
    assert len([note for note in notes if note.startswith("no samples were made: the documented default")]) == told
