"""The image and video families without torch: what each trains, and which columns it needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from finetune_operator.api.advanced import Advanced
from finetune_operator.api.recipes import ImageEditing, ImageRecipe, MultiImageEditing, Recipe
from finetune_trainer.contract import Inputs
from finetune_trainer.data.needs import Needs
from finetune_trainer.settings import parameter

if TYPE_CHECKING:
    from finetune_trainer.diffusion.trainee import DiffusionTrainee

QWEN_RESERVED: Final = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|im_start|>",
    "<|im_end|>",
)
EDITING: Final = frozenset({"imageEditing", "multiImageEditing"})
ONE_IMAGE: Final = frozenset({"imageEditing"})


@dataclass
class Diffusion:
    """A family of image or video models.

    module, denoiser: module below `finetune_trainer.families`, and in it the denoiser class, or a function that selects
    one. reserved: tokens that no caption may contain. clips: whether it trains on several frames.
    """

    kinds: frozenset[str]
    recipes: frozenset[str]
    module: str
    denoiser: str
    reserved: tuple[str, ...] = ()
    clips: bool = False

    def needs(self, recipe: Recipe, advanced: Advanced) -> Needs:
        """A caption, an image, and every image to edit."""
        recipe = cast(ImageRecipe, recipe)
        return Needs(
            text=(recipe.caption_column,),
            images=(recipe.image_column, *control_columns(recipe)),
            reserved=self.reserved,
            image_in_every_column=True,
            clips=(parameter(recipe, "num_frames") or 1) if self.clips else 0,
            max_pixels=advanced.max_image_pixels,
        )

    def load(self, inputs: Inputs) -> DiffusionTrainee:
        """Encode and cache the dataset, free the encoders, load the denoiser, and attach the adapter."""
        from finetune_trainer.diffusion.trainee import DiffusionTrainee

        kind = getattr(import_module(f"finetune_trainer.families.{self.module}"), self.denoiser)
        return DiffusionTrainee(inputs, kind, control_columns(cast(ImageRecipe, inputs.recipe)))


def control_columns(recipe: ImageRecipe) -> tuple[str, ...]:
    """The columns of images to edit, in the order in which the instruction refers to them."""
    if isinstance(recipe, ImageEditing):
        return (recipe.control_image_column,)
    if isinstance(recipe, MultiImageEditing):
        return tuple(recipe.control_image_columns)
    return ()


WAN: Final = frozenset({"WanPipeline", "WanImageToVideoPipeline"})
GENERATION: Final = frozenset({"imageGeneration"})
DIFFUSION: Final = (
    Diffusion(frozenset({"QwenImageEditPlusPipeline"}), EDITING, "qwen_image_edit", "QwenImageEditPlus", QWEN_RESERVED),
    Diffusion(frozenset({"QwenImageEditPipeline"}), ONE_IMAGE, "qwen_image_edit", "QwenImageEdit", QWEN_RESERVED),
    Diffusion(frozenset({"QwenImagePipeline"}), GENERATION, "qwen_image", "QwenImage", QWEN_RESERVED),
    Diffusion(frozenset({"FluxPipeline"}), GENERATION, "flux", "Flux"),
    Diffusion(frozenset({"FluxKontextPipeline"}), ONE_IMAGE, "flux", "FluxKontext"),
    Diffusion(frozenset({"StableDiffusionXLPipeline"}), GENERATION, "stable_diffusion", "StableDiffusionXL"),
    Diffusion(frozenset({"StableDiffusionPipeline"}), GENERATION, "stable_diffusion", "StableDiffusion"),
    Diffusion(frozenset({"ZImagePipeline"}), GENERATION, "z_image", "ZImage", QWEN_RESERVED),
    Diffusion(frozenset({"Flux2Pipeline"}), GENERATION, "flux2", "Flux2"),
    Diffusion(frozenset({"Flux2KleinPipeline"}), GENERATION, "flux2", "Flux2Klein", QWEN_RESERVED),
    Diffusion(frozenset({"WanPipeline"}), frozenset({"textToVideo"}), "wan", "Wan", clips=True),
    Diffusion(WAN, frozenset({"imageToVideo"}), "wan", "image_to_video", clips=True),
)
