"""What a recipe needs of its dataset. Pure."""

from __future__ import annotations

from finetune_operator.api.recipes import ImageEditing, ImageGeneration, MultiImageEditing, RecipeSpec
from finetune_operator.backends.datasets.needs import MAX_EXAMPLES, MAX_FILE_BYTES, Kind, Needs


def needs_of(
    recipe: RecipeSpec,
    formats: tuple[str, ...],
    *,
    max_examples: int = MAX_EXAMPLES,
    min_examples: int = 1,
    captions_optional: bool = False,
) -> Needs:
    """What the recipe's examples are. Raises ValueError for a recipe whose dataset no provider takes apart."""
    parameters = recipe.parameters
    if isinstance(parameters, ImageGeneration):
        return Needs(
            kind=Kind.PICTURES,
            formats=formats,
            image_column=parameters.image_column,
            caption_column=parameters.caption_column,
            captions_optional=captions_optional,
            min_examples=min_examples,
            max_examples=max_examples,
        )
    if isinstance(parameters, ImageEditing | MultiImageEditing):
        columns = (
            [parameters.control_image_column]
            if isinstance(parameters, ImageEditing)
            else parameters.control_image_columns
        )
        return Needs(
            kind=Kind.PAIRS,
            formats=formats,
            image_column=parameters.image_column,
            caption_column=parameters.caption_column,
            control_column=columns[0],
            min_examples=min_examples,
            max_examples=max_examples,
        )
    if recipe.kind == "voice":
        return Needs(
            kind=Kind.RECORDINGS,
            formats=formats,
            max_file_bytes=4 * MAX_FILE_BYTES,
            min_examples=min_examples,
            max_examples=max_examples,
        )
    raise ValueError(f"a dataset of recipe {recipe.kind} goes to a provider as it is")
