"""Qwen3-VL: images and a question in, an answer out.

The projections of the language model get LoRA matrices, under the key names that vLLM maps; the vision tower and the
merger are frozen then, and are trained only where all weights are. The image processor is pinned to the torchvision
backend, which servers use: the PIL backend resizes differently (the loss differs by 8e-4).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.recipes import ImageToText, Recipe
from finetune_trainer.contract import Inputs, Trainee
from finetune_trainer.data.needs import Needs
from finetune_trainer.errors import ConfigError
from finetune_trainer.settings import parameter

if TYPE_CHECKING:
    import torch

    from finetune_trainer.data.store import Sample
    from finetune_trainer.language.rows import Fit
    from finetune_trainer.training.packing import Row

LORA_TARGETS: Final = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
RESERVED: Final = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")


class Qwen3VL:
    """The family of Qwen3-VL models."""

    kinds = frozenset({"qwen3_vl"})
    recipes = frozenset({"imageToText"})

    def needs(self, recipe: Recipe, advanced: Advanced) -> Needs:
        """Question and answer are text; a row has an image in at least one of the image columns."""
        recipe = cast(ImageToText, recipe)
        return Needs(
            text=(recipe.question_column, recipe.answer_column),
            images=tuple(recipe.image_columns),
            reserved=RESERVED,
            max_pixels=advanced.max_image_pixels,
        )

    def load(self, inputs: Inputs) -> Trainee:
        """Load processor, rows, model and adapter, in this order, so that errors precede the expensive part."""
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

        from finetune_trainer.language.trainee import Language, LanguageTrainee

        language = Language(
            Qwen3VLForConditionalGeneration, LORA_TARGETS, adjust=multiply_patches, on_host=layout_on_host
        )
        return LanguageTrainee(inputs, language, ImageTextReader(inputs))


def multiply_patches(model: Any) -> None:
    """Replace the convolution of the patches by a matrix product: torch's Conv3d is 10 to 20 times slower on a GPU.

    See pytorch#174051. The weights stay where they are; the result differs by the order of summation (2e-6).
    """
    from torch.nn.functional import linear

    embedding = model.model.visual.patch_embed
    convolution = embedding.proj

    def forward(patches: torch.Tensor) -> torch.Tensor:
        matrix = convolution.weight.flatten(1)
        return linear(patches.view(-1, matrix.shape[1]).to(matrix.dtype), matrix, convolution.bias)

    embedding.forward = forward


def layout_on_host(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove the grids of the images, which every block of the vision tower reads three times, and return them."""
    from transformers.vision_utils import get_vision_cu_seqlens

    grid = tensors.pop("image_grid_thw", None)
    return {} if grid is None else {"image_grid_thw": grid, "image_cu_seqlens": get_vision_cu_seqlens(grid)}


def places_of_patches(grid: torch.Tensor, visual: Any) -> dict[str, torch.Tensor]:
    """What the vision tower would compute from the grids, waiting for the device. grid: (images, 3). By patch."""
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

    merge = visual.config.spatial_merge_size
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners, merge
    )
    places = get_vision_position_ids(grid, merge)
    return {"image_interp_indices": indices, "image_interp_weights": weights, "image_position_ids": places}


class ImageTextReader:
    """Reads rows of images, a question and an answer."""

    def __init__(self, inputs: Inputs) -> None:
        from finetune_trainer.language.rows import THINKING_NOTE, plan_rows
        from finetune_trainer.language.vlm_rows import RowEncoder

        self._inputs, self._recipe = inputs, cast(ImageToText, inputs.recipe)
        self._columns = tuple(self._recipe.image_columns)
        self._processor = _load_processor(inputs)
        self._encoder = RowEncoder(
            self._processor,
            parameter(self._recipe, "seq_length"),
            enable_thinking=bool(parameter(self._recipe, "enable_thinking")),
            downscale=inputs.advanced.too_long == "downscale",
        )
        self.plan = plan_rows(inputs, self._fit)
        if self._encoder.enable_thinking and not self._encoder.thinking_matters():
            self.plan.notes.insert(0, THINKING_NOTE)

    def row(self, index: int, model: Any) -> Row:
        """Tokens, labels, pixels, and positions on 4 axes: the index, then time, height and width (M-RoPE)."""
        import torch

        from finetune_trainer.training.packing import Row

        sample = self._inputs.store[index]
        encoded = self._encoder.encode(*self._texts(sample), self._inputs.store.load_images(sample, self._columns))
        spatial, _ = model.model.get_rope_index(encoded.input_ids[None], encoded.kinds[None], encoded.grid)
        place = torch.arange(len(encoded.input_ids))[None]
        extras = {}
        if encoded.pixels is not None and encoded.grid is not None:
            places = places_of_patches(encoded.grid, model.model.visual)
            extras = {"pixel_values": encoded.pixels, "image_grid_thw": encoded.grid, **places}
        return Row(encoded.input_ids, encoded.labels, torch.cat([place, spatial[:, 0]]), extras)

    def save(self, folder: Path) -> None:
        """Write the processor."""
        self._processor.save_pretrained(folder)

    def _fit(self, sample: Sample) -> Fit:
        return self._encoder.fit(*self._texts(sample), sample.sizes(self._columns))

    def _texts(self, sample: Sample) -> tuple[str, str]:
        return sample.text[self._recipe.question_column], sample.text[self._recipe.answer_column]


def _load_processor(inputs: Inputs) -> Any:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    try:
        processor = Qwen3VLProcessor.from_pretrained(inputs.folder, local_files_only=True)
    except Exception as error:  # the libraries raise anything on a broken folder
        raise ConfigError(f"the processor of the base model {inputs.base_model} cannot be loaded: {error}") from error
    if not isinstance(processor, Qwen3VLProcessor) or not isinstance(processor.image_processor, Qwen2VLImageProcessor):
        raise ConfigError(f"the base model {inputs.base_model} does not have the processor of Qwen3-VL")
    if not processor.chat_template:
        raise ConfigError(f"the base model {inputs.base_model} has no chat template")
    return processor
