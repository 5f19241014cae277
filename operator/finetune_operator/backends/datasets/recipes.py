"""What a recipe needs of its dataset. Pure."""

from __future__ import annotations

from typing import Final

from finetune_operator.api.recipes import ImageEditing, ImageGeneration, MultiImageEditing, RecipeSpec
from finetune_operator.backends.datasets.needs import MAX_EXAMPLES, MAX_FILE_BYTES, Columns, Kind, Needs

_COLUMN: Final = ("Column", "Columns")
_MAY_BE_EMPTY: Final = ("imageColumns", "controlImageColumns")
"""A row may have fewer pictures than there are columns of them."""


def columns_of(recipe: RecipeSpec) -> Columns:
    """The columns that the recipe names."""
    named = {field: value for field, value in recipe.parameters.wire().items() if field.endswith(_COLUMN)}
    listed = {field: value if isinstance(value, list) else [value] for field, value in named.items()}
    return Columns(
        all=tuple(dict.fromkeys(column for columns in listed.values() for column in columns)),
        filled=tuple(
            dict.fromkeys(
                column for field, columns in listed.items() if field not in _MAY_BE_EMPTY for column in columns
            )
        ),
        chats=tuple(listed.get("messagesColumn", ())),
    )


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
