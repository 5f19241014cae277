"""Text in, text out: Llama 3, Qwen2.5, Qwen3 (also its mixtures of experts), Mistral and gpt-oss.

Both recipes are conversations: `textGeneration` is one question of the user and one answer of the assistant. Every
projection of the blocks gets LoRA matrices, under the key names that vLLM maps (`base_model.model.model.layers.N...`).
The experts of a mixture are fused parameters in transformers and separate modules in servers, so that no adapter of
them loads everywhere: in those models only the attention gets LoRA matrices, and a note says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.reasons import Reason
from finetune_operator.api.recipes import Recipe, TextChatMessages, TextGeneration
from finetune_trainer.contract import Inputs, Trainee
from finetune_trainer.data.needs import Needs
from finetune_trainer.errors import ConfigError
from finetune_trainer.models import read_json
from finetune_trainer.settings import parameter

if TYPE_CHECKING:
    from finetune_trainer.data.store import Sample
    from finetune_trainer.language.messages import Message
    from finetune_trainer.language.rows import Fit
    from finetune_trainer.training.packing import Row

ATTENTION: Final = r".*\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
ATTENTION_AND_MLP: Final = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
EXPERTS_NOTE: Final = (
    "LoRA adapts the attention only: the experts of this model are fused parameters, "
    "and no adapter of them loads everywhere"
)
UNPACKED_NOTE: Final = "the base model's experts are stored in 4 bits (MXFP4), and were dequantized for training"


@dataclass
class TextFamily:
    """A family of text models.

    kind: `model_type`. class_name: transformers' class in `models.<kind>.modeling_<kind>`. experts: whether it is a
    mixture of experts.
    """

    kind: str
    class_name: str
    experts: bool = False
    eager: bool = False
    """Attention with learned sinks, which only transformers' eager implementation supports without further packages."""

    recipes: frozenset[str] = frozenset({"textGeneration", "textChatMessages"})

    def __post_init__(self) -> None:
        self.kinds = frozenset({self.kind})

    def needs(self, recipe: Recipe, _advanced: Advanced) -> Needs:
        """Two columns of text, or one of messages."""
        if isinstance(recipe, TextChatMessages):
            return Needs(values=(recipe.messages_column,))
        recipe = cast(TextGeneration, recipe)
        return Needs(text=(recipe.question_column, recipe.answer_column))

    def load(self, inputs: Inputs) -> Trainee:
        """Load tokenizer, rows, model and adapter, in this order, so that errors precede the expensive part."""
        from finetune_trainer.language.trainee import Language, LanguageTrainee

        reader = TextReader(inputs)
        module = import_module(f"transformers.models.{self.kind}.modeling_{self.kind}")
        language = Language(
            getattr(module, self.class_name),
            ATTENTION if self.experts else ATTENTION_AND_MLP,
            {"attn_implementation": "eager"} if self.eager else {},
            _unpacking(inputs, reader.plan.notes),
        )
        if self.experts and inputs.settings.use_lora:
            reader.plan.notes.append(EXPERTS_NOTE)
        return LanguageTrainee(inputs, language, reader)


class TextReader:
    """Reads rows of a question and an answer, or of messages."""

    def __init__(self, inputs: Inputs) -> None:
        from finetune_trainer.language.chat_rows import ChatEncoder
        from finetune_trainer.language.rows import plan_rows

        self._inputs, self._recipe = inputs, inputs.recipe
        self._tokenizer = _load_tokenizer(inputs)
        self._encoder = ChatEncoder(
            self._tokenizer,
            parameter(self._recipe, "seq_length"),
            enable_thinking=bool(parameter(self._recipe, "enable_thinking")),
        )
        self.plan = plan_rows(inputs, self._fit)
        self.plan.notes[:0] = self._encoder.notes()

    def row(self, index: int, _model: Any) -> Row:
        """Tokens, labels, and positions from 0."""
        import torch

        from finetune_trainer.training.packing import Row

        input_ids, labels = self._encoder.encode(self._messages(self._inputs.store[index]))
        return Row(input_ids, labels, torch.arange(len(input_ids))[None])

    def save(self, folder: Path) -> None:
        """Write the tokenizer, with its template."""
        self._tokenizer.save_pretrained(folder)

    def _fit(self, sample: Sample) -> Fit:
        return self._encoder.fit(self._messages(sample))

    def _messages(self, sample: Sample) -> list[Message]:
        from finetune_trainer.language.messages import conversation

        if isinstance(self._recipe, TextChatMessages):
            return conversation(sample.values[self._recipe.messages_column])
        recipe = cast(TextGeneration, self._recipe)
        return [
            {"role": "user", "content": sample.text[recipe.question_column]},
            {"role": "assistant", "content": sample.text[recipe.answer_column]},
        ]


def _unpacking(inputs: Inputs, notes: list[str]) -> Any:
    quantization = read_json(inputs.folder / "config.json", inputs.base_model).get("quantization_config")
    if not quantization:
        return None
    method = quantization.get("quant_method")
    if method == "mxfp4":
        from transformers import Mxfp4Config

        notes.append(UNPACKED_NOTE)
        return Mxfp4Config(dequantize=True)
    raise ConfigError(
        f"the base model {inputs.base_model} is quantized ({method}), and cannot be trained: "
        "use the checkpoint in bf16",
        Reason.MODEL_NOT_SUPPORTED,
    )


def _load_tokenizer(inputs: Inputs) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(inputs.folder, local_files_only=True)
    except Exception as error:  # the libraries raise anything on a broken folder
        raise ConfigError(f"the tokenizer of the base model {inputs.base_model} cannot be loaded: {error}") from error


TEXT: Final = (
    TextFamily("llama", "LlamaForCausalLM"),
    TextFamily("mistral", "MistralForCausalLM"),
    TextFamily("qwen2", "Qwen2ForCausalLM"),
    TextFamily("qwen3", "Qwen3ForCausalLM"),
    TextFamily("qwen3_moe", "Qwen3MoeForCausalLM", experts=True),
    TextFamily("gpt_oss", "GptOssForCausalLM", experts=True, eager=True),
)
