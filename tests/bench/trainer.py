"""`make bench-trainer`: what packing and caches are worth on this CPU as ratios within one run, and the cold start.

- text, VLM: LoRA training of the same rows with the same tiny float32 model, batch, optimizer and seed by the trainer
  (packed) and by TRL's SFTTrainer (padded batches; gradient checkpointing off, as in the trainer; answers only, no
  logging or saving). Lengths are log-normal as those of chats are. Samples per second of whole optimizer steps.
- edit: a tiny Qwen-Image-Edit-2509 with two controls, with its caches and with the two encoders run on the controls
  (and the caption beside them) at every step; all else is the same loop. What is saved depends on how much larger the
  denoiser is than the encoders, so there are two autoencoders: of width 24, and of width 8 (the real one has 96, beside
  a denoiser that is larger by far more).
- cold start: from starting `python -m finetune_trainer` to the line that reports the first optimizer step.

Tiny models on a CPU: the ratios show padding saved and work not repeated, not the speed of a GPU. Pairs alternate, the
first of each is thrown away, medians are reported. Writes JSON to $BENCH_JSON (default build/bench-trainer.json);
$BENCH_REPEATS (default 5) is the number of measured pairs.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from examples.demo.checkpoint import TinySize, make_qwen3_vl
from finetune_trainer.diffusion.cache import TensorCache
from finetune_trainer.diffusion.conditions import Conditions
from finetune_trainer.schedule import EpochSchedule, StepSchedule
from tests.trainer import tiny_diffusion
from tests.trainer.checkpoints import tiny_qwen3_vl
from tests.trainer.datasets import picture, write_jsonl, write_rows
from tests.trainer.runs import TrainerRun
from tests.trainer.tiny_text import tiny_text
from tests.trainer.trainees import Loaded, load, loop_of

REPEATS: Final = int(os.environ.get("BENCH_REPEATS", "5"))
ROWS, BATCH, RANK, RATE, SEED = 64, 8, 8, 1e-4, 7
TEXT_LENGTH, IMAGE_LENGTH = 1024, 1024
EDIT_STEPS, EDIT_ROWS = 16, 8
SPREAD: Final = 0.9
"""Standard deviation of the logarithm of the lengths."""
VAE_WIDTH, NARROW_VAE_WIDTH = 24, 8
TARGETS: Final = {"packed_text": 1.5, "packed_vlm": 1.5, "cached_edit": 2.0, "cold_start_s": 10.0}
"""The narrow autoencoder has none: it shows how the ratio falls."""
TRL_MODULES: Final = r".*(language_model|model\.layers).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

Measured = dict[str, Any]


def main() -> None:
    """Run all and report."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results: dict[str, Measured] = {}
    measures: dict[str, Callable[[Path], Measured]] = {
        "packed_text": packed_text,
        "packed_vlm": packed_vlm,
        "cached_edit": partial(cached_edit, vae_width=VAE_WIDTH),
        "cached_edit_narrow": partial(cached_edit, vae_width=NARROW_VAE_WIDTH),
        "cold_start_s": cold_start,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in measures.items():
            (Path(folder) / name).mkdir()
            results[name] = measure(Path(folder) / name) | {"target": TARGETS.get(name)}
            print(line(name, results[name]), flush=True)
    document = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "repeats": REPEATS,
        "results": results,
    }
    path = Path(os.environ.get("BENCH_JSON") or "build/bench-trainer.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written to {path}")


def line(name: str, result: Measured) -> str:
    """One result for people."""
    if name == "cold_start_s":
        return f"cold start to the first step: {result['seconds']:.1f} s (target: at most {result['target']:.0f})"
    target = "" if result["target"] is None else f"; target {result['target']:.1f} x"
    return (
        f"{result['what']}: {result['ratio']:.2f} x ({result['ours_per_s']:.2f} against {result['theirs_per_s']:.2f} "
        f"samples/s{target})"
    )


def alternating(ours: Callable[[], int], theirs: Callable[[], int]) -> Measured:
    """Each returns how many samples it trained; medians of samples per second."""
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for repeat in range(REPEATS + 1):
        for name, train in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            samples = train()
            if repeat > 0:  # the first pair warms up
                rates[name].append(samples / (time.perf_counter() - started))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "ours_per_s": medians["ours"],
        "theirs_per_s": medians["theirs"],
        "ratio": medians["ours"] / medians["theirs"],
        "ratios": [mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True)],
    }


