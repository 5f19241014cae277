"""The numbers: losses equal a plain loop, written here from the mathematics and from transformers alone."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from finetune_trainer.language import answer_loss
from tests.trainer.datasets import write_rows
from tests.trainer.runs import TrainerRun

STEPS = 6
TURN_END = "<|im_end|>\n"
LANGUAGE_MODEL = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def plain_order(seed: int, epoch: int, rows: int) -> list[int]:
    digest = hashlib.blake2b(f"{seed}:epoch:{epoch}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randperm(rows, generator=generator).tolist()


def plain_losses(folder: Path, data: Path, rows: list[dict[str, Any]], per_step: int, lora: bool) -> list[float]:
    """One row at a time, no padding, whole logits; 2 epochs of 6 rows in steps of `per_step` rows."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    if lora:
        torch.manual_seed(7)
        model = get_peft_model(
            model, LoraConfig(r=4, lora_alpha=8, target_modules=LANGUAGE_MODEL, task_type="CAUSAL_LM")
        )
    else:
        model.requires_grad_(True)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0)
    losses = []
    draws = [row for epoch in range(2) for row in plain_order(7, epoch, len(rows))]
    for step in range(STEPS):
        batch = [rows[index] for index in draws[step * per_step : (step + 1) * per_step]]
        total, tokens = torch.zeros(()), 0
        for row in batch:
            prompt = (
                "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
                f"{row['question']}<|im_end|>\n<|im_start|>assistant\n"
            )
            inputs = processor(text=[prompt], images=[Image.open(data / row["image"])], return_tensors="pt")
            answer = torch.tensor([processor.tokenizer(row["answer"] + TURN_END)["input_ids"]])
            ids = torch.cat([inputs["input_ids"], answer], dim=1)
            kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answer)], dim=1)
            logits = model(
                input_ids=ids,
                mm_token_type_ids=kinds,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
            ).logits
            predicted = logits[0, -answer.shape[1] - 1 : -1]
            total = total - torch.log_softmax(predicted, -1).gather(1, answer[0][:, None]).sum()
            tokens += answer.shape[1]
        loss = total / tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("batch", "accumulation", "chunk"), [(2, 1, None), (1, 2, None), (2, 1, 5)])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_losses_equal_a_plain_loop(
    new_run: Callable[..., TrainerRun],
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    accumulation: int,
    chunk: int | None,
    lora: bool,
) -> None:
    """chunk: the loss is computed for so many answers at a time."""
    if chunk is not None:
        monkeypatch.setattr(answer_loss, "LOGITS", chunk * 264)
    recipe = {"batchSize": batch, "gradAccum": accumulation, "useLora": lora}
    run = new_run(recipe=recipe)
    rows = write_rows(run.data)

    assert run.execute().code == 0

    expected = plain_losses(run.checkpoint, run.data, rows, batch * accumulation, lora)
    assert run.losses() == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.05
