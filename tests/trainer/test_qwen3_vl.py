"""Qwen3-VL: rows that fit, several images, the result as users load it, and what happens when memory runs out."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from examples.demo.checkpoint import CHAT_TEMPLATE
from finetune_trainer.errors import ConfigError, OutOfMemory
from finetune_trainer.families.qwen3_vl import layout_on_host, multiply_patches, places_of_patches
from finetune_trainer.language.rows import RowTooLongError
from finetune_trainer.language.trainee import LanguageTrainee
from finetune_trainer.language.vlm_rows import RowEncoder
from tests.trainer.datasets import picture, write_jsonl, write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.tiny_text import template

NewRun = Callable[..., TrainerRun]
PEFT_NOISE = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoint)


def encoder(processor: Any, seq_length: int = 512, downscale: bool = True) -> RowEncoder:
    return RowEncoder(processor, seq_length, enable_thinking=False, downscale=downscale)


def logits(model: Any, processor: Any, image: Image.Image, text: str) -> torch.Tensor:
    prompt = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor(text=[prompt], images=[image], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_only_the_answer_and_the_end_of_the_turn_are_learnt(processor: Any) -> None:
    row = encoder(processor).encode("How many?", "Seven.", [picture(1), picture(2)])
    learnt = row.labels != -100

    assert processor.tokenizer.decode(row.input_ids[learnt]) == "Seven.<|im_end|>\n"
    text = processor.tokenizer.decode(row.input_ids[~learnt]).replace("<|image_pad|>", "")
    assert text == (
        "<|im_start|>user\n<|vision_start|><|vision_end|><|vision_start|><|vision_end|>How many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert torch.equal(row.labels[learnt], row.input_ids[learnt])
    assert row.grid is not None
    assert int((row.input_ids == processor.image_token_id).sum()) == int(row.grid.prod(1).sum()) // 4


def with_template(processor: Any, text: str) -> Any:
    changed = copy.copy(processor)
    changed.chat_template = text
    return changed


def parts(processor: Any, encoded: RowEncoder, question: str, answer: str, images: int = 1) -> tuple[str, str]:
    """(context, learnt text) of a row."""
    row = encoded.encode(question, answer, [picture(number) for number in range(images)])
    decode = processor.tokenizer.decode
    return decode(row.input_ids[row.labels == -100]), decode(row.input_ids[row.labels != -100])


THINKS = ("qwen3_5_think", "qwen3_6")
"""Published templates whose generation prompt opens a thinking block, as that of Qwen3-VL's Thinking models does."""


@pytest.mark.parametrize("name", THINKS)
def test_a_thinking_block_that_the_prompt_opens_is_closed_before_the_answer(processor: Any, name: str) -> None:
    changed = with_template(processor, template(name))
    rows = RowEncoder(changed, 4000, enable_thinking=True, downscale=True)
    context, text = parts(processor, rows, "What?", "A cat.")
    assert context.endswith("<|im_start|>assistant\n<think>\n")
    assert text == "\n</think>\n\nA cat.<|im_end|>\n"

    context, text = parts(processor, rows, "What?", "<think>\nfur\n</think>\n\nA cat.")
    assert context.endswith("<|im_start|>assistant\n<think>\n")
    assert text == "fur\n</think>\n\nA cat.<|im_end|>\n"
    assert rows.fit("What?", "<think>fur</think>A cat.", [(48, 40)]).tokens > 0


def test_a_thinking_block_that_no_turn_closes_is_refused(processor: Any) -> None:
    opened = CHAT_TEMPLATE.replace("<|im_start|>assistant\\n", "<|im_start|>assistant\\n<think>\\n")
    assert opened != CHAT_TEMPLATE
    with pytest.raises(ConfigError, match="opens a thinking block, and its turns do not close it: use the variant"):
        RowEncoder(with_template(processor, opened), 4000, enable_thinking=False, downscale=True)