# ------------------------------------------------------------------- text


def packed_text(folder: Path) -> Measured:
    """Questions and answers of mixed lengths."""
    checkpoint = tiny_text("llama", folder / "checkpoint", hidden=64, chat_template=CHATML)
    run = text_run(folder / "run", checkpoint, "textGeneration", {"seqLength": TEXT_LENGTH})
    source = random.Random(SEED)
    rows = [{"question": words(source, 30, 300), "answer": words(source, 100, TEXT_LENGTH - 400)} for _ in range(ROWS)]
    write_jsonl(run.data / "train.jsonl", rows)
    prompts = [{"prompt": f"<user>{row['question']}<assistant>", "completion": row["answer"]} for row in rows]
    with_trl = trl_trainer(checkpoint, folder, prompts, TEXT_LENGTH)
    found = alternating(whole_epoch(load(run)), with_trl)
    return {
        "what": "packed text over TRL's padded batches",
        **found,
        **waste([len(p["prompt"]) + len(p["completion"]) for p in prompts]),
    }


CHATML: Final = (
    "{%- for message in messages -%}{{- '<' + message.role + '>' + message.content -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)
"""No end of a turn, so that both trainers learn the same tokens: TRL ends a text with the end token itself."""


def words(source: random.Random, median: int, most: int) -> str:
    """Text of a log-normal length in bytes, which are tokens here."""
    length = min(most, max(4, round(source.lognormvariate(0.0, SPREAD) * median)))
    return "".join(source.choice("abcdefgh ") for _ in range(length - 1)) + "."


def text_run(root: Path, checkpoint: Path, kind: str, recipe: dict[str, Any]) -> TrainerRun:
    root.mkdir()
    columns = {"questionColumn": "question", "answerColumn": "answer"}
    numbers = {"batchSize": BATCH, "loraRank": RANK, "loraAlpha": RANK, "learningRate": RATE, "seed": SEED, "epochs": 1}
    return TrainerRun(root, checkpoint, recipe={**columns, **numbers, **recipe}, kind=kind)


def whole_epoch(loaded: Loaded) -> Callable[[], int]:
    """The trainer's own loop over all rows once, reading and tokenising them on the way."""

    def train() -> int:
        rows = len(loaded.trainee.rows)
        schedule = EpochSchedule(SEED, rows, loaded.settings.per_step, 1)
        loop = loop_of(loaded.trainee, schedule, loaded.settings, loaded.advanced).loop
        loop.run(lambda _: None)
        return sum(record.samples for record in loop.records())

    return train


def trl_trainer(checkpoint: Path, folder: Path, rows: list[dict[str, Any]], length: int) -> Callable[[], int]:
    """SFTTrainer over all rows once; tokenised beforehand for text, as it does by itself."""
    import datasets
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    options = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_length=None if "images" in rows[0] else length,
        completion_only_loss=True,
        gradient_checkpointing=False,
        seed=SEED,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=0,
        model_init_kwargs={"dtype": torch.float32},
    )
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TRL_MODULES, task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        str(checkpoint), args=options, train_dataset=datasets.Dataset.from_list(rows), peft_config=lora
    )
    trainer.remove_callback(PrinterCallback)

    def train() -> int:
        trainer.train()
        return len(rows)

    return train


def waste(lengths: list[int]) -> Measured:
    """How much of padded batches is padding, in the order of the file."""
    padded = sum(BATCH * max(lengths[at : at + BATCH]) for at in range(0, len(lengths), BATCH))
    return {"rows": len(lengths), "mean_tokens": statistics.mean(lengths), "padding_share": 1 - sum(lengths) / padded}


# -------------------------------------------------------------------- VLM


