"""The trainee of every language family: packed passes, the loss on answer tokens, NEFTune, LoRA or all weights.

The loss is the cross-entropy summed over the answer tokens; the loop divides by their number in the whole optimizer
step. The language-model head is computed at those positions only, chunk by chunk (`answer_loss.py`). A family says how
a row is read, and which modules get LoRA matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from finetune_trainer.contract import Batch, Inputs
from finetune_trainer.errors import ConfigError
from finetune_trainer.language.answer_loss import some_logits, summed_cross_entropy
from finetune_trainer.language.rows import Plan
from finetune_trainer.models import check_weights
from finetune_trainer.schedule import Draw, sample_generator
from finetune_trainer.settings import parameter
from finetune_trainer.training import full_finetune, lora, packing, row_attention


class Reader(Protocol):
    """How a family reads a sample."""

    plan: Plan

    def row(self, index: int, model: Any) -> packing.Row:
        """Sample `index` of the store as tokens, labels and positions; pure. model: the loaded model."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer or processor, beside a whole checkpoint."""


@dataclass(frozen=True)
class Language:
    """What distinguishes the model of a family.

    model_class: transformers' class with a head. lora_targets: regular expression for the modules that get LoRA
    matrices. options: further arguments of `from_pretrained`. unpacking: the quantization config that dequantizes 4-bit
    weights of the base model. adjust: makes a loaded model faster, and changes numbers only by rounding. on_host:
    removes from the tensors of a pass those that the model reads on the CPU, and returns them; reading them on the
    device would wait for everything that it still has to do.
    """

    model_class: Any
    lora_targets: str
    options: dict[str, Any] = field(default_factory=dict)
    unpacking: Any = None
    adjust: Callable[[Any], None] | None = None
    on_host: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None


