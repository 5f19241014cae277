"""How large pictures become: areas in pixels, sides in the multiples that a model can take."""

import math
from dataclasses import dataclass

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Areas:
    """Areas in pixels. target: pictures to learn; control: images to edit; condition: what the text encoder sees.

    Without an area of its own the text encoder sees images to edit as large as the autoencoder does.
    """

    target: int
    control: int
    condition: int | None = None

    @property
    def seen(self) -> int:
        """What the text encoder sees."""
        return self.condition or self.control


def fitted(size: Size, area: int, multiple: int) -> Size:
    """The size of about this area with the same aspect ratio, sides rounded to multiples (at least one).

    The formula of diffusers' Qwen-Image-Edit pipelines, which round to 32.
    """
    ratio = size[0] / size[1]
    width = math.sqrt(area * ratio)
    height = width / ratio
    return max(multiple, round(width / multiple) * multiple), max(multiple, round(height / multiple) * multiple)
