"""What a recipe needs of its dataset. Validation depends on this alone."""

from dataclasses import dataclass
from typing import Final

IMAGE_MARK: Final = "<image>"
"""The place of an image in a text, as in the datasets of LLaVA and LLaMA-Factory."""


@dataclass(frozen=True)
class Needs:
    """Columns and limits of a dataset.

    text: columns of non-empty text. images: columns of images. values: columns of JSON values (chat messages).
    optional: columns of JSON values that a row may have. reserved: tokens that no text may contain.
    """

    text: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    """Columns that belong to the same format, but mean nothing to the recipe: a note says so."""
    reserved: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()
    """Columns of text in which `<image>` marks the place of an image."""
    single: tuple[str, ...] = ()
    """Columns with exactly one image in every row."""
    image_in_every_column: bool = False
    """Whether a row needs an image in every column, not only in one of them."""
    clips: int = 0
    """Frames of animated images and videos to read; 0 to read still images only."""
    max_aspect: float = 200.0
    max_pixels: int = 64_000_000
    max_clip_pixels: int = 1_000_000_000
    """Pixels of all frames of a clip, of 3 bytes of memory each."""
    max_image_bytes: int = 100 * 2**20

    @property
    def columns(self) -> tuple[str, ...]:
        """Every required column, once."""
        return tuple(dict.fromkeys((*self.text, *self.values, *self.images)))
