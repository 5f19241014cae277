"""A folder of images as rows, each with a caption in a .txt file of the same name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_operator.formats.layout import caption_of
from finetune_operator.formats.tables import BadRow
from finetune_trainer.data.columns import LocatedRow
from finetune_trainer.data.images import ImageError
from finetune_trainer.data.needs import Needs
from finetune_trainer.data.places import Files
from finetune_trainer.errors import DataError

MAX_CAPTION_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Caption:
    """A caption in a file of the dataset."""

    name: str

    def read(self, files: Files) -> str:
        """The caption, without surrounding whitespace. Raises ImageError that names the file."""
        raw = files.read(self.name, MAX_CAPTION_BYTES)
        try:
            text = raw.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise ImageError(f"the caption {self.name} is not UTF-8 (save it as UTF-8)") from None
        if not text:
            raise ImageError(f"the caption {self.name} is empty")
        return text


def rows_of_pictures(pictures: Sequence[tuple[str, str | None]], needs: Needs) -> Iterator[LocatedRow | BadRow]:
    """A row for each image. Raises DataError if the recipe needs more than an image and a caption."""
    if len(needs.text) != 1 or len(needs.images) != 1 or needs.values:
        raise DataError(
            f"the dataset contains images but no table; this recipe needs one with the columns "
            f"{', '.join(map(repr, needs.columns))}"
        )
    return (_row(picture, caption, needs.images[0], needs.text[0]) for picture, caption in pictures)


def _row(picture: str, caption: str | None, image: str, text: str) -> LocatedRow | BadRow:
    if caption is None:
        return BadRow(f"the image {picture} has no caption: add {caption_of(picture)}, with UTF-8 text")
    return LocatedRow({image: picture, text: Caption(caption)}, {}, "")
