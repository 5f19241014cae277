"""Image sizes: areas in pixels, and sides in multiples that a model accepts."""

import math
from dataclasses import dataclass

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Areas:
    """Areas in pixels.

    target: of images to train on. control: of images to edit. condition: of images for the text encoder; None for that
    of images to edit.
    """

    target: int
    control: int
    condition: int | None = None

    @property
    def conditioning(self) -> int:
        """The area of images for the text encoder."""
        return self.condition or self.control


def fitted(size: Size, area: int, multiple: int) -> Size:
    """The size with about this area and the same aspect ratio; sides are rounded to multiples, at least one.

    The formula is that of diffusers' Qwen-Image-Edit pipelines, which round to multiples of 32.
    """
    ratio = size[0] / size[1]
    width = math.sqrt(area * ratio)
    height = width / ratio
    return max(multiple, round(width / multiple) * multiple), max(multiple, round(height / multiple) * multiple)
