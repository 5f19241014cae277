"""`python -m examples.demo.check --model M --adapter A --data FILE`: load an adapter back and compare losses.

Nothing of the trainer is used here: transformers loads the model, peft the adapter, and a plain loop measures.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

ROWS = 8


def rows(data: Path) -> Iterator[dict[str, Any]]:
    """The first `ROWS` rows, with the picture decoded."""
    for row in pq.read_table(data).slice(0, ROWS).to_pylist():
        yield {**row, "image": Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")}


def loss(model: Any, processor: Any, data: Path) -> float:
    """Mean cross-entropy of the answers' tokens, in nats."""
    total, count = 0.0, 0
    for row in rows(data):
        content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[row["image"]], return_tensors="pt")
        answer = processor.tokenizer(row["answer"] + "<|im_end|>\n", return_tensors="pt", add_special_tokens=False)
        answers = answer["input_ids"]
        prompt_length = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answers], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answers)], dim=1)
        with torch.no_grad():
            logits = model(**inputs).logits[0, prompt_length - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, answers[0], reduction="sum").item()
        count += answers.shape[1]
    return total / count


def compare(model_folder: Path, adapter: Path, data: Path) -> tuple[float, float]:
    """(loss without the adapter, loss with it)."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # transformers' own: peft still asks by the old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    processor = AutoProcessor.from_pretrained(model_folder)
    model = AutoModelForImageTextToText.from_pretrained(model_folder).eval()
    before = loss(model, processor, data)
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    return before, loss(tuned, processor, data)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Load an adapter back and compare losses.")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--data", type=Path, required=True, help="parquet file with question, answer, image")
    options = parser.parse_args()
    before, after = compare(options.model, options.adapter, options.data)
    print(f"loss on {ROWS} rows: {before:.4f} without the adapter, {after:.4f} with it")
    if not after < before:
        raise SystemExit("the adapter does not help: something is wrong")


if __name__ == "__main__":
    main()