def test_an_answer_with_a_thinking_block_is_learnt_once(processor: Any) -> None:
    assert parts(processor, encoder(processor), "What?", "<think>fur</think>A cat.")[1] == (
        "<think>fur</think>A cat.<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>\nWhat?", "[]\nWhat?"),
        ("Compare <image> and <image>.", "Compare [] and []."),
        ("<image><image>", "[][]"),
        ("What?", "[][]What?"),
    ],
)
def test_marks_for_images_are_their_places(processor: Any, question: str, expected: str) -> None:
    images = max(1, question.count("<image>")) if "<image>" in question else 2
    context = parts(processor, encoder(processor), question, "A cat.", images)[0].replace("<|image_pad|>", "")
    written = context.replace("<|vision_start|><|vision_end|>", "[]")
    assert written == f"<|im_start|>user\n{expected}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "<image><image> what?"}, "contains 2 <image>, but the row has 1 images"),
        ({"question": "<img> what?"}, "contains <img>, another program's mark for an image: write <image>, or remove"),
        ({"question": "<|image_1|> what?"}, r"contains <\|image_1\|>"),
        ({"question": "[IMG] what?"}, r"contains \[IMG\]"),
        ({"question": "<video> what?"}, "contains <video>"),
        ({"answer": "<image> a cat"}, "'answer' contains <image>, another program's mark for an image: remove it"),
    ],
)  # fmt: skip
def test_marks_for_images_that_cannot_be_honoured_are_refused(new_run: NewRun, row: dict[str, str], words: str) -> None:
    run = new_run()
    rows = write_rows(run.data, 2)
    write_jsonl(run.data / "train.jsonl", [rows[0], {**rows[1], **row}])
    result = run.execute()
    assert result.code == 3
    assert re.search(f"row 1: .*{words}", result.message), result.message


@pytest.mark.parametrize("images", [1, 2, 3])
def test_too_long_rows_get_smaller_images_and_never_cut_ones(checkpoint: Path, images: int) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.image_processor.size = {"shortest_edge": 4096, "longest_edge": 65536}
    pictures = [picture(number, (160, 96)) for number in range(images)]  # 5 x 3 tokens each
    whole = len(encoder(processor).encode("Q", "A", pictures).input_ids)
    shortest = whole - 14 * images
    for length in range(shortest, whole + 1):
        row = encoder(processor, length).encode("Q", "A", pictures)
        assert len(row.input_ids) <= length
        assert row.grid is not None
        assert row.pixels is not None
        assert int((row.input_ids == processor.image_token_id).sum()) == int(row.grid.prod(1).sum()) // 4
        assert row.pixels.shape[0] == int(row.grid.prod(1).sum())
    assert len(encoder(processor, whole).encode("Q", "A", pictures).input_ids) == whole
    with pytest.raises(RowTooLongError, match="do not fit into seqLength"):
        encoder(processor, shortest - 1).encode("Q", "A", pictures)


def test_too_long_texts_are_refused_with_their_rows(new_run: NewRun) -> None:
    run = new_run(recipe={"seqLength": 90, "epochs": 1})
    rows = write_rows(run.data)
    rows[3]["answer"] = "word " * 40
    write_jsonl(run.data / "train.jsonl", rows)

    refused = run.execute()
    assert (refused.code, refused.reason) == (3, "DataValidationFailed")
    assert "1 of 6 rows are too long" in refused.message
    assert "row 3: has " in refused.message
    assert "Increase seqLength" in refused.message

    run.advanced = {"tooLong": "skip"}
    assert run.execute().code == 0
    manifest = run.manifest()
    assert (manifest["dataset"]["rows"], manifest["dataset"]["skipped"]) == (5, 1)
    assert manifest["notes"][0].startswith("1 rows were skipped because they are too long, the first: row 3")


def test_thinking_without_effect_is_noted_and_with_effect_used(new_run: NewRun) -> None:
    run = new_run(recipe={"enableThinking": True, "epochs": 1})
    write_rows(run.data, 2)
    assert run.execute().code == 0
    assert "enableThinking has no effect" in run.manifest()["notes"][0]

    template = run.claim("models") / "tiny" / "chat_template.jinja"
    thinks = "{%- if enable_thinking and add_generation_prompt -%}{{- '<think>\\n</think>\\n' -}}{%- endif -%}"
    template.write_text(template.read_text() + thinks)
    plain = run.losses()
    assert run.root.joinpath("storage").rename(run.root / "storage-before")
    assert run.execute().code == 0
    assert run.manifest()["notes"] == []
    assert run.losses() != plain


