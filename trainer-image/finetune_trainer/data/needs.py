"""What a recipe needs of its dataset; the checks follow from this and from nothing else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """Columns and limits.

    text: columns whose cells are non-empty text. images: columns whose cells hold images.
    values: columns handed on as JSON values (chat messages). reserved: tokens that no text may contain.
    """

    text: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    image_in_every_column: bool = False
    """False: one image in any of the columns is enough for a row."""
    clips: int = 0
    """How many frames of animated images and videos are wanted; 0 where pictures are."""
    max_aspect: float = 200.0
    max_pixels: int = 64_000_000
    max_clip_pixels: int = 1_000_000_000
    """Of all wanted frames of a clip together; 3 bytes of memory each."""
    max_image_bytes: int = 100 * 2**20

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that must be there, each once."""
        return tuple(dict.fromkeys((*self.text, *self.values, *self.images)))