class LanguageTrainee:
    """The trainee of every family whose `model_type` is on the allow-list of `packing`."""

    def __init__(self, inputs: Inputs, language: Language, reader: Reader) -> None:
        self._inputs, self._settings, self._language, self._reader = inputs, inputs.settings, language, reader
        self.rows: Sequence[int] = reader.plan.rows
        self.notes = list(reader.plan.notes)
        self._seq_length: int = parameter(inputs.recipe, "seq_length")
        self._noise_alpha = float(parameter(inputs.recipe, "neftune_noise_alpha") or 0)
        check_weights(inputs.folder, inputs.base_model)
        self._base = self._load(inputs.folder, inputs.base_model)
        self._isolation = packing.ROW_ISOLATION[self._base.config.model_type]
        self._by_row = self._attend_by_row(self._base)
        self._model = self._choose_weights()
        self._embedding_noise: torch.Tensor | None = None
        self._base.get_input_embeddings().register_forward_hook(self._add_noise)
        self._base.train()

    def parameters(self) -> list[torch.nn.Parameter]:
        """The LoRA matrices, or all weights."""
        return [weight for weight in self._model.parameters() if weight.requires_grad]

    def split(self, draws: Sequence[Draw], size: int, *, singly: bool = False) -> list[Sequence[Draw]]:
        """Packed passes of at most seqLength tokens; `size` has no effect."""
        del size
        if singly:
            return [[draw] for draw in draws]
        passes = packing.plan([self._reader.plan.lengths[draw.row] for draw in draws], self._seq_length)
        return [[draws[place] for place in places] for places in passes]

    def prepare(self, draws: Sequence[Draw], *, noise: bool = True) -> Batch:
        """One packed pass of the samples."""
        rows = [self._reader.row(self.rows[draw.row], self._base) for draw in draws]
        tensors = packing.pack(rows)
        if noise and self._noise_alpha > 0:
            tensors["noise"] = torch.cat([self._noise(*pair) for pair in zip(draws, rows, strict=True)])[None]
        return Batch(tensors, len(tensors["targets"]), len(rows), sum(map(len, rows)))

    def train(self, training: bool) -> None:
        """Switch the dropout of the adapter; the models themselves have none."""
        self._base.train(training)

    def loss_sum(self, batch: Batch) -> torch.Tensor:
        """The cross-entropy, summed over the answer tokens."""
        with self._autocast():
            hidden, targets = self._answers(batch)
            return summed_cross_entropy(self._base.lm_head, hidden, targets)

    def outputs(self, batch: Batch) -> torch.Tensor:
        """The logits of answer tokens, of some if there are many: (tokens, vocabulary), float32, on the CPU."""
        with self._autocast():
            return some_logits(self._base.lm_head, self._answers(batch)[0]).cpu()

    def parts(self) -> dict[str, torch.nn.Module]:
        """The model; nothing else is loaded."""
        return {"model": self._model}

    def save(self, folder: Path) -> None:
        """Write the adapter, or all trained weights."""
        (lora.save if self._settings.use_lora else full_finetune.save)(self._model, folder)

    def restore(self, folder: Path) -> None:
        """Restore exactly what `save` wrote."""
        (lora.restore if self._settings.use_lora else full_finetune.restore)(self._model, folder)

    def export(self, folder: Path) -> None:
        """Write a PEFT adapter, or a whole checkpoint with its tokenizer or processor."""
        if self._settings.use_lora:
            lora.save(self._model, folder)
        else:
            # transformers 5.23 would give dequantized MXFP4 weights the names of quantized ones.
            self._base.save_pretrained(folder, save_original_format=self._language.unpacking is None)
            self._reader.save(folder)

    def reload_exported(self, folder: Path, batch: Batch) -> torch.Tensor:
        """`outputs` of the exported result."""
        if self._settings.use_lora:
            return lora.with_reloaded(self._model, folder, lambda: self.outputs(batch))
        trained = self._base
        try:
            self._base = self._load(folder, "just exported", exported=True)
            self._base.eval()
            self._attend_by_row(self._base)
            return self.outputs(batch)
        finally:
            self._base = trained

    def _choose_weights(self) -> Any:
        if self._settings.use_lora:
            targets, dropout = self._language.lora_targets, self._inputs.advanced.lora_dropout
            return lora.attach(self._base, targets, self._settings, dropout, *self._inputs.pinned)
        full_finetune.require_memory(self._base, [self._base])
        self._base.to(torch.float32).requires_grad_(True)  # in bf16 small updates would be rounded away
        return self._base

    def _autocast(self) -> torch.autocast:
        device = self._base.device
        return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def _answers(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The hidden states (answers, width) that predict the answer tokens, and these tokens."""
        device, given = self._base.device, dict(batch.tensors)
        options: dict[str, Any] = self._language.on_host(given) if self._language.on_host else {}
        if self._by_row:
            options["row_lengths"] = packing.row_lengths(given["position_ids"])
        tensors = {name: tensor.to(device, non_blocking=True) for name, tensor in given.items()}
        predicting, targets = tensors.pop("predicting"), tensors.pop("targets")
        self._embedding_noise = tensors.pop("noise", None)
        mask = None
        if self._isolation == "masks":
            mask = packing.explicit_masks(self._base.config, tensors["position_ids"], self._base.dtype)
        # Given a mask or a cache, transformers would not derive the mask from positions that start again at 0.
        hidden = self._base.model(**tensors, **options, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden[0, predicting], targets

    def _attend_by_row(self, base: Any) -> bool:
        """Enable attention by row if it is equivalent to the mask; compiled blocks would recompile for every length."""
        suitable = self._isolation == "positions" and row_attention.supports(base.config.get_text_config())
        if suitable and not self._inputs.advanced.compile:
            row_attention.enable(base)
            return True
        return False

    def _noise(self, draw: Draw, row: packing.Row) -> torch.Tensor:
        # NEFTune (arXiv 2310.05914): uniform in +-alpha / sqrt(tokens * width), separately for each row.
        width = self._base.get_input_embeddings().weight.shape[1]
        generator = sample_generator(self._settings.seed, draw.step, draw.index)
        uniform = torch.rand(len(row), width, generator=generator)
        return (2 * uniform - 1) * self._noise_alpha / (len(row) * width) ** 0.5

    def _add_noise(self, _module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output if self._embedding_noise is None else output + self._embedding_noise.to(output.dtype)

    def _load(self, folder: Path, name: str, *, exported: bool = False) -> Any:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        unpacking = None if exported else self._language.unpacking
        try:
            model, info = self._language.model_class.from_pretrained(
                folder,
                dtype=torch.bfloat16 if device.type == "cuda" and not exported else torch.float32,
                device_map={"": device},
                local_files_only=True,
                output_loading_info=True,
                **self._language.options,
                **({} if unpacking is None else {"quantization_config": unpacking}),
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the libraries raise anything on a broken folder
            raise ConfigError(f"the weights of the base model {name} cannot be loaded: {error}") from error
        lost = [*info["missing_keys"], *info["mismatched_keys"]]
        if lost:
            raise ConfigError(f"the base model {name} lacks {len(lost)} weights, for example {lost[0]}")
        if self._language.adjust is not None:
            self._language.adjust(model)
        return model
