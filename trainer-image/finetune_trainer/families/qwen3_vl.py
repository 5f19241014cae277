"""Qwen3-VL: images and a question in, an answer out.

LoRA goes on the language model's projections under the key names that vLLM maps; the vision tower and the merger stay
frozen. The loss is the cross-entropy summed over the answer tokens; the loop divides by their number over the whole
optimizer step. The vision processor is pinned to the torchvision backend, the one that servers use: the PIL backend
resizes differently (loss 8e-4 off).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from finetune_operator.api.recipes import ImageToText, Recipe
from finetune_trainer.config import Advanced
from finetune_trainer.data.needs import Needs
from finetune_trainer.errors import ConfigError
from finetune_trainer.families.base import Batch, Inputs
from finetune_trainer.models import check_weights
from finetune_trainer.settings import parameter

if TYPE_CHECKING:
    import torch

    from finetune_trainer.data.store import Sample
    from finetune_trainer.families.vlm_rows import EncodedRow
    from finetune_trainer.order import Draw

LORA_TARGETS: Final = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
RESERVED: Final = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")


class Qwen3VL:
    """The light half."""

    kinds = frozenset({"qwen3_vl"})
    recipes = frozenset({"imageToText"})

    def needs(self, recipe: Recipe, advanced: Advanced) -> Needs:
        """Question and answer are text; one image in any of the image columns."""
        recipe = cast(ImageToText, recipe)
        return Needs(
            text=(recipe.question_column, recipe.answer_column),
            images=tuple(recipe.image_columns),
            reserved=RESERVED,
            max_pixels=advanced.max_image_pixels,
        )

    def load(self, inputs: Inputs) -> Qwen3VLTrainee:
        """Processor, rows, model, adapter; in this order, so that errors come before the expensive part."""
        return Qwen3VLTrainee(inputs)


class Qwen3VLTrainee:
    """The heavy half."""

    def __init__(self, inputs: Inputs) -> None:
        from finetune_trainer.families.vlm_rows import RowEncoder, plan_rows

        self._inputs = inputs
        self._recipe = cast(ImageToText, inputs.recipe)
        self._columns = tuple(self._recipe.image_columns)
        self._settings = inputs.settings
        self._noise_alpha = float(parameter(self._recipe, "neftune_noise_alpha") or 0)
        self._processor = _load_processor(inputs)
        self._encoder = RowEncoder(
            self._processor,
            parameter(self._recipe, "seq_length"),
            enable_thinking=bool(parameter(self._recipe, "enable_thinking")),
            downscale=inputs.advanced.too_long == "downscale",
        )
        self.rows: Sequence[int]
        self.notes: list[str]
        self.rows, self.notes = plan_rows(self._encoder, inputs, self._texts, self._columns)
        check_weights(inputs.folder, inputs.base_model)
        self._base = _load_base(inputs.folder, inputs.base_model)
        self._model = self._choose_weights()
        self._embedding_noise: torch.Tensor | None = None
        self._base.get_input_embeddings().register_forward_hook(self._add_noise)
        self._base.train()

    def parameters(self) -> list[torch.nn.Parameter]:
        """LoRA matrices, or all weights of the language model."""
        return [weight for weight in self._model.parameters() if weight.requires_grad]

    def split(self, draws: Sequence[Draw], size: int, *, singly: bool = False) -> list[Sequence[Draw]]:
        """Rows are padded, so any of them fit together."""
        size = 1 if singly else size
        return [draws[at : at + size] for at in range(0, len(draws), size)]

    def prepare(self, draws: Sequence[Draw], *, noise: bool = True) -> Batch:
        """Right-padded rows."""
        import torch

        rows = [self._encode(draw) for draw in draws]
        longest = max(len(row.input_ids) for row in rows)
        pad = self._processor.tokenizer.pad_token_id or 0
        tensors = {
            "input_ids": _padded([row.input_ids for row in rows], longest, pad),
            "labels": _padded([row.labels for row in rows], longest, -100),
            "mm_token_type_ids": _padded([row.kinds for row in rows], longest, 0),
            "attention_mask": _padded([torch.ones_like(row.input_ids) for row in rows], longest, 0),
        }
        pixels = [row.pixels for row in rows if row.pixels is not None]
        if pixels:
            tensors["pixel_values"] = torch.cat(pixels)
            tensors["image_grid_thw"] = torch.cat([row.grid for row in rows if row.grid is not None])
        if noise and self._noise_alpha > 0:
            tensors["noise"] = self._noise(draws, rows, longest)
        weight = int((tensors["labels"] != -100).sum())
        return Batch(tensors, weight, len(rows), sum(len(row.input_ids) for row in rows))

    def train(self, training: bool) -> None:
        """Dropout on or off (in the adapter; Qwen3-VL itself has none)."""
        self._base.train(training)

    def loss_sum(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over the answer tokens; the head runs on those positions only."""
        from torch.nn.functional import cross_entropy

        logits, labels = self._answer_logits(batch)
        return cross_entropy(logits.float(), labels, reduction="sum")

    def outputs(self, batch: Batch) -> torch.Tensor:
        """Logits of the answer tokens, (tokens, vocabulary) float32 on the CPU."""
        return self._answer_logits(batch)[0].float().cpu()

    def recompute(self) -> None:
        """Activation checkpointing, language model and vision tower."""
        self._base.activation_checkpointing_enable({"use_reentrant": False})

    def save(self, folder: Path) -> None:
        """The adapter, or all trained weights."""
        from finetune_trainer import full, lora

        (lora.save if self._settings.use_lora else full.save)(self._model, folder)

    def restore(self, folder: Path) -> None:
        """Exactly what `save` wrote."""
        from finetune_trainer import full, lora

        (lora.restore if self._settings.use_lora else full.restore)(self._model, folder)

    def export(self, folder: Path) -> None:
        """A PEFT adapter, or a whole checkpoint with its processor."""
        from finetune_trainer import lora

        if self._settings.use_lora:
            lora.save(self._model, folder)
        else:
            self._base.save_pretrained(folder)
            self._processor.save_pretrained(folder)

    def reload_exported(self, folder: Path, batch: Batch) -> torch.Tensor:
        """`outputs` of what was exported."""
        from finetune_trainer import lora

        if self._settings.use_lora:
            return lora.with_reloaded(self._model, folder, lambda: self.outputs(batch))
        trained = self._base
        try:
            self._base = _load_base(folder, "just exported")
            return self.outputs(batch)
        finally:
            self._base = trained

    def _choose_weights(self) -> Any:
        import torch

        from finetune_trainer import full, lora

        if self._settings.use_lora:
            return lora.attach(
                self._base, LORA_TARGETS, self._settings, self._inputs.advanced.lora_dropout, self._inputs.base_model
            )
        self._base.requires_grad_(False)
        full.require_memory(self._base, [self._base.model.language_model, self._base.lm_head])
        for part in (self._base.model.language_model, self._base.lm_head):
            part.to(torch.float32).requires_grad_(True)  # bf16 weights would round small updates away
        return self._base

    def _texts(self, sample: Sample) -> tuple[str, str]:
        return sample.text[self._recipe.question_column], sample.text[self._recipe.answer_column]

    def _encode(self, draw: Draw) -> EncodedRow:
        sample = self._inputs.store[self.rows[draw.row]]
        return self._encoder.encode(*self._texts(sample), self._inputs.store.load_images(sample, self._columns))

    def _answer_logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        device = self._base.device
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.tensors.items()}
        labels = tensors.pop("labels")[:, 1:]
        self._embedding_noise = tensors.pop("noise", None)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            hidden = self._base.model(**tensors, use_cache=False).last_hidden_state[:, :-1]
            answered = labels != -100
            return self._base.lm_head(hidden[answered]), labels[answered]

    def _noise(self, draws: Sequence[Draw], rows: list[EncodedRow], longest: int) -> torch.Tensor:
        # NEFTune (arXiv 2310.05914): uniform in +-alpha / sqrt(tokens * width), per row, so independent of the padding.
        import torch

        from finetune_trainer.order import sample_generator

        width = self._base.get_input_embeddings().weight.shape[1]
        noise = torch.zeros(len(rows), longest, width)
        for place, (draw, row) in enumerate(zip(draws, rows, strict=True)):
            tokens = len(row.input_ids)
            uniform = torch.rand(tokens, width, generator=sample_generator(self._settings.seed, draw.step, draw.index))
            noise[place, :tokens] = (2 * uniform - 1) * self._noise_alpha / (tokens * width) ** 0.5
        return noise

    def _add_noise(self, _module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output if self._embedding_noise is None else output + self._embedding_noise.to(output.dtype)


def _padded(rows: list[torch.Tensor], length: int, value: int) -> torch.Tensor:
    from torch.nn.utils.rnn import pad_sequence

    padded = pad_sequence(rows, batch_first=True, padding_value=value)
    assert padded.shape[1] == length
    return padded


def _load_processor(inputs: Inputs) -> Any:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    try:
        processor = Qwen3VLProcessor.from_pretrained(inputs.folder, local_files_only=True)
    except Exception as error:  # whatever a broken folder makes of the libraries
        raise ConfigError(f"the processor of the base model {inputs.base_model} cannot be loaded: {error}") from error
    if not isinstance(processor, Qwen3VLProcessor) or not isinstance(processor.image_processor, Qwen2VLImageProcessor):
        raise ConfigError(f"the base model {inputs.base_model} has no Qwen3-VL processor")
    if not processor.chat_template:
        raise ConfigError(f"the base model {inputs.base_model} has no chat template")
    return processor


def _load_base(folder: Path, name: str) -> Any:
    import torch
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, info = Qwen3VLForConditionalGeneration.from_pretrained(
            folder,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
            device_map={"": device},
            local_files_only=True,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a broken folder makes of the libraries
        raise ConfigError(f"the weights of the base model {name} cannot be loaded: {error}") from error
    lost = [*info["missing_keys"], *info["mismatched_keys"]]
    if lost:
        raise ConfigError(f"the base model {name} lacks {len(lost)} weights, for example {lost[0]}")
    return model