@PEFT_NOISE
def test_the_adapter_loads_where_users_load_it(new_run: NewRun, processor: Any) -> None:
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    run = new_run(recipe={"loraAlpha": 32})
    write_rows(run.data)
    assert run.execute().code == 0
    base = run.claim("models") / "tiny"

    model = Qwen3VLForConditionalGeneration.from_pretrained(base)
    before = logits(model, processor, picture(1), "Which?")
    model = PeftModel.from_pretrained(model, run.output_dir)
    after = logits(model, processor, picture(1), "Which?")
    merged = logits(model.merge_and_unload(), processor, picture(1), "Which?")

    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(merged, after, rtol=0, atol=1e-5)
    config = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 32, "pvc://models/tiny")
    names = torch_names(run.output_dir / "adapter_model.safetensors")
    assert len(names) == 2 * 7 * 2
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    expected = probe_loss(run, processor)
    assert run.manifest()["loss"]["after"] == pytest.approx(expected, abs=1e-6)


def probe_loss(run: TrainerRun, processor: Any) -> float:
    """The loss of the whole dataset under the exported adapter, loaded by peft."""
    from peft import PeftModel
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(run.claim("models") / "tiny")
    model = PeftModel.from_pretrained(model, run.output_dir).eval()
    total, tokens = 0.0, 0
    for line in (run.data / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        encoded = encoder(processor).encode(row["question"], row["answer"], [Image.open(run.data / row["image"])])
        with torch.no_grad():
            output = model(
                input_ids=encoded.input_ids[None],
                mm_token_type_ids=encoded.kinds[None],
                pixel_values=encoded.pixels,
                image_grid_thw=encoded.grid,
                labels=encoded.labels[None],
            )
        count = int((encoded.labels != -100).sum())
        total, tokens = total + output.loss.item() * count, tokens + count
    return total / tokens


def torch_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_patches_multiplied_are_patches_convolved(checkpoint: Path) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    embedding = model.model.visual.patch_embed
    patches = torch.randn(12, embedding.proj.weight[0].numel(), generator=torch.Generator().manual_seed(0))

    def result() -> list[torch.Tensor]:
        model.zero_grad()
        found = embedding(patches)
        found.square().sum().backward()
        return [found.detach(), embedding.proj.weight.grad.clone(), embedding.proj.bias.grad.clone()]

    expected = result()
    multiply_patches(model)
    for ours, theirs in zip(result(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6 * theirs.abs().max().item())
    assert "Conv" not in str(embedding(patches).grad_fn)


def test_the_vision_tower_waits_for_no_device(checkpoint: Path, processor: Any) -> None:
    """Tensors on "meta" have no numbers: a tower that reads one on its way raises."""
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    visual = model.model.visual
    images = [picture(0, (64, 32)), picture(1, (96, 64))]
    inputs = processor(text=["<|vision_start|><|image_pad|><|vision_end|>" * 2], images=images, return_tensors="pt")
    tensors = {**places_of_patches(inputs["image_grid_thw"], visual), "image_grid_thw": inputs["image_grid_thw"]}
    host = layout_on_host(tensors)
    expected = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    found = model.model.get_image_features(inputs["pixel_values"], **host, **tensors).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

    model.to("meta")
    away = {name: tensor.to("meta") for name, tensor in tensors.items()}
    shapes = [feature.shape for feature in expected]
    found = model.model.get_image_features(inputs["pixel_values"].to("meta"), **host, **away).pooler_output
    assert [feature.shape for feature in found] == shapes
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        model.model.get_image_features(inputs["pixel_values"].to("meta"), inputs["image_grid_thw"].to("meta"))


def test_all_weights_are_exported_as_a_checkpoint(new_run: NewRun) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    run = new_run(recipe={"useLora": False, "epochs": 1})
    write_rows(run.data)
    assert run.execute().code == 0

    trained = AutoModelForImageTextToText.from_pretrained(run.output_dir)
    base = AutoModelForImageTextToText.from_pretrained(run.claim("models") / "tiny")
    pairs = {name: (weight, dict(base.named_parameters())[name]) for name, weight in trained.named_parameters()}
    moved = {name for name, (new, old) in pairs.items() if not torch.equal(new, old)}
    assert "lm_head.weight" in moved
    assert any("visual.patch_embed" in name for name in moved)
    assert AutoProcessor.from_pretrained(run.output_dir).chat_template


def test_several_image_columns_in_their_order(new_run: NewRun) -> None:
    def losses(columns: list[str]) -> list[float]:
        run = new_run("-".join(columns), recipe={"imageColumns": columns, "epochs": 1})
        rows = write_rows(run.data)
        write_jsonl(run.data / "train.jsonl", [{**row, "second": rows[0]["image"]} for row in rows])
        assert run.execute().code == 0
        return run.losses()

    assert losses(["image", "second"]) != losses(["second", "image"])


def test_text_without_images(new_run: NewRun) -> None:
    run = new_run(recipe={"imageColumns": [], "epochs": 1})
    write_rows(run.data)
    assert run.execute().code == 0
    assert run.losses()[-1] < run.losses()[0]


def test_neftune_noise_is_that_of_the_paper_and_the_same_for_any_split(new_run: NewRun) -> None:
    def losses(**recipe: Any) -> list[float]:
        run = new_run(str(recipe), recipe={"neftuneNoiseAlpha": 50, **recipe})
        write_rows(run.data)
        assert run.execute().code == 0
        return run.losses()

    together = losses(batchSize=2, gradAccum=1)
    assert losses(batchSize=1, gradAccum=2) == pytest.approx(together, abs=1e-6)
    assert losses(neftuneNoiseAlpha=0) != pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("spared", [0, 1], ids=["while measuring", "in the first step"])
def test_memory_running_out_once_changes_no_number(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, spared: int
) -> None:
    recipe = {"batchSize": 3, "neftuneNoiseAlpha": 5}
    calm, short = new_run("calm", recipe=recipe), new_run("short", recipe=recipe)
    for run in (calm, short):
        write_rows(run.data)
    assert calm.execute().code == 0
    original, large = LanguageTrainee.loss_sum, []

    def small_device(self: LanguageTrainee, batch: Any) -> torch.Tensor:
        if batch.samples > 1 and self._base.training:
            large.append(batch)
            if len(large) > spared:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return original(self, batch)

    monkeypatch.setattr(LanguageTrainee, "loss_sum", small_device)
    assert short.execute().code == 0

    assert short.losses() == pytest.approx(calm.losses(), abs=1e-6)
    assert "continuing with 1 row and recomputed activations" in short.manifest()["notes"][0]


def test_memory_running_out_for_good_is_exit_4(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny_device(self: LanguageTrainee, batch: Any) -> torch.Tensor:
        if self._base.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return torch.zeros(())

    monkeypatch.setattr(LanguageTrainee, "loss_sum", tiny_device)
    run = new_run()
    write_rows(run.data)

    result = run.execute()

    assert (result.code, result.reason) == (OutOfMemory.exit_code, "OutOfMemory")
    assert "Lower seqLength or loraRank" in result.message


def test_an_export_that_does_not_act_like_the_model_is_no_result(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.training import lora

    original = lora.save

    def lose_alpha(model: Any, folder: Path) -> None:
        original(model, folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 4}))

    monkeypatch.setattr(lora, "save", lose_alpha)
    run = new_run(recipe={"epochs": 3})
    write_rows(run.data)

    result = run.execute()

    assert result.code == 1
    assert "do not give the outputs of the trained ones" in result.message
    assert not (run.output_dir / "adapter_model.safetensors").exists()
    assert not (run.output_dir / "manifest.json").exists()