def packed_vlm(folder: Path) -> Measured:
    """One picture of mixed size, a question and an answer."""
    size = TinySize(hidden=64, intermediate=128, head_dim=16, max_pixels=256 * 1024)
    checkpoint = make_qwen3_vl(folder / "checkpoint", size)
    run = text_run(folder / "run", checkpoint, "imageToText", {"imageColumns": ["image"], "seqLength": IMAGE_LENGTH})
    (run.data / "images").mkdir()
    source, rows, theirs = random.Random(SEED), [], []
    for number in range(ROWS):
        sides = (32 * source.randint(2, 12), 32 * source.randint(2, 12))
        picture(number, sides).save(run.data / "images" / f"{number}.png")
        row = {"question": words(source, 40, 200), "answer": words(source, 80, 500), "image": f"images/{number}.png"}
        rows.append(row)
        theirs.append(
            {
                "images": [Image.open(run.data / row["image"]).convert("RGB")],
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
        )
    write_jsonl(run.data / "train.jsonl", rows)
    with_trl = trl_trainer(checkpoint, folder, theirs, IMAGE_LENGTH)
    loaded = load(run)
    found = alternating(whole_epoch(loaded), with_trl)
    return {"what": "packed VLM over TRL's padded batches", **found, **waste(loaded.trainee._reader.plan.lengths)}


# ------------------------------------------------------------------- edit


def cached_edit(folder: Path, vae_width: int) -> Measured:
    """One loop with its caches, one whose controls go through the encoders at every step."""
    checkpoint = tiny_diffusion.make("qwen_image_edit_plus", folder / "checkpoint", vae_width=vae_width)

    def loaded(name: str) -> Loaded:
        (folder / name).mkdir()
        run = TrainerRun(folder / name, checkpoint, kind="multiImageEditing", recipe=EDIT, advanced=EDIT_AREAS)
        write_edits(run.data)
        return load(run)

    cached, encoding = loaded("cached"), loaded("encoding")
    conditions: Conditions = encoding.trainee._conditions
    forgetful = Conditions(conditions._denoiser, NoCache(folder / "none"))
    conditions.controls = forgetful.controls  # type: ignore[method-assign]
    conditions.text = forgetful.text
    found = alternating(edit_steps(cached), edit_steps(encoding))
    what = f"edit training with caches over encoding controls at every step (autoencoder of width {vae_width})"
    return {"what": what, **found}


class NoCache(TensorCache):
    """Remembers nothing."""

    def get(self, _key: str) -> None:
        """Never there."""

    def put(self, _key: str, _tensors: dict[str, torch.Tensor]) -> None:
        """Forgotten."""


EDIT: Final = {
    "captionColumn": "caption", "imageColumn": "image", "controlImageColumns": ["first", "second"], "batchSize": 1,
    "steps": EDIT_STEPS, "loraRank": RANK, "loraAlpha": RANK, "learningRate": RATE, "seed": SEED,
}  # fmt: skip
EDIT_AREAS: Final = {"targetArea": 128 * 128, "controlArea": 128 * 128, "conditionArea": 84 * 84}


def write_edits(data: Path) -> None:
    """Rows of a picture to learn and two to edit."""
    (data / "images").mkdir()
    rows = []
    for number in range(EDIT_ROWS):
        row = {"caption": f"paint number {number} red"}
        for place, column in enumerate(("image", "first", "second")):
            picture(3 * number + place, (128, 128)).save(data / "images" / f"{column}{number}.png")
            row[column] = f"images/{column}{number}.png"
        rows.append(row)
    write_jsonl(data / "train.jsonl", rows)


def edit_steps(loaded: Loaded) -> Callable[[], int]:
    """Some optimizer steps of the trainer's loop."""

    def train() -> int:
        schedule = StepSchedule(SEED, EDIT_ROWS, loaded.settings.per_step, EDIT_STEPS)
        loop = loop_of(loaded.trainee, schedule, loaded.settings, loaded.advanced).loop
        loop.run(lambda _: None)
        return sum(record.samples for record in loop.records())

    return train


# ------------------------------------------------------------- cold start


def cold_start(folder: Path) -> Measured:
    """The process of a pod, Python's start and all imports included."""
    seconds = [first_step(folder / str(repeat)) for repeat in range(REPEATS + 1)][1:]  # the first fills disk caches
    return {"seconds": statistics.median(seconds), "all": seconds}


def first_step(root: Path) -> float:
    """Seconds until the line of step 1."""
    root.mkdir()
    run = TrainerRun(root, tiny_qwen3_vl(root / "checkpoint"))
    write_rows(run.data)
    started = time.perf_counter()
    process = run.start(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        for text in process.stdout:
            event = json.loads(text)
            if event["event"] == "progress" and event["step"] == 1:
                return time.perf_counter() - started
    finally:
        process.kill()
        process.communicate()
    raise RuntimeError("the trainer ended before its first step")


if __name__ == "__main__":
    main()
